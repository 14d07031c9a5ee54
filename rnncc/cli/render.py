"""Pages: what each command prints for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rnncc.cli import terminal
from rnncc.cli import views as show
from rnncc.errors import shorten
from rnncc.ir.program import Structure
from rnncc.planner.machine import MEASURED

if TYPE_CHECKING:
    from rnncc.analysis.probe import Probe
    from rnncc.bench.calibrate import Calibration
    from rnncc.bench.cpu import Timing
    from rnncc.bench.cuda import GpuTiming
    from rnncc.compiler import CompiledCell
    from rnncc.doctor.finding import Finding
    from rnncc.inspect.catalogue import Facts
    from rnncc.inspect.roofline import Roofline
    from rnncc.planner.devices import Device

LONGEST = 24  # lines of a Jacobian; there is `show` for the rest


def check(compiled: CompiledCell, plan: str | None) -> None:
    """Equations, Jacobian, structure, arguments, cost and, for a shape, the plan."""
    cell = compiled.stages.cell
    terminal.line(f"{cell.name} ({shorten(cell.file)}:{cell.line})")
    terminal.block(cell.doc)
    terminal.heading("Recurrence")
    terminal.block("\n".join(show.equations(cell)))
    terminal.heading("Jacobian")
    terminal.block(_shortened(show.jacobian_text(compiled), cell.name))
    terminal.heading("Structure")
    terminal.block(compiled.structure.proof)
    if compiled.structure.block > 1:
        terminal.block(show.pattern_text(compiled))
    terminal.heading("Arguments")
    terminal.table(("name", "role", "shape", "start"), show.argument_rows(compiled))
    terminal.heading("Cost of one channel and step, float32")
    terminal.table(("pass", "operations", "functions", "reads", "writes"), show.cost_rows(compiled))
    if plan:
        terminal.heading("Plan")
        terminal.block(plan)


def roofline(found: Mapping[str, Roofline], device: Device, dtype: str) -> None:
    """What sets the least time of a shape on a GPU."""
    from rnncc.inspect.roofline import HEADERS, NOTE, rows

    terminal.heading(f"Least time on {device.name}, {dtype}")
    terminal.table(HEADERS, rows(found))
    terminal.block(NOTE)


def _shortened(text: str, name: str) -> str:
    lines = text.splitlines()
    if len(lines) <= LONGEST:
        return text
    more = f"... {len(lines) - LONGEST} more lines: rnncc show {name} --stage jacobian"
    return "\n".join([*lines[:LONGEST], more])


def probe(found: Probe, picture: Path | None) -> None:
    """Sweeps, exponents, the verdict, and where the picture lies."""
    params = "as the cell starts them"
    if found.weights is not None:
        params = f"uniform in [-{found.weights:g}, {found.weights:g}]"
    terminal.heading(f"Probe of {found.steps} steps and {found.channels} channels, float64")
    terminal.block(f"inputs: as is typical of the cell; params: {params}; seed {found.seed}")
    terminal.heading(f"Sweeps until neighbours agree to {found.tolerance:g}")
    terminal.table(("segments", "of steps", "sweeps", ""), _sweep_rows(found))
    terminal.heading("Largest Lyapunov exponent per step")
    terminal.block(f"{found.exponent:.3g} at most, {found.median:.3g} in the median channel")
    terminal.block(f"{found.held_exponent:.3g} at most with the inputs held at their means")
    terminal.heading("Verdict")
    terminal.block(f"{found.verdict}: {found.reason}.")
    terminal.block(f"auto takes {found.solver} ({found.why}).")
    if picture is not None:
        terminal.line(f"\n{picture}: written.")


def _sweep_rows(found: Probe) -> list[show.Row]:
    rows = [
        (str(cut.segments), str(cut.segment), str(cut.sweeps), _rest(cut.sequential_from))
        for cut in found.sweeps
    ]
    early = f"Newton over all steps; after {found.newton.early} iterations off by"
    note = f"{early} {found.newton.error:.2g}"
    return [*rows, (str(found.steps), "1", str(found.newton), note)]


def _rest(step: int | None) -> str:
    return "" if step is None else f"and one pass from step {step} on"


def resources(title: str, found: list[dict[str, Any]]) -> None:
    """A row for each kernel."""
    from rnncc.inspect.resources import COLUMNS, HEADERS, NOTE, rows

    terminal.line(title)
    terminal.line()
    terminal.table((*HEADERS, *COLUMNS), rows(found))
    terminal.line(f"\n{NOTE}")


# --- compile ---------------------------------------------------------------------------------


def compiled_cells(results: Sequence[Mapping[str, Any]]) -> None:
    """A row for each cell that was written."""
    headers = ("cell", "written to", "structure", "lines", "time")
    terminal.table(headers, [_compiled_row(result) for result in results])


def _compiled_row(result: Mapping[str, Any]) -> show.Row:
    words = show.structure_words(Structure(**result["structure"], proof=""))
    time = f"{result['seconds']:.2f} s"
    if "kernel" in result:
        how = "kernel from the cache" if result["cached"] else "kernel built"
        time += f", {how} in {result['build_seconds']:.2f} s"
    lines = str(sum(result["files"].values()))
    return result["name"], result["folder"], ", ".join(words), lines, time


def import_line(result: Mapping[str, Any]) -> str:
    """The Python line that uses a compiled cell, from the working directory if it can."""
    parts = Path(result["folder"]).parts
    package = ".".join(parts) if all(p.isidentifier() for p in parts) else result["name"]
    return f"from {package} import {result['class']}, {result['name']}"


# --- show and list ---------------------------------------------------------------------------


def overview(compiled: CompiledCell, path: str) -> None:
    """What a cell is, and how to use it; `path` is how the command line named it."""
    cell = compiled.stages.cell
    terminal.line(f"{cell.name} ({shorten(cell.file)}:{cell.line})")
    terminal.block(cell.doc)
    terminal.heading("Recurrence")
    terminal.block("\n".join(show.equations(cell)))
    terminal.heading("Structure")
    terminal.block(", ".join(show.structure_words(compiled.structure)))
    if compiled.structure.block > 1:
        terminal.block(show.pattern_text(compiled))
    terminal.heading("Arguments")
    terminal.table(("name", "role", "shape", "start"), show.argument_rows(compiled))
    terminal.heading("Use")
    terminal.block("\n".join([f"rnncc compile {path}", *show.use(compiled)]))
    terminal.line(f"\nMore: rnncc check {path}, rnncc show {path} --stage latex")


def shipped_cells(cells: Sequence[Facts]) -> None:
    """A row for each cell that ships."""
    headers = ("cell", "states", "structure", "kind", "field", "what", "source")
    terminal.table(headers, [_shipped_row(cell) for cell in cells])


def _shipped_row(cell: Facts) -> show.Row:
    structure, _, *kind = show.structure_words(cell.structure)
    lists = ", ".join(cell.states), structure, ", ".join(kind), ", ".join(cell.fields)
    return cell.name, *lists, cell.what, cell.source


def nothing_found(cells: Sequence[Facts]) -> None:
    """That no cell fits, and what can be asked for."""
    fields = sorted({field for cell in cells for field in cell.fields})
    counts = sorted({str(len(cell.states)) for cell in cells})
    terminal.line(
        "No cell that ships fits all of that.\n"
        f"Filters: words, --states {' | '.join(counts)}, --affine | --nonlinear, --spiking, "
        f"--smooth, --field.\nFields: {', '.join(fields)}."
    )


# --- bench -----------------------------------------------------------------------------------


def timings(title: str, found: Sequence[Timing]) -> None:
    """A row for each shape and pass; milliseconds."""
    terminal.line(f"{title}; milliseconds, medians of runs in turns")
    terminal.line()
    against = any(timing.compiled is not None for timing in found)
    rivals = ("torch.compile", "ratio") if against else ()
    solvers = list(dict.fromkeys(name for timing in found for name in timing.solvers))
    headers = ("shape", "pass", "solver", "rnncc", "plain loop", "ratio", *rivals, *solvers)
    rows = [_timing_row(timing, solvers) for timing in found]
    terminal.table((*headers, "copy", "rnncc / copy"), rows)


def _timing_row(timing: Timing, solvers: Sequence[str]) -> show.Row:
    rivals: show.Row = ()
    if timing.compiled is not None:
        rivals = (_ms(timing.compiled), f"{timing.compiled / timing.fused:.1f}x")
    return (
        "x".join(map(str, timing.shape)),
        timing.direction,
        timing.chosen,
        _ms(timing.fused),
        _ms(timing.loop),
        f"{timing.ratio:.1f}x",
        *rivals,
        *(_ms(timing.solvers[s]) if s in timing.solvers else "fails" for s in solvers),
        _ms(timing.copy),
        f"{timing.fused / timing.copy:.1f}",
    )


def gpu_timings(title: str, found: Sequence[GpuTiming]) -> None:
    """The same of a GPU, then what was left out and why."""
    terminal.line(f"{title}; milliseconds by the GPU's clock, medians")
    terminal.line()
    names = list(dict.fromkeys(name for t in found for name in (*t.rivals, *t.skipped)))
    solvers = list(dict.fromkeys(name for timing in found for name in timing.solvers))
    headers = ("shape", "pass", "solver", "rnncc", "in Python", "GB/s", "copy", "rnncc / copy")
    rows = [_gpu_row(timing, names, solvers) for timing in found]
    terminal.table((*headers, *names, *solvers), rows)
    terminal.line()
    terminal.line("In Python: until the call has launched its kernels, and returns.")
    terminal.line("In brackets: how many times as long as rnncc.")
    if any(name.startswith("nn.") for timing in found for name in timing.rivals):
        terminal.line("nn.GRU, nn.LSTM: whole layers, as many features as channels, by cuDNN.")
    if any("accelerated-scan" in timing.rivals for timing in found):
        terminal.line("accelerated-scan: of gates and values, given as [B, N, T]; only the scan.")
    for note in dict.fromkeys(_notes(found)):
        terminal.line(note)


def _gpu_row(timing: GpuTiming, names: Sequence[str], solvers: Sequence[str]) -> show.Row:
    return (
        "x".join(map(str, timing.shape)),
        timing.direction,
        timing.solver,
        _ms(timing.fused.device),
        _ms(timing.fused.python),
        f"{timing.speed / 1e9:.3g}",
        _ms(timing.copy),
        f"{timing.fused.device / timing.copy:.1f}",
        *(_against(timing, name) for name in names),
        *(_ms(timing.solvers[name]) if name in timing.solvers else "-" for name in solvers),
    )


def _against(timing: GpuTiming, name: str) -> str:
    if name not in timing.rivals:
        return "-"
    ratio = timing.rivals[name] / timing.fused.device
    return f"{_ms(timing.rivals[name])} ({ratio:.1f}x)"


def _notes(found: Sequence[GpuTiming]) -> Iterator[str]:
    """Why a rival was left out, and where, unless the reason is the same in several places."""
    for timing in found:
        where = f"{'x'.join(map(str, timing.shape))} {timing.direction}"
        for name, reason in timing.skipped.items():
            alike = sum(t.skipped.get(name) == reason for t in found)
            yield f"{name}{'' if alike > 1 else f', {where}'}: {reason.rstrip('.')}."


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}"


# --- doctor ----------------------------------------------------------------------------------


def findings(found: Sequence[Finding], healthy: bool) -> None:
    """What was found, then what to do."""
    terminal.table(("", "state", "found"), [(f.topic, f.state, f.seen) for f in found])
    terminal.line()
    for finding in found:
        if finding.fix:
            terminal.line(f"{finding.topic}: {finding.fix}")
    terminal.line("Kernels can be built and run here." if healthy else "No kernel can run here.")


def calibration(found: Calibration, file: Path) -> None:
    """The constants, beside those measured for the project."""
    rows = [
        (name, f"{value:.3g}", f"{getattr(MEASURED, name):.3g}")
        for name, value in vars(found.machine).items()
    ]
    terminal.table(("nanoseconds of", "here", "shipped"), rows)
    terminal.line(
        f"\nMedian error of the model: {found.error:.0%} over {found.samples} times.\n"
        f"{file}: written; the planner reads it from the next process on."
    )
