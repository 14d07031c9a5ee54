"""Bench: a compiled cell and shapes -> times of its kernel and of the plain PyTorch loop."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rnncc.choices import SOLVERS
from rnncc.compiler import CompiledCell
from rnncc.doctor import cpu_name
from rnncc.errors import ArgumentError, ConvergenceError, RnnccError
from rnncc.ir import CellIR
from rnncc.reference import plain_loop, plain_step
from rnncc.spec import InitSpec, KernelSpec
from rnncc.status import Solve

Shape = tuple[int, int, int]
Arguments = Mapping[str, Tensor]
Loop = Callable[[Arguments], list[Tensor]]

CHUNK = 32  # steps of the loop that torch.compile sees at once
LEAST_ROUNDS, MOST_ROUNDS = 3, 25
FAST = 0.1  # seconds; what takes less runs several times in a round, so in its own steady state

# Kernel and loop are both float32: twice the table of docs/numerics.md, and room for long sums.
OUTPUT_LIMIT, GRADIENT_LIMIT = 1e-4, 1e-3
# A spike flips where rounding differs at the threshold.
SPIKES_THAT_MAY_FLIP = 1e-3


@dataclass(frozen=True)
class Timing:
    """Median seconds of one pass at one shape, all measured in turns.

    Attributes:
        shape: [B, T, N].
        direction: "forward" or "forward+backward".
        fused, loop, compiled: the kernel, the plain loop, and the loop under torch.compile.
        solvers: the kernel by each solver by name, where asked for; one that fails is left out.
        chosen: the solver that `auto`, which is timed as `fused`, takes in the forward.
        copy: a copy of as many bytes as the pass must read and write, `bytes` of them.
        runs: of the loop; what is fast ran more often.
    """

    shape: Shape
    direction: str
    fused: float
    loop: float
    compiled: float | None
    copy: float
    bytes: int
    runs: int
    chosen: str
    solvers: dict[str, float]

    @property
    def ratio(self) -> float:
        """How many times faster than the plain loop."""
        return self.loop / self.fused

    @property
    def ratio_compiled(self) -> float | None:
        """How many times faster than the loop under torch.compile."""
        return None if self.compiled is None else self.compiled / self.fused

    def data(self) -> dict[str, Any]:
        """For machines; milliseconds."""
        times = {
            f"{name}_ms": None if seconds is None else seconds * 1e3
            for name in ("fused", "loop", "compiled", "copy")
            for seconds in (getattr(self, name),)
        }
        return {
            "shape": list(self.shape),
            "pass": self.direction,
            **times,
            "ratio": self.ratio,
            "ratio_compiled": self.ratio_compiled,
            "bytes": self.bytes,
            "runs": self.runs,
            "solver": self.chosen,
            "solvers_ms": {name: seconds * 1e3 for name, seconds in self.solvers.items()},
        }


def use_threads(count: int | None) -> None:
    """Let PyTorch, and so the kernels, use so many threads; None leaves it as it is."""
    if count:
        torch.set_num_threads(count)


def machine() -> dict[str, Any]:
    """What the times were measured on."""
    return {
        "device": cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def measure(
    compiled: CompiledCell,
    shape: Shape,
    against_compile: bool = False,
    solvers: bool = False,
    budget: float = 6.0,
) -> Iterator[Timing]:
    """Time the forward, then forward and backward, in float32.

    Args:
        shape: [B, T, N].
        against_compile: also the loop with chunks of 32 steps under torch.compile; that compiles
            for 10 to 40 seconds.
        budget: about how many seconds each of the two takes, once compiled.
    Raises:
        ArgumentError: the shape doesn't fit the cell.
        RnnccError: the kernel and the loop don't agree.
    """
    cell, spec = compiled.stages.cell, compiled.kernel.spec
    if shape[-1] % spec.group:
        raise ArgumentError(
            f"--shape: got {shape[-1]} channels, expected a multiple of {spec.group}, "
            f"the group that '{spec.name}' mixes.\n"
            f"Fix: {-(-shape[-1] // spec.group) * spec.group} channels"
        )
    arguments = random_arguments(spec, shape)
    loops = {"fused": fused_loop(compiled), "loop": plain(cell)}
    check(loops["fused"], loops["loop"], arguments, spec)
    if against_compile:
        loops["compiled"] = chunked(cell)
    each = solver_loops(compiled, arguments) if solvers else {}
    chosen: list[Solve] = []
    compiled(**arguments, observe=chosen.append)
    for direction, run in (("forward", forward), ("forward+backward", forward_backward)):
        moved = bytes_moved(spec, shape, direction)
        runs = {name: run(loop, arguments) for name, loop in {**loops, **each}.items()}
        times = interleave({**runs, "copy": copier(moved)}, budget)
        medians = {name: statistics.median(samples) for name, samples in times.items()}
        yield Timing(
            shape=shape,
            direction=direction,
            fused=medians["fused"],
            loop=medians["loop"],
            compiled=medians.get("compiled"),
            copy=medians["copy"],
            bytes=moved,
            runs=len(times["loop"]),
            chosen=chosen[0].solver,
            solvers={name: medians[name] for name in each},
        )


# --- what is run -----------------------------------------------------------------------------


def random_arguments(spec: KernelSpec, shape: Shape, seed: int = 0) -> dict[str, Tensor]:
    """Standard normal inputs, shared ones uniform in [0, 1]; params as the cell starts them."""
    batch, steps, channels = shape
    generator = torch.Generator().manual_seed(seed)
    arguments = {}
    size: tuple[int, ...]
    for i in spec.inputs:
        draw = torch.rand if i.shared else torch.randn
        size = (batch, steps) if i.shared else (batch, steps, channels)
        arguments[i.name] = draw(size, generator=generator)
    for p in spec.params:
        block = p.block
        size = (1,) if p.shared else (channels,)
        size = size if block is None else (channels // block, block, block)
        arguments[p.name] = _drawn(p.init, size, generator)
    return arguments


def _drawn(init: InitSpec, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if init.kind == "uniform":
        return torch.empty(size).uniform_(init.a, init.b, generator=generator)
    if init.kind == "normal":
        return torch.empty(size).normal_(init.a, init.b, generator=generator)
    return torch.full(size, init.a)


def fused_loop(compiled: CompiledCell, solver: str = "auto") -> Loop:
    """The kernel, as users call it."""

    def run(arguments: Arguments) -> list[Tensor]:
        y = compiled(**arguments, solver=solver)
        return [y] if isinstance(y, Tensor) else list(y)

    return run


def solver_loops(compiled: CompiledCell, arguments: Arguments) -> dict[str, Loop]:
    """The kernel by each solver that solves this call; Newton may not."""
    loops = {name: fused_loop(compiled, name) for name in SOLVERS if name != "auto"}
    try:
        loops["newton"](arguments)
    except ConvergenceError:
        del loops["newton"]
    return loops


def plain(cell: CellIR) -> Loop:
    """The loop that a user would write in PyTorch."""
    step = plain_step(cell, torch.float32)
    return lambda arguments: plain_loop(cell, arguments, step=step)[0]


def chunked(cell: CellIR, size: int = CHUNK) -> Loop:
    """The plain loop, `size` steps at a time under torch.compile: the strongest rival on a CPU."""
    step = plain_step(cell, torch.float32)

    def chunk(
        states: tuple[Tensor, ...], inputs: Sequence[Tensor], params: Sequence[Tensor]
    ) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        rows = []
        for xs in zip(*(x.unbind(1) for x in inputs), strict=True):
            states, outputs = step(*states, *xs, *params)
            rows.append(outputs)
        return states, [torch.stack(column, 1) for column in zip(*rows, strict=True)]

    compiled = torch.compile(chunk, dynamic=False)

    def run(arguments: Arguments) -> list[Tensor]:
        inputs = [arguments[a.name] for a in cell.inputs]
        inputs = [
            x.unsqueeze(-1) if a.shared else x for a, x in zip(cell.inputs, inputs, strict=True)
        ]
        params = [arguments[a.name] for a in cell.params]
        like = next(x for a, x in zip(cell.inputs, inputs, strict=True) if not a.shared)
        states = tuple(torch.full_like(like[:, 0], a.start) for a in cell.states)
        parts = []
        for xs in zip(*(x.split(size, 1) for x in inputs), strict=True):
            states, outputs = compiled(states, xs, params)
            parts.append(outputs)
        return [torch.cat(column, 1) for column in zip(*parts, strict=True)]

    return run


def forward(loop: Loop, arguments: Arguments) -> Callable[[], Sequence[Tensor]]:
    """A run without gradients."""

    def run() -> Sequence[Tensor]:
        with torch.no_grad():
            return loop(arguments)

    return run


def forward_backward(loop: Loop, arguments: Arguments) -> Callable[[], Sequence[Tensor]]:
    """A run and the gradients of all arguments, from a random gradient of every output."""
    leaves = {name: x.clone().requires_grad_() for name, x in arguments.items()}
    upstream: list[Tensor] = []

    def run() -> Sequence[Tensor]:
        ys = loop(leaves)
        if not upstream:
            generator = torch.Generator().manual_seed(1)
            upstream.extend(torch.randn(y.shape, generator=generator) for y in ys)
        return torch.autograd.grad(ys, list(leaves.values()), upstream, materialize_grads=True)

    return run


def bytes_moved(spec: KernelSpec, shape: Shape, direction: str) -> int:
    """What a pass over these tensors must read and write at least, in float32."""
    batch, steps, channels = shape
    inputs = sum(1 if i.shared else channels for i in spec.inputs)
    outputs = len(spec.outputs) * channels
    once = inputs + outputs  # forward: read inputs, write outputs
    values = once if direction == "forward" else once + inputs + outputs + inputs
    return 4 * batch * steps * values


def copier(moved: int) -> Callable[[], Any]:
    """A copy that reads half of so many bytes and writes the other half."""
    source = torch.ones(max(1, moved // 8))
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


# --- agreement and time ----------------------------------------------------------------------


def check(fused: Loop, loop: Loop, arguments: Arguments, spec: KernelSpec) -> None:
    """Hold outputs and gradients of the kernel to those of the loop, before anything is timed."""
    for kind, run, limit in (
        ("output", forward, OUTPUT_LIMIT),
        ("gradient", forward_backward, GRADIENT_LIMIT),
    ):
        names = spec.outputs if kind == "output" else tuple(arguments)
        pairs = zip(names, run(fused, arguments)(), run(loop, arguments)(), strict=True)
        for name, actual, expected in pairs:
            _agree(f"the {kind} '{name}'", actual, expected, limit, spec.structure.spiking)


def _agree(what: str, actual: Tensor, expected: Tensor, limit: float, spiking: bool) -> None:
    size = expected.abs().max().clamp(min=1.0) if expected.numel() else torch.tensor(1.0)
    error = (actual - expected).abs()
    over = ~((error <= limit * size) | (actual.isnan() & expected.isnan()))
    allowed = max(1, int(SPIKES_THAT_MAY_FLIP * over.numel())) if spiking else 0
    if int(over.sum()) > allowed:
        raise RnnccError(
            f"{what} of the kernel differs from the plain loop's by up to {error.max():.2g} "
            f"(allowed: {limit * size:.2g}).\n"
            "Fix: a shorter sequence if the recurrence is chaotic; else this is a fault of rnncc, "
            "please report the cell"
        )


def interleave(
    runs: Mapping[str, Callable[[], Any]], budget: float = 6.0
) -> dict[str, list[float]]:
    """Seconds of each run, taken in turns, so that what slows the machine slows all of them."""
    repeats = {name: _repeats(run) for name, run in runs.items()}
    samples: dict[str, list[float]] = {name: [] for name in runs}
    start = time.perf_counter()
    for count in range(MOST_ROUNDS):
        if count >= LEAST_ROUNDS and time.perf_counter() - start > budget:
            break
        for name, run in runs.items():
            samples[name] += [_seconds(run) for _ in range(repeats[name])]
    return samples


def _repeats(run: Callable[[], Any]) -> int:
    """How often it runs in a round; the first call warms up (and may compile)."""
    run()
    return max(1, min(10, int(FAST / max(_seconds(run), 1e-9))))


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
