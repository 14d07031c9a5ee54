"""Workload: a cell and a shape -> the timed programs: arguments, loops, their passes, checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rnncc.bench.baselines import CPU, Arguments, Loop, Shape
from rnncc.bench.timing import Run
from rnncc.compiler import CompiledCell
from rnncc.errors import ArgumentError, ConvergenceError, RnnccError
from rnncc.ir.choices import SOLVERS
from rnncc.ir.spec import KernelSpec
from rnncc.nn.initialize import fill
from rnncc.nn.vectors import apart, joined
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


def check_shape(spec: KernelSpec, shape: Shape) -> None:
    """Refuse channels that don't fill groups.

    Raises:
        ArgumentError: they don't.
    """
    if shape[-1] % spec.group:
        raise ArgumentError(
            f"--shape: got {shape[-1]} channels, expected a multiple of {spec.group}, "
            f"the group that '{spec.name}' mixes.\n"
            f"Fix: {-(-shape[-1] // spec.group) * spec.group} channels"
        )


def random_arguments(
    spec: KernelSpec,
    shape: Shape,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
) -> dict[str, Tensor]:
    """Inputs that are typical of the cell, params by their init.

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
    for p in spec.learned:
        block = p.block
        size = (1,) if p.shared else (channels,)
        size = size if block is None else (channels // block, block, block)
        empty = torch.empty(size, dtype=COMPUTE[dtype], device=device)
        arguments[p.name] = fill(empty, p.init, generator)
    return arguments


def fused_loop(compiled: CompiledCell, solver: str = "auto", **options: Any) -> Loop:
    """The kernel, as users call it."""

    def run(arguments: Arguments) -> list[Tensor]:
        spec = compiled.spec
        y = compiled(**joined(spec, arguments), solver=solver, **options)
        return apart(spec, [y] if isinstance(y, Tensor) else list(y))

    return run


def solver_loops(compiled: CompiledCell, arguments: Arguments) -> dict[str, Loop]:
    """The kernel by each solver that solves this call; Newton may not."""
    loops = {name: fused_loop(compiled, name) for name in SOLVERS if name != "auto"}
    try:
        loops["newton"](arguments)
    except ConvergenceError:
        del loops["newton"]
    return loops


def forward(loop: Loop, arguments: Arguments) -> Run:
    """A run without gradients."""
    return without_gradients(lambda: loop(arguments))


def forward_backward(loop: Loop, arguments: Arguments) -> Run:
    """A run and the gradients of all arguments, from a random gradient of every output."""
    leaves = {name: x.detach().requires_grad_() for name, x in arguments.items()}
    return with_gradients(lambda: loop(leaves), list(leaves.values()))


def without_gradients(call: Callable[[], Any]) -> Run:
    """A run of a call that keeps nothing for gradients."""

    def run() -> Any:
        with torch.no_grad():
            return call()

    return run


def with_gradients(call: Callable[[], Tensor | Sequence[Tensor]], leaves: Sequence[Tensor]) -> Run:
    """A run of a call and the gradients of all leaves, from a random one of every result."""
    upstream: list[Tensor] = []

    def run() -> Sequence[Tensor]:
        found = call()
        ys = [found] if isinstance(found, Tensor) else list(found)
        if not upstream:
            generator = torch.Generator(ys[0].device).manual_seed(1)
            upstream.extend(random_like(y, generator) for y in ys)
        return torch.autograd.grad(ys, leaves, upstream, materialize_grads=True)

    return run


def training(loop: Loop, arguments: Arguments) -> Callable[[], Sequence[Tensor]]:
    """A run that keeps what gradients need."""
    leaves = {name: x.detach().requires_grad_() for name, x in arguments.items()}
    return lambda: loop(leaves)


def random_like(y: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal values, in the shape and dtype of y."""
    return torch.randn(y.shape, generator=generator, dtype=y.dtype, device=y.device)


def bytes_moved(spec: KernelSpec, shape: Shape, direction: str, size: int = 4) -> int:
    """The least bytes that a pass over these tensors reads and writes, `size` each value."""
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
    """Compare outputs and gradients of the kernel with those of the loop, before timing."""
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
            "Fix: a shorter sequence if the recurrence is chaotic; otherwise this is a bug in "
            "rnncc, please report the cell"
        )
