"""The command line. Heavy imports stand inside the commands, so that help and `new` are quick."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from rnncc import __version__
from rnncc.cli import options, terminal
from rnncc.cli.options import Shape
from rnncc.cli.views import STAGES as OF_THE_CELL
from rnncc.errors import BuildError, LoadError, RnnccError

if TYPE_CHECKING:
    from rnncc.analysis.probe import Probe
    from rnncc.compiler import CompiledCell
    from rnncc.inspect.roofline import Roofline
    from rnncc.lang.dsl import Cell
    from rnncc.planner.devices import Device

    Estimate = tuple[dict[str, Roofline], Device]

Constants = dict[str, float]

TARGETS = ("cpp", "cuda")
STAGES = OF_THE_CELL | {
    "latex": "the equations for a paper",  # of latex.py, from the cell itself
    # of assembly.py, which needs CuPy
    "ptx": "the CUDA kernels in PTX, for --arch and --dtype; needs no GPU",
    "sass": "the same in the GPU's own instructions",
    "resources": "their registers, spills, occupancy and instructions per step",
}
BENCH_SHAPES: dict[str, list[Shape]] = {
    "cpu": [(8, 512, 256), (1, 4096, 64)],
    "cuda": [(8, 2048, 4096), (8, 2048, 256), (1, 65536, 64)],
}


@click.group(
    cls=terminal.Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
PATH is a file, file.py:name where a file holds several cells, or a shipped cell's name.
Exit codes: 0 done, 1 the cell or input is at fault, 2 wrong usage, 3 the environment.

\b
Examples:
  rnncc list                     the cells that ship
  rnncc new my_cell              a cell to start from: my_cell.py
  rnncc check my_cell.py         what rnncc makes of it
  rnncc compile my_cell.py       the layer: generated/my_cell/""",
)
@click.version_option(__version__, prog_name="rnncc", message="%(prog)s %(version)s")
@options.traceback
def main() -> None:
    """Compile recurrent cells to fused PyTorch layers."""


def load(path: str, constants: Mapping[str, float], fast_math: bool = False) -> CompiledCell:
    """Find and compile; what the cell's own file prints goes to stderr, away from the results."""
    from rnncc.compiler import CompiledCell

    with contextlib.redirect_stdout(sys.stderr):
        return CompiledCell(read(path), constants, fast_math)


def read(path: str) -> Cell:
    """The cell that a PATH names, its file run in the same way."""
    from rnncc.lang.loader import find

    with contextlib.redirect_stdout(sys.stderr):
        return find(path)


# --- check -----------------------------------------------------------------------------------


def _png(_: Any, __: Any, value: str | None) -> Path | None:
    if value is not None and not value.endswith(".png"):
        raise click.BadParameter(f"got {value!r}, expected a name that ends in .png")
    return None if value is None else Path(value)


def _of_probe(
    name: str, least: int, default: int, text: str
) -> Callable[[options.Command], options.Command]:
    kind = click.IntRange(min=least)
    return click.option(name, metavar="N", type=kind, default=default, show_default=True, help=text)


@main.command(
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
@options.dtype("Of that estimate.")
@click.option("--probe", is_flag=True, help="Also run it on random inputs: is it hard to solve?")
@click.option(
    "--plot",
    metavar="FILE.png",
    callback=_png,
    help="Probe it, and draw how it converges and the Jacobian's pattern.",
)
@click.option("--weights", metavar="A", type=float, help="Probe with params from U(-A, A).")
@_of_probe("--seed", 0, 0, "Of the probe's random numbers.")
@_of_probe("--steps", 1, 1024, "Of the probe.")
@_of_probe("--channels", 1, 64, "Of the probe.")
@options.common
@click.pass_context
def check(
    ctx: click.Context,
    path: str,
    constants: Constants,
    shape: Shape | None,
    device: str | None,
    dtype: str,
    probe: bool,
    plot: Path | None,
    weights: float | None,
    seed: int,
    steps: int,
    channels: int,
    json: bool,
) -> None:
    """Show what rnncc makes of a cell.

    Its equations, Jacobian, structure with the proof, arguments and cost. Exits with 1 if the cell
    can't be compiled, and says why.
    """
    from rnncc.cli import render as pages
    from rnncc.cli import views as show
    from rnncc.inspect.roofline import summary

    probe = probe or plot is not None
    for name in ("weights", "seed", "steps", "channels"):
        given = ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if given and not probe:
            raise click.UsageError(f"--{name} is an option of the probe: give --probe too")
    if device is not None and shape is None:
        raise click.UsageError("--device needs a shape: give --shape too, such as 8x2048x256")
    if ctx.get_parameter_source("dtype") is ParameterSource.COMMANDLINE and shape is None:
        raise click.UsageError("--dtype is that of a shape: give --shape too, such as 8x2048x256")
    compiled = load(path, constants)
    plan = compiled.explain(*shape, dtype, device or "cpu") if shape else None
    roof = _roofline(compiled, shape, dtype, device) if shape and device else None
    chosen = {"steps": steps, "channels": channels, "weights": weights, "seed": seed}
    found = _probe(compiled, plot, chosen, wanted=not json) if probe else None
    if json:
        probed = {"probe": found.data(), "plot": plot and str(plot)} if found else {}
        estimate = {"roofline": summary(*roof) | {"dtype": dtype}} if roof else {}
        terminal.as_json({**show.report(compiled), "plan": plan, **estimate, **probed})
        return
    pages.check(compiled, plan)
    if roof:
        pages.roofline(*roof, dtype)
    if found:
        pages.probe(found, plot)
    terminal.line(f"\nNext: rnncc compile {path}")


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
    from rnncc.analysis.probe import curves, draw, probe

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


# --- compile ---------------------------------------------------------------------------------


@main.command(
    epilog="""\b
Examples:
  rnncc compile cells/para_gru.py             -> generated/para_gru/
  rnncc compile lif --set slope=10 --out my_layers
  rnncc compile --all --build                 every shipped cell, kernels built right away"""
)
@click.argument("paths", nargs=-1, metavar="PATH...")
@click.option("--all", "everything", is_flag=True, help="All cells that ship.")
@click.option("--out", default="generated", show_default=True, help="The folder to write into.")
@click.option(
    "--target",
    type=click.Choice(TARGETS),
    default="cpp",
    show_default=True,
    help="What --build builds; both sources are written in any case.",
)
@options.fast_math
@options.constants
@click.option("--build/--no-build", help="Also build the float32 kernel, into the cache.")
@options.common
def compile(
    paths: tuple[str, ...],
    everything: bool,
    out: str,
    target: str,
    fast_math: bool,
    constants: Constants,
    build: bool,
    json: bool,
) -> None:
    """Compile cells to packages, OUT/NAME/ each.

    A cell that can't be compiled leaves what was there before as it was; the others are written.
    """
    from rnncc.cli import render as pages

    if everything == bool(paths):
        raise click.UsageError("give one or several PATHs, or --all for all cells that ship")
    paths = _all_shipped() if everything else paths
    written: dict[str, dict[str, Any]] = {}
    errors: list[Exception] = []
    with terminal.progress("compiling", wanted=not json and len(paths) > 1) as progress:
        for count, path in enumerate(paths):
            progress.say(f"compiling {Path(path).stem} ({count + 1} of {len(paths)})")
            try:
                compiled = _compile_one(path, Path(out), constants, fast_math, written)
                if build:
                    written[compiled.name] |= _build(compiled, target)
            except (RnnccError, OSError) as error:
                errors.append(error)
    results = list(written.values())
    if results and not json:
        pages.compiled_cells(results)
    if errors:
        raise terminal.SeveralError(errors, {"cells": results})
    if json:
        terminal.as_json({"cells": results})
    else:
        terminal.line(f"\nNext: {pages.import_line(results[0])}")


def _all_shipped() -> tuple[str, ...]:
    from rnncc.lang.loader import shipped

    return tuple(str(path) for path in shipped())


def _compile_one(
    path: str,
    out: Path,
    constants: Mapping[str, float],
    fast_math: bool,
    written: dict[str, dict[str, Any]],
) -> CompiledCell:
    """Compile into OUT/NAME and note in `written` what came of it."""
    from rnncc.codegen.emit import class_name
    from rnncc.codegen.writer import write

    start = time.perf_counter()
    compiled = load(path, constants, fast_math)
    name, folder = compiled.name, out / compiled.name
    if name in written:
        raise LoadError(
            f"{path}: a second cell called '{name}'; both would be written to {folder}.\n"
            "Fix: rename one, or compile it with another --out"
        )
    write(compiled.files, folder)
    written[name] = {
        "name": name,
        "class": class_name(name),
        "folder": str(folder),
        "files": {file: text.count("\n") for file, text in compiled.files.items()},
        "structure": compiled.structure.summary(),
        "seconds": round(time.perf_counter() - start, 3),
    }
    return compiled


def _build(compiled: CompiledCell, target: str) -> dict[str, Any]:
    """Build the float32 kernel, or find it in the cache."""
    start = time.perf_counter()
    if target == "cuda":
        found = _build_cuda(compiled)
    else:
        from rnncc.runtime.cpu.build import library_path, load

        source = compiled.source("cpp")
        library = library_path(compiled.name, source, "float32")
        found = {"kernel": str(library), "cached": library.exists()}
        load(compiled.name, source, "float32")
    return found | {"build_seconds": round(time.perf_counter() - start, 3)}


def _build_cuda(compiled: CompiledCell) -> dict[str, Any]:
    """Compiled by NVRTC and loaded on the current GPU; CuPy keeps the cache."""
    import torch

    from rnncc.runtime.backend import backend_of

    if not torch.cuda.is_available():
        raise BuildError(
            "--target cuda: PyTorch finds no CUDA GPU here to build for.\n"
            "Fix: rnncc doctor says what is missing; rnncc show NAME --stage resources compiles "
            "without one"
        )
    gpu = torch.device("cuda")
    backend_of(gpu).warmup(compiled.kernel, torch.float32, gpu)
    return {"kernel": torch.cuda.get_device_name(), "cached": False}


# --- show, list, new -------------------------------------------------------------------------


@main.command(
    epilog="""\b
Examples:
  rnncc show para_gru
  rnncc show cells/lstm.py --stage adjoint
  rnncc show para_gru --stage cpp | less
  rnncc show para_gru --stage resources --arch sm_80 --dtype bfloat16

\b
Stages:
"""
    + "\n".join(f"  {name:<10}  {text}" for name, text in STAGES.items())
)
@click.argument("path")
@click.option("--stage", type=click.Choice(list(STAGES)), help="One stage in place of the summary.")
@click.option("--arch", default="sm_90", show_default=True, help="Of the GPU: sm_80 is an A100.")
@options.dtype("Of the tensors.")
@options.fast_math
@options.constants
@options.common
@click.pass_context
def show(
    ctx: click.Context,
    path: str,
    stage: str | None,
    arch: str,
    dtype: str,
    fast_math: bool,
    constants: Constants,
    json: bool,
) -> None:
    """Say what a cell is and how to use it.

    With --stage, show one stage from equations to code, or what a GPU makes of it.
    """
    if stage is None or stage in (*OF_THE_CELL, "latex"):
        for name in ("arch", "dtype"):
            if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                raise click.UsageError(f"--{name} is for --stage ptx, sass and resources")
    if fast_math and stage not in ("cuda", "ptx", "sass", "resources"):
        raise click.UsageError("--fast-math is for --stage cuda, ptx, sass and resources")
    if stage is None:
        _show_summary(load(path, constants), path, json)
        return
    if stage == "resources":
        compiled, of = load(path, constants, fast_math), {"arch": arch, "dtype": dtype}
        _show_resources(compiled, {"name": compiled.name, "stage": stage, **of}, json)
        return
    about, text = _stage(path, stage, constants, fast_math, {"arch": arch, "dtype": dtype})
    if json:
        terminal.as_json({**about, "text": text})
    else:
        terminal.code(text, LANGUAGES.get(stage, "python"))


def _stage(
    path: str, stage: str, constants: Constants, fast_math: bool, of: dict[str, str]
) -> tuple[dict[str, str], str]:
    """What `--json` says of a stage, and its text."""
    if stage == "latex":
        from rnncc.export.latex import latex
        from rnncc.export.symbolic_constants import lettered

        cell = read(path)
        with contextlib.redirect_stdout(sys.stderr):
            return {"name": cell.name, "stage": stage}, latex(lettered(cell, constants))
    compiled = load(path, constants, fast_math)
    about = {"name": compiled.name, "stage": stage}
    if stage in OF_THE_CELL:
        from rnncc.cli.views import stage_text

        return about, stage_text(compiled, stage)
    from rnncc.inspect import binary as assembly

    return about | of, assembly.text(compiled, stage, of["dtype"], of["arch"])


LANGUAGES = {"latex": "latex", "cpp": "cpp", "cuda": "cuda", "ptx": "ptx", "sass": "text"}


def _show_summary(compiled: CompiledCell, path: str, json: bool) -> None:
    from rnncc.cli import render as pages
    from rnncc.cli.views import overview

    if json:
        terminal.as_json(overview(compiled))
    else:
        pages.overview(compiled, path)


def _show_resources(compiled: CompiledCell, about: dict[str, Any], json: bool) -> None:
    from rnncc.cli import render as pages
    from rnncc.inspect import binary as assembly

    with terminal.progress(f"compiling {compiled.name} for {about['arch']}", wanted=not json):
        found = assembly.inspect(compiled, about["dtype"], about["arch"])
    if json:
        terminal.as_json(about | {"kernels": found})
    else:
        pages.resources(f"{compiled.name}, {about['dtype']}, {about['arch']}", found)


@main.command(
    name="list",
    epilog="""\b
Examples:
  rnncc list
  rnncc list --affine --states 2
  rnncc list --field neuroscience --spiking reset
  rnncc list --json | jq '.cells[].name'""",
)
@click.argument("words", nargs=-1, metavar="[WORD...]")
@click.option("--states", metavar="N", type=click.IntRange(1), help="With so many states.")
@click.option("--affine/--nonlinear", default=None, help="Affine in the state, or not.")
@click.option("--spiking", is_flag=True, help="With a spike.")
@click.option("--smooth", is_flag=True, help="Without kinks, jumps and choices.")
@click.option("--field", metavar="TEXT", help="Of a field, or of one whose name has TEXT in it.")
@options.common
def list_(
    words: tuple[str, ...],
    states: int | None,
    affine: bool | None,
    spiking: bool,
    smooth: bool,
    field: str | None,
    json: bool,
) -> None:
    """List the cells that ship.

    With WORDs, those that have all of them in their name or description; with options, those that
    fit all options.
    """
    from rnncc.cli import render as pages
    from rnncc.inspect.catalogue import facts, select

    cells = facts()
    found = select(cells, words, states, affine, spiking, smooth, field)
    if json:
        terminal.as_json({"cells": [cell.data() for cell in found]})
    elif found:
        pages.shipped_cells(found)
    else:
        pages.nothing_found(cells)


@main.command(
    epilog="""\b
Examples:
  rnncc new my_cell
  rnncc new my_cell --like para_gru
  rnncc new my_cell --like other.py:its_cell --dir cells"""
)
@click.argument("name")
@click.option("--like", metavar="PATH", help="Start from this cell: a file, or one that ships.")
@click.option("--dir", "folder", default=".", show_default=True, help="Where to write it.")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@options.common
def new(name: str, like: str | None, folder: str, force: bool, json: bool) -> None:
    """Write NAME.py, a cell to start from.

    It is commented and compiles as it is. With --like it is a copy of another cell under the new
    name, which says where it comes from.
    """
    from rnncc.cli.starter import check_name, starter, write_cell

    check_name(name)
    text = starter(name) if like is None else _like(name, like)
    path = write_cell(text, name, Path(folder), force)
    if json:
        terminal.as_json({"name": name, "file": str(path), "like": like})
    else:
        terminal.line(f"{path}: written.\nNext: rnncc check {path}")


def _like(name: str, path: str) -> str:
    from rnncc.cli.like import text_like

    try:
        return text_like(read(path), name)
    except LoadError as error:
        raise LoadError(f"--like: {error}") from error


# --- bench, doctor ---------------------------------------------------------------------------


def _shapes(device: str) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in BENCH_SHAPES[device])


@main.command(
    epilog="""\b
Examples:
  rnncc bench para_gru
  rnncc bench cells/lstm.py --shape 1x16384x16 --solvers --json > times.json
  rnncc bench min_gru --device cuda --dtype bfloat16"""
)
@click.argument("path")
@options.shape(
    "Batch, steps and channels; repeatable.  "
    f"[default: {_shapes('cpu')}; of cuda: {_shapes('cuda')}]",
    multiple=True,
)
@click.option(
    "--device",
    type=click.Choice(list(BENCH_SHAPES)),
    default="cpu",
    show_default=True,
    help="Where it runs.",
)
@options.dtype("Of the inputs.")
@click.option(
    "--against-compile",
    is_flag=True,
    help="Also time the loop under torch.compile, 32 steps at a time (compiles for 10 to 40 s; for "
    "many minutes where a step has many operations).",
)
@click.option("--solvers", is_flag=True, help="Also time every solver by itself.")
@click.option("--threads", type=click.IntRange(min=1), help="How many threads PyTorch uses.")
@options.constants
@options.common
def bench(
    path: str,
    shapes: list[Shape],
    device: str,
    dtype: str,
    against_compile: bool,
    solvers: bool,
    threads: int | None,
    constants: Constants,
    json: bool,
) -> None:
    """Time a cell against the plain PyTorch loop.

    On this machine. Before that the kernel's outputs and gradients are held to those of the loop.

    With --device cuda, times are the GPU's own, and one step is timed as well, as in decoding.
    Besides the loop, unless it takes too long, there are cuDNN's nn.GRU and nn.LSTM: whole layers
    of as many features as channels, for their matrix products can't be taken apart from the
    recurrence. If accelerated-scan is installed, there is its scan too, for cells of one state that
    are affine in it; what goes into the scan, and its layout [B, N, T], are made before.
    """
    from rnncc.bench import cpu as bench_
    from rnncc.bench import cuda as bench_cuda
    from rnncc.cli import render as pages

    bench_.use_threads(threads)
    if on_gpu := device == "cuda":
        bench_cuda.gpu()
    compiled = load(path, constants)
    measure: Any = bench_cuda.measure if on_gpu else bench_.measure
    timings = []
    for shape in shapes or BENCH_SHAPES[device]:
        text = f"timing {compiled.name} at {'x'.join(map(str, shape))}"
        with terminal.progress(text, wanted=not json):
            timings += list(measure(compiled, shape, dtype, against_compile, solvers))
    found = bench_cuda.machine() if on_gpu else bench_.machine()
    if json:
        results = [timing.data() for timing in timings]
        head = {"cell": compiled.name, "dtype": dtype, "rnncc": __version__}
        terminal.as_json({**head, "machine": found, "results": results})
        return
    title = f"{compiled.name}, {dtype}, {found['device']}"
    if on_gpu:
        title += f", PyTorch {found['torch']}, CUDA {found['cuda']}, CuPy {found['cupy']}"
        pages.gpu_timings(title, timings)
    else:
        title += f", {found['threads']} threads, PyTorch {found['torch']}"
        pages.timings(title, timings)


@main.command(
    epilog="""\b
Examples:
  rnncc doctor
  rnncc doctor --calibrate
  rnncc doctor --clear-cache"""
)
@click.option("--clear-cache", is_flag=True, help="Delete all cached kernels, and do no more.")
@click.option(
    "--calibrate",
    is_flag=True,
    help="Time kernels on this machine, which should be idle, for the planner; and do no more.",
)
@options.common
@click.pass_context
def doctor(ctx: click.Context, clear_cache: bool, calibrate: bool, json: bool) -> None:
    """Say what rnncc finds and misses here.

    And what to install. Exits with 3 if no kernel could be built and run here.
    """
    from rnncc.cli import render as pages
    from rnncc.doctor import cpu as doctor_

    if clear_cache:
        cleared = doctor_.clear_cache()
        if json:
            terminal.as_json({"cleared": cleared})
        else:
            size = f"{cleared['bytes'] / 2**20:.1f} MiB"
            terminal.line(f"{cleared['folder']}: {cleared['files']} files deleted, {size}.")
        return
    if calibrate:
        _calibrate(json)
        return
    findings = doctor_.examine()
    healthy = doctor_.healthy(findings)
    if json:
        terminal.as_json({"healthy": healthy, "findings": [vars(f) for f in findings]})
    else:
        pages.findings(findings, healthy)
    ctx.exit(0 if healthy else 3)


def _calibrate(json: bool) -> None:
    """Fit the planner's model to this machine, and keep it."""
    from rnncc.bench.calibrate import calibrate
    from rnncc.cli import render as pages
    from rnncc.planner.machine import save

    with terminal.progress("timing kernels", wanted=not json):
        found = calibrate()
    file = save(found.machine)
    if json:
        terminal.as_json({**vars(found), "machine": vars(found.machine), "file": str(file)})
    else:
        pages.calibration(found, file)
