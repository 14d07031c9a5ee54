"""Bench: a compiled cell and shapes -> times of its kernel and of the plain PyTorch loop."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rnncc.bench.baselines import CPU, Arguments, Loop, Shape, chunked, copier, oracle, plain
from rnncc.bench.timing import interleave
from rnncc.compiler import CompiledCell
from rnncc.doctor.cpu import cpu_name
from rnncc.errors import ArgumentError, ConvergenceError, RnnccError
from rnncc.ir.spec import KernelSpec
from rnncc.nn.initialize import fill
from rnncc.nn.status import Solve
from rnncc.planner.choices import SOLVERS
from rnncc.runtime.kernel import COMPUTE

# Of outputs and of gradients. Kernel and loop round alike, in the dtype that both compute in: the
# table of docs/numerics.md twice over, and room for long sums.
LIMITS = {
    torch.float64: (1e-9, 1e-8),
    torch.float32: (1e-4, 1e-3),
    torch.bfloat16: (4e-2, 6e-2),
    torch.float16: (4e-3, 1e-2),
}
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
    dtype: str = "float32",
    against_compile: bool = False,
    solvers: bool = False,
    budget: float = 6.0,
) -> Iterator[Timing]:
    """Time the forward, then forward and backward.

    Args:
        shape: [B, T, N].
        dtype: of the inputs.
        against_compile: also the loop with chunks of 32 steps under torch.compile; that compiles
            for 10 to 40 seconds, for many minutes where a step has many operations.
        budget: about how many seconds each of the two takes, once compiled.
    Raises:
        ArgumentError: the shape doesn't fit the cell.
        RnnccError: the kernel and the loop don't agree.
    """
    cell, spec, io = compiled.stages.cell, compiled.spec, getattr(torch, dtype)
    check_shape(spec, shape)
    arguments = random_arguments(spec, shape, dtype=io)
    loops = {"fused": fused_loop(compiled), "loop": plain(cell, io)}
    check(loops["fused"], oracle(cell, io), arguments, spec)
    if against_compile:
        loops["compiled"] = chunked(cell, io)
    each = solver_loops(compiled, arguments) if solvers else {}
    chosen: list[Solve] = []
    compiled(**arguments, observe=chosen.append)
    for direction, run in (("forward", forward), ("forward+backward", forward_backward)):
        moved = bytes_moved(spec, shape, direction, io.itemsize)
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


def check_shape(spec: KernelSpec, shape: Shape) -> None:
    """The channels must fill groups.

    Raises:
        ArgumentError: they don't.
    """
    if shape[-1] % spec.group:
        raise ArgumentError(
            f"--shape: got {shape[-1]} channels, expected a multiple of {spec.group}, "
            f"the group that '{spec.name}' mixes.\n"
            f"Fix: {-(-shape[-1] // spec.group) * spec.group} channels"
        )


# --- what is run -----------------------------------------------------------------------------


def random_arguments(
    spec: KernelSpec,
    shape: Shape,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
) -> dict[str, Tensor]:
    """Inputs as the cell says they are like, params as it starts them.

    Params are in the dtype that the recurrence is computed in.
    """
    batch, steps, channels = shape
    generator = torch.Generator(device).manual_seed(seed)
    arguments = {}
    size: tuple[int, ...]
    for i in spec.inputs:
        size = (batch, steps) if i.shared else (batch, steps, channels)
        empty = torch.empty(size, dtype=dtype, device=device)
        arguments[i.name] = fill(empty, i.typical, generator)
    for p in spec.params:
        block = p.block
        size = (1,) if p.shared else (channels,)
        size = size if block is None else (channels // block, block, block)
        empty = torch.empty(size, dtype=COMPUTE[dtype], device=device)
        arguments[p.name] = fill(empty, p.init, generator)
    return arguments


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


def forward(loop: Loop, arguments: Arguments) -> Callable[[], Sequence[Tensor]]:
    """A run without gradients."""

    def run() -> Sequence[Tensor]:
        with torch.no_grad():
            return loop(arguments)

    return run


def forward_backward(loop: Loop, arguments: Arguments) -> Callable[[], Sequence[Tensor]]:
    """A run and the gradients of all arguments, from a random gradient of every output."""
    leaves = {name: x.detach().requires_grad_() for name, x in arguments.items()}
    upstream: list[Tensor] = []

    def run() -> Sequence[Tensor]:
        ys = loop(leaves)
        if not upstream:
            generator = torch.Generator(ys[0].device).manual_seed(1)
            upstream.extend(random_like(y, generator) for y in ys)
        return torch.autograd.grad(ys, list(leaves.values()), upstream, materialize_grads=True)

    return run


def random_like(y: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal."""
    return torch.randn(y.shape, generator=generator, dtype=y.dtype, device=y.device)


def bytes_moved(spec: KernelSpec, shape: Shape, direction: str, size: int = 4) -> int:
    """What a pass over these tensors must read and write at least, `size` bytes a value."""
    batch, steps, channels = shape
    inputs = sum(1 if i.shared else channels for i in spec.inputs)
    outputs = len(spec.outputs) * channels
    once = inputs + outputs  # forward: read inputs, write outputs
    values = once if direction == "forward" else once + inputs + outputs + inputs
    return size * batch * steps * values


# --- agreement -------------------------------------------------------------------------------


def check(
    fused: Loop,
    loop: Loop,
    arguments: Arguments,
    spec: KernelSpec,
    against: str = "the plain loop's",
) -> None:
    """Hold outputs and gradients of the kernel to those of the loop, before anything is timed."""
    outputs, gradients = LIMITS[arguments[spec.inputs[0].name].dtype]
    for kind, run, limit in (
        ("output", forward, outputs),
        ("gradient", forward_backward, gradients),
    ):
        names = spec.outputs if kind == "output" else tuple(arguments)
        pairs = zip(names, run(fused, arguments)(), run(loop, arguments)(), strict=True)
        for name, actual, expected in pairs:
            what = f"the {kind} '{name}' of the kernel differs from {against}"
            _agree(what, actual, expected, limit, spec.structure.spiking)


def _agree(what: str, actual: Tensor, expected: Tensor, limit: float, spiking: bool) -> None:
    if not expected.numel():
        return
    size = expected.abs().max().float().clamp(min=1.0)
    error = (actual - expected).abs().float()
    over = ~((error <= limit * size) | (actual.isnan() & expected.isnan()))
    allowed = max(1, int(SPIKES_THAT_MAY_FLIP * over.numel())) if spiking else 0
    if int(over.sum()) > allowed:
        raise RnnccError(
            f"{what} by up to {error.max():.2g} (allowed: {limit * size:.2g}).\n"
            "Fix: a shorter sequence if the recurrence is chaotic; else this is a fault of rnncc, "
            "please report the cell"
        )
