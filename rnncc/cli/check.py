"""Check: a cell -> equations, Jacobian, structure, cost; for a shape its plan; a probe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from rnncc.cli import options, render, terminal
from rnncc.cli.load import load
from rnncc.cli.options import Constants, Shape
from rnncc.errors import shorten
from rnncc.lang.docstring import source_of

if TYPE_CHECKING:
    from rnncc.analysis.probe import Probe
    from rnncc.calculus.cost import Cost, Pass
    from rnncc.compiler import CompiledCell
    from rnncc.inspect.roofline import Roofline
    from rnncc.ir.program import Let
    from rnncc.planner.devices import Device

    Estimate = tuple[dict[str, Roofline], Device]

LONGEST = 24  # lines of a Jacobian; `show` prints all
OF_THE_PROBE = ("weights", "seed", "steps", "channels")


def _png(_: Any, __: Any, value: str | None) -> Path | None:
    if value is not None and not value.endswith(".png"):
        raise click.BadParameter(f"got {value!r}, expected a name that ends in .png")
    return None if value is None else Path(value)


def _probe_option(
    name: str, least: int, default: int, text: str
) -> Callable[[options.Command], options.Command]:
    kind = click.IntRange(min=least)
    return click.option(name, metavar="N", type=kind, default=default, show_default=True, help=text)


@click.command(
    epilog="""\b
Examples:
  rnncc check cells/para_gru.py
  rnncc check lif --set slope=10 --shape 8x2048x256 --json
  rnncc check lstm --shape 8x2048x4096 --device H100 --dtype bfloat16
  rnncc check my_cell.py --probe --weights 3 --plot my_cell.png"""
)
@click.argument("path")
@options.constants
@options.shape("Also say how a call of this shape runs.")
@click.option(
    "--device", metavar="GPU", help="Also estimate that shape's least time on an H100, ..."
)
@options.dtype("The dtype of that estimate.")
@click.option(
    "--probe", is_flag=True, help="Also run it on random inputs, to see how hard it is to solve."
)
@click.option(
    "--plot",
    metavar="FILE.png",
    callback=_png,
    help="Probe it, and draw how it converges and the Jacobian's pattern.",
)
@click.option("--weights", metavar="A", type=float, help="Probe with params from U(-A, A).")
@_probe_option("--seed", 0, 0, "The seed of the probe's random numbers.")
@_probe_option("--steps", 1, 1024, "The steps of the probe.")
@_probe_option("--channels", 1, 64, "The channels of the probe.")
@options.common
@click.pass_context
def check(
    ctx: click.Context,
    /,
    path: str,
    constants: Constants,
    shape: Shape | None,
    device: str | None,
    dtype: str,
    probe: bool,
    plot: Path | None,
    json: bool,
    **chosen: Any,
) -> None:
    """Show how rnncc compiles a cell.

    Prints its equations, Jacobian, structure with the proof, arguments and cost. Exits with 1 if
    the cell can't be compiled, and says why.
    """
    probe = probe or plot is not None
    _refuse_options_alone(ctx, probe, shape)
    compiled = load(path, constants)
    plan = compiled.explain(*shape, dtype, device or "cpu") if shape else None
    roof = _roofline(compiled, shape, dtype, device) if shape and device else None
    found = _probe(compiled, plot, chosen, wanted=not json) if probe else None
    if json:
        terminal.as_json({**report(compiled), "plan": plan, **_extras(roof, dtype, found, plot)})
        return
    _print_cell(compiled, plan)
    if roof:
        _print_roofline(*roof, dtype)
    if found:
        _print_probe(found, plot)
    terminal.line(f"\nNext: rnncc compile {path}")


def _refuse_options_alone(ctx: click.Context, probe: bool, shape: Shape | None) -> None:
    """Refuse options of a probe or of a shape where there is none."""

    def given(name: str) -> bool:
        return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE

    for name in OF_THE_PROBE:
        if given(name) and not probe:
            raise click.UsageError(f"--{name} is an option of the probe: give --probe too")
    if given("device") and shape is None:
        raise click.UsageError("--device needs a shape: give --shape too, such as 8x2048x256")
    if given("dtype") and shape is None:
        raise click.UsageError("--dtype is that of a shape: give --shape too, such as 8x2048x256")


def _roofline(compiled: CompiledCell, shape: Shape, dtype: str, device: str) -> Estimate:
    """The least time of the shape on a named GPU, by its datasheet."""
    from rnncc.inspect.roofline import estimate
    from rnncc.planner.devices import find_device

    gpu, spec = find_device(device), compiled.spec
    return estimate(compiled.stages, spec, shape, dtype, gpu, spec.ahead), gpu


def _probe(
    compiled: CompiledCell, picture: Path | None, chosen: Mapping[str, Any], wanted: bool
) -> Probe:
    """Run the probe, and draw it where a picture is asked for."""
    from rnncc.analysis import plot
    from rnncc.analysis.probe import draw, probe
    from rnncc.analysis.sweeps import curves

    if picture is not None:
        plot.need_matplotlib()
    with terminal.progress(f"probing {compiled.name}", wanted) as progress:

        def say(text: str) -> None:
            progress.say(f"probing {compiled.name}: {text}")

        found = probe(compiled, **chosen, say=say)
        if picture is not None:
            followed = curves(compiled, draw(compiled, **chosen), say)
            plot.plot(found, followed, compiled, picture)
    return found


# --- for people ------------------------------------------------------------------------------


def _print_cell(compiled: CompiledCell, plan: str | None) -> None:
    cell = compiled.stages.cell
    terminal.line(f"{cell.name} ({shorten(cell.file)}:{cell.line})")
    terminal.block(cell.doc)
    terminal.heading("Recurrence")
    terminal.block("\n".join(render.equations(cell)))
    terminal.heading("Jacobian")
    terminal.block(_shortened(render.jacobian_text(compiled), cell.name))
    terminal.heading("Structure")
    terminal.block(compiled.structure.proof)
    if compiled.structure.block > 1:
        terminal.block(render.pattern_text(compiled))
    terminal.heading("Arguments")
    terminal.table(render.ARGUMENT_HEADERS, render.argument_rows(compiled))
    terminal.heading("Cost of one channel and step, float32")
    terminal.table(("pass", "operations", "functions", "reads", "writes"), _cost_rows(compiled))
    if plan:
        terminal.heading("Plan")
        terminal.block(plan)


def _shortened(text: str, name: str) -> str:
    lines = text.splitlines()
    if len(lines) <= LONGEST:
        return text
    more = f"... {len(lines) - LONGEST} more lines: rnncc show {name} --stage jacobian"
    return "\n".join([*lines[:LONGEST], more])


def _cost_rows(compiled: CompiledCell) -> list[render.Row]:
    found = cost_of(compiled)
    return [_cost_row("forward", found.forward), _cost_row("backward", found.backward)]


def _cost_row(name: str, cost: Pass) -> render.Row:
    functions = ", ".join(f"{count:g} {f}" for f, count in cost.functions.items()) or "none"
    return name, f"{cost.operations:g}", functions, _bytes(cost.reads), _bytes(cost.writes)


def _bytes(tensors: dict[str, float]) -> str:
    return f"{sum(tensors.values()):g} B ({'; '.join(tensors) or 'nothing'})"


def _print_roofline(found: Mapping[str, Roofline], device: Device, dtype: str) -> None:
    """The bound that sets the least time of a shape on a GPU."""
    from rnncc.inspect.roofline import HEADERS, NOTE, rows

    terminal.heading(f"Least time on {device.name}, {dtype}")
    terminal.table(HEADERS, rows(found))
    terminal.block(NOTE)


def _print_probe(found: Probe, picture: Path | None) -> None:
    """Sweeps, exponents, the verdict, and where the picture lies."""
    params = "their init"
    if found.weights is not None:
        params = f"uniform in [-{found.weights:g}, {found.weights:g}]"
    terminal.heading(f"Probe of {found.steps} steps and {found.channels} channels, float64")
    terminal.block(f"inputs: typical of the cell; params: {params}; seed {found.seed}")
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


def _sweep_rows(found: Probe) -> list[render.Row]:
    rows = [
        (str(cut.segments), str(cut.segment), str(cut.sweeps), _rest(cut.sequential_from))
        for cut in found.sweeps
    ]
    early = f"Newton over all steps; after {found.newton.early} iterations off by"
    note = f"{early} {found.newton.error:.2g}"
    return [*rows, (str(found.steps), "1", str(found.newton), note)]


def _rest(step: int | None) -> str:
    return "" if step is None else f"and one pass from step {step} on"


# --- for machines ----------------------------------------------------------------------------


def report(compiled: CompiledCell) -> dict[str, Any]:
    """The output of `rnncc check` as data; expressions are text."""
    cell, jacobian = compiled.stages.cell, compiled.stages.jacobian
    found = cost_of(compiled)
    return {
        "name": cell.name,
        "file": cell.file,
        "line": cell.line,
        "doc": cell.doc,
        "source": source_of(cell.doc),
        "recurrence": {
            "lets": [_let(let) for let in cell.lets],
            "next": {name: str(expr) for name, expr in cell.next.items()},
            "outputs": {name: str(expr) for name, expr in cell.outputs.items()},
        },
        "jacobian": {
            "states": list(jacobian.states),
            "lets": [_let(let) for let in jacobian.lets],
            "entries": [[str(entry) for entry in row] for row in jacobian.entries],
        },
        "structure": {**compiled.structure.summary(), "proof": compiled.structure.proof},
        "arguments": render.argument_data(compiled),
        "constants": dict(cell.constants),
        "cost": {"per": "channel and step", "dtype": "float32"}
        | {name: vars(cost) for name, cost in vars(found).items()},
    }


def _extras(
    roof: Estimate | None, dtype: str, found: Probe | None, picture: Path | None
) -> dict[str, Any]:
    """The estimate and the probe, each only where it was asked for."""
    from rnncc.inspect.roofline import summary

    estimate = {"roofline": summary(*roof) | {"dtype": dtype}} if roof else {}
    probed = {"probe": found.data(), "plot": picture and str(picture)} if found else {}
    return estimate | probed


def _let(let: Let) -> dict[str, Any]:
    return {"name": let.name, "expr": str(let.expr), "note": let.note, "line": let.line}


def cost_of(compiled: CompiledCell) -> Cost:
    """The cost of a step, forward and backward; for one channel in float32."""
    from rnncc.calculus.cost import cost
    from rnncc.planner.cpu import plan

    spec = compiled.spec
    every = plan(spec, (1, 1, spec.group), itemsize=4, threads=1).checkpoint
    return cost(compiled.stages, spec, every)
