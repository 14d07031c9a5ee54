"""Bench: a cell and shapes -> times of its kernels and of their baselines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from rnncc import __version__
from rnncc.cli import bench_suite, options, render, terminal
from rnncc.cli.load import load
from rnncc.cli.options import Constants, Shape

if TYPE_CHECKING:
    from rnncc.bench.cpu import Timing
    from rnncc.bench.cuda import GpuTiming
    from rnncc.bench.timing import Place
    from rnncc.compiler import CompiledCell

SHAPES: dict[str, list[Shape]] = {
    "cpu": [(8, 512, 256), (1, 4096, 64)],
    "cuda": [(8, 2048, 4096), (8, 2048, 256), (1, 131072, 64)],
}
SUITES = ("wide", "packed", "short", "decode", "layer", "half")
COMMANDLINE = click.core.ParameterSource.COMMANDLINE
# What their times hold.
ABOUT_PEERS = {
    "accelerated-scan": "of gates and values, given as [B, N, T]; only the scan.",
    "mamba's scan": "given as [B, N, T], 16 states a channel; its gates are computed within.",
    "FlashRNN": "heads of 64 channels, each with its recurrent matrix; not the projection.",
    "pararnn-torch": "a whole layer, as many features as channels, by 3 iterations.",
}


def _shapes(device: str) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in SHAPES[device])


@click.command(
    epilog="""\b
Examples:
  rnncc bench para_gru
  rnncc bench cells/lstm.py --shape 1x16384x16 --solvers --json > times.json
  rnncc bench min_gru --device cuda --dtype bfloat16
  rnncc bench para_gru --suite short --suite decode"""
)
@click.argument("path")
@options.shape(
    "Batch, steps and channels; repeatable.  "
    f"[default: {_shapes('cpu')}; of cuda: {_shapes('cuda')}]",
    multiple=True,
)
@click.option(
    "--suite",
    "suites",
    type=click.Choice(list(SUITES)),
    multiple=True,
    help="Time the rows of a table instead, on the CPU: shapes from wide to narrow, inputs packed "
    "as in a layer, calls of one step, steps of a layer, a layer with its Linear, half precision; "
    "repeatable. --shape and --dtype take the place of its own.",
)
@click.option(
    "--device",
    type=click.Choice(list(SHAPES)),
    default="cpu",
    show_default=True,
    help="The device to run on.",
)
@options.dtype("The dtype of the inputs.")
@click.option(
    "--against-compile",
    is_flag=True,
    help="Also time the loop under torch.compile, 32 steps at a time (compiles for 10 to 40 s; for "
    "many minutes where a step has many operations).",
)
@click.option("--solvers", is_flag=True, help="Also time every solver by itself.")
@click.option("--threads", type=click.IntRange(min=1), help="The number of threads of PyTorch.")
@options.constants
@options.common
def bench(
    path: str,
    shapes: list[Shape],
    suites: tuple[str, ...],
    device: str,
    dtype: str,
    against_compile: bool,
    solvers: bool,
    threads: int | None,
    constants: Constants,
    json: bool,
) -> None:
    """Time a cell against the plain PyTorch loop.

    First the kernel's outputs and gradients are compared with those of the loop.

    With --device cuda, times are by the GPU's clock, and one step is timed as well, as in decoding.
    The baselines are the loop, unless it takes too long, and cuDNN's nn.GRU and nn.LSTM: whole
    layers of as many features as channels, because their matrix products are part of them.
    Programs of other projects are baselines too, if they are installed and compute something like
    the cell: accelerated-scan and mamba's scan, given their inputs in their layout [B, N, T], for
    cells with one state that are affine in it; FlashRNN, which mixes the channels of heads of 64;
    pararnn-torch's whole layers.
    """
    from rnncc.bench import cpu, gpu

    cpu.use_threads(threads)
    if suites:
        _refuse_beside_suite(device, solvers)
        given = click.get_current_context().get_parameter_source("dtype") is COMMANDLINE
        wanted = (suites, shapes, dtype if given else None)
        bench_suite.show(load(path, constants), wanted, against_compile, json)
        return
    place = gpu.gpu() if device == "cuda" else None
    compiled = load(path, constants)
    how = (dtype, against_compile, solvers)
    found = _measure(compiled, shapes or SHAPES[device], place, how, wanted=not json)
    machine = gpu.machine() if place else cpu.machine()
    if json:
        head = {"cell": compiled.name, "dtype": dtype, "rnncc": __version__}
        results = [timing.data() for timing in found]
        terminal.as_json({**head, "machine": machine, "results": results})
        return
    title = f"{compiled.name}, {dtype}, {machine['device']}"
    if place:
        _print_gpu_timings(f"{title}, {_versions(machine)}", found)
    else:
        title += f", {machine['threads']} threads, PyTorch {machine['torch']}"
        _print_timings(title, found)


def _refuse_beside_suite(device: str, solvers: bool) -> None:
    for option, given in (("--device cuda", device == "cuda"), ("--solvers", solvers)):
        if given:
            raise click.UsageError(
                f"{option}: not beside --suite, which times `auto` on the CPU.\nFix: leave out one"
            )


def _measure(
    compiled: CompiledCell,
    shapes: Sequence[Shape],
    place: Place | None,
    how: tuple[str, bool, bool],
    wanted: bool,
) -> list[Any]:
    from rnncc.bench import cpu, cuda

    timings: list[Any] = []
    for shape in shapes:
        text = f"timing {compiled.name} at {'x'.join(map(str, shape))}"
        with terminal.progress(text, wanted):
            if place:
                timings += cuda.measure(compiled, shape, place, *how)
            else:
                timings += cpu.measure(compiled, shape, *how)
    return timings


def _versions(machine: dict[str, Any]) -> str:
    return f"PyTorch {machine['torch']}, CUDA {machine['cuda']}, CuPy {machine['cupy']}"


# --- on a CPU --------------------------------------------------------------------------------


def _print_timings(title: str, found: Sequence[Timing]) -> None:
    """A row for each shape and pass; milliseconds."""
    terminal.line(f"{title}; milliseconds, medians of runs in turns")
    terminal.line()
    against = any(timing.compiled is not None for timing in found)
    baselines = ("torch.compile", "ratio") if against else ()
    solvers = list(dict.fromkeys(name for timing in found for name in timing.solvers))
    headers = ("shape", "pass", "solver", "rnncc", "plain loop", "ratio", *baselines, *solvers)
    rows = [_row(timing, solvers) for timing in found]
    terminal.table((*headers, "copy", "rnncc / copy"), rows)


def _row(timing: Timing, solvers: Sequence[str]) -> render.Row:
    baselines: render.Row = ()
    if timing.compiled is not None:
        baselines = (_ms(timing.compiled), f"{timing.compiled / timing.fused:.1f}x")
    return (
        "x".join(map(str, timing.shape)),
        timing.direction,
        timing.chosen,
        _ms(timing.fused),
        _ms(timing.loop),
        f"{timing.ratio:.1f}x",
        *baselines,
        *(_ms(timing.solvers[s]) if s in timing.solvers else "fails" for s in solvers),
        _ms(timing.copy),
        f"{timing.fused / timing.copy:.1f}",
    )


# --- on a GPU --------------------------------------------------------------------------------


def _print_gpu_timings(title: str, found: Sequence[GpuTiming]) -> None:
    """The same for a GPU, then the baselines that were left out and why."""
    terminal.line(f"{title}; milliseconds by the GPU's clock, medians")
    terminal.line()
    names = list(dict.fromkeys(name for timing in found for name in timing.baselines))
    solvers = list(dict.fromkeys(name for timing in found for name in timing.solvers))
    own = ("rnncc", "in a graph", "in Python", "GB/s", "copy", "rnncc / copy")
    headers = ("shape", "pass", "solver", *own)
    rows = [_gpu_row(timing, names, solvers) for timing in found]
    terminal.table((*headers, *names, *solvers), rows)
    terminal.line()
    terminal.line("In a graph: the same kernels, launched by a CUDA graph.")
    terminal.line("In Python: until the call has launched its kernels, and returns.")
    terminal.line("In parentheses: the time as a multiple of rnncc's.")
    if any(name.startswith("nn.") for timing in found for name in timing.baselines):
        terminal.line("nn.GRU, nn.LSTM: whole layers, as many features as channels, by cuDNN.")
    for name, note in ABOUT_PEERS.items():
        if any(name in timing.baselines for timing in found):
            terminal.line(f"{name}: {note}")
    for note in dict.fromkeys(_notes(found)):
        terminal.line(note)


def _gpu_row(timing: GpuTiming, names: Sequence[str], solvers: Sequence[str]) -> render.Row:
    return (
        "x".join(map(str, timing.shape)),
        timing.direction,
        timing.solver,
        _ms(timing.fused.device),
        "-" if timing.graph is None else _ms(timing.graph),
        _ms(timing.fused.python),
        f"{timing.speed / 1e9:.3g}",
        _ms(timing.copy),
        f"{timing.fused.device / timing.copy:.1f}",
        *(_against(timing, name) for name in names),
        *(_ms(timing.solvers[name]) if name in timing.solvers else "-" for name in solvers),
    )


def _against(timing: GpuTiming, name: str) -> str:
    if name not in timing.baselines:
        return "-"
    ratio = timing.baselines[name] / timing.fused.device
    return f"{_ms(timing.baselines[name])} ({ratio:.1f}x)"


def _notes(found: Sequence[GpuTiming]) -> Iterator[str]:
    """Why a baseline was left out, and where, unless the reason is the same in several places."""
    for timing in found:
        where = f"{'x'.join(map(str, timing.shape))} {timing.direction}"
        for name, reason in timing.skipped.items():
            alike = sum(t.skipped.get(name) == reason for t in found)
            yield f"{name}{'' if alike > 1 else f', {where}'}: {reason.rstrip('.')}."


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}"
