"""Torch loop: CellIR -> the plain PyTorch loop, the oracle with which every kernel is compared.

It prints the traced lets as PyTorch and runs them step by step; gradients are autograd's. It shares
no derivative, no lowering and no template with the kernels.
"""

from __future__ import annotations

import itertools
import keyword
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rnncc.codegen.printer import TorchPrinter
from rnncc.ir.program import CellIR

Step = Callable[..., tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]


def plain_source(cell: CellIR, name: str = "", by_itself: bool = False) -> str:
    """The step as a user would write it in PyTorch, from one state to (states, outputs).

    Args:
        name: of the function; the cell's own if it is empty.
        by_itself: numbers become tensors without a function _tensor.
    """
    arguments = [a.symbol for a in (*cell.states, *cell.inputs, *cell.params)]
    renamed = _renamed([*arguments, *(let.name for let in cell.lets)])
    arguments = [renamed.get(argument, argument) for argument in arguments]
    printer = TorchPrinter(renamed, arguments[0] if by_itself else "")
    lines = [
        f"    {renamed.get(let.name, let.name)} = {printer.value(let.expr)}" for let in cell.lets
    ]
    nexts = ", ".join(printer.value(e) for e in cell.next.values())
    outputs = ", ".join(printer.value(e) for e in cell.outputs.values())
    head = f"def {name or cell.name}({', '.join(arguments)}):"
    return "\n".join([head, *lines, f"    return ({nexts},), ({outputs},)"])


def _renamed(names: Sequence[str]) -> dict[str, str]:
    """Others for those that are words of Python, or stand for PyTorch in the text."""
    found, taken = {}, set(names)
    for name in names:
        if keyword.iskeyword(name) or name == "torch":
            found[name] = next(
                n for n in (name + "_" * k for k in itertools.count(1)) if n not in taken
            )
            taken.add(found[name])
    return found


def plain_step(
    cell: CellIR, dtype: torch.dtype = torch.float64, device: torch.device | None = None
) -> Step:
    """The step as a function of tensors of one dtype, on one device."""
    names: dict[str, Any] = {
        "torch": torch,
        "_tensor": lambda value: torch.tensor(float(value), dtype=dtype, device=device),
        **FUNCTIONS,
    }
    exec(compile(plain_source(cell), f"<plain {cell.name}>", "exec"), names)
    return names[cell.name]  # type: ignore[no-any-return]


def _heaviside(u: Tensor, integral: Tensor) -> Tensor:
    """[u > 0] with the gradient of the surrogate's integral."""
    surrogate = integral - integral.detach()
    return (u > 0).to(u.dtype) + torch.where(torch.isfinite(surrogate), surrogate, 0.0)


class _Integral(torch.autograd.Function):
    """Of a surrogate d(u), all but its value."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, d: Tensor) -> Tensor:
        ctx.save_for_backward(d)
        ctx.shape = u.shape
        return torch.zeros(torch.broadcast_shapes(u.shape, d.shape), dtype=u.dtype, device=u.device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (d,) = ctx.saved_tensors
        return (gradient * d).sum_to_size(ctx.shape), None


_integral: Callable[[Tensor, Tensor], Tensor] = _Integral.apply


class _ForwardAs(torch.autograd.Function):
    """The value of a with the gradient of b, whatever its value is."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.shape = b.shape
        return a.expand(torch.broadcast_shapes(a.shape, b.shape)).clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient.sum_to_size(ctx.shape)


_forward_as: Callable[[Tensor, Tensor], Tensor] = _ForwardAs.apply


def _mix(matrix: Tensor, vector: Tensor) -> Tensor:
    """R [N / k, k, k] @ e [..., N], group by group."""
    channels = matrix.shape[0] * matrix.shape[1]
    groups = vector.expand(*vector.shape[:-1], channels).unflatten(-1, matrix.shape[:2])
    return torch.einsum("gij,...gj->...gi", matrix, groups).flatten(-2)


class _Exprel(torch.autograd.Function):
    """(exp(x) - 1) / x; autograd through the quotient would lose digits near 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)
        finite = x.clamp(max=torch.finfo(x.dtype).max)
        return torch.where(x == 0, 1.0, torch.expm1(x) / finite)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * _exprel_slope(x)

    @staticmethod
    def jvp(ctx: Any, along: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return along * _exprel_slope(x)


_exprel: Callable[[Tensor], Tensor] = _Exprel.apply


def _exprel_slope(x: Tensor) -> Tensor:
    """Its derivative; by its series near 0, where the closed form cancels."""
    near = x.abs() < 0.5
    small, large = torch.where(near, x, 0.0), torch.where(near, 1.0, x)
    grown = torch.exp(large)
    closed = torch.where(grown.isinf(), grown, (grown - torch.expm1(large) / large) / large)
    series = torch.full_like(x, _SLOPE[-1])
    for c in reversed(_SLOPE[:-1]):
        series = c + small * series
    return torch.where(near, series, closed)


def _atan2_slope(a: Tensor, b: Tensor) -> Tensor:
    square = a * a + b * b
    return torch.where(square == 0, 0.0, a / square)


_SLOPE = [k / math.factorial(k + 1) for k in range(1, 17)]


# names that the text of functions.TABLE uses, beside torch
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "_heaviside": _heaviside,
    "_integral": _integral,
    "_forward_as": _forward_as,
    "_mix": _mix,
    "_exprel": _exprel,
    "_exprel_slope": _exprel_slope,
    "_atan2_slope": _atan2_slope,
}


def plain_loop(
    cell: CellIR,
    arguments: Mapping[str, Tensor],
    h0: Sequence[Tensor] | None = None,
    step: Step | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Run step by step, in the dtype of the arguments.

    Args:
        arguments: inputs [B, T, N] (shared ones [B, T]) and params by name.
        h0: [B, N] for each state, or None for the cell's inits, those that are learned by name.
        step: a step made before (or compiled); else `plain_step`.
    Returns:
        outputs [B, T, N] and the states after the last step [B, N].
    """
    inputs = [arguments[a.name] for a in cell.inputs]
    inputs = [x.unsqueeze(-1) if a.shared else x for a, x in zip(cell.inputs, inputs, strict=True)]
    params = [arguments[a.name] for a in cell.params]
    shape = _shape(cell, inputs, arguments)
    like = inputs[0]
    step = step or plain_step(cell, like.dtype, like.device)
    if h0 is None:
        states = initial_states(cell, arguments, like, (shape[0], shape[2]))
    else:
        states = tuple(h0)
    rows: list[tuple[Tensor, ...]] = []
    # unbind once: x[:, t] in the loop would make every step's backward allocate a full gradient
    for xs in zip(*(x.unbind(1) for x in inputs), strict=True):
        states, outputs = step(*states, *xs, *params)
        rows.append(tuple(y.expand(shape[0], shape[2]) for y in outputs))
    columns = list(zip(*rows, strict=True)) or [()] * len(cell.outputs)
    ys = [torch.stack(c, 1) if c else like.new_empty(shape) for c in columns]
    return ys, [s.expand(shape[0], shape[2]) for s in states]


def initial_states(
    cell: CellIR, arguments: Mapping[str, Tensor], like: Tensor, size: tuple[int, int]
) -> tuple[Tensor, ...]:
    """The states before the first step, [B, N] each, in the dtype and on the device of `like`."""
    states = []
    for a, init in zip(cell.states, cell.initial, strict=True):
        learned = None if a.start is None else arguments[a.start.name]
        states.append(like.new_full(size, init) if learned is None else learned.expand(size))
    return tuple(states)


def _shape(
    cell: CellIR, inputs: Sequence[Tensor], arguments: Mapping[str, Tensor]
) -> tuple[int, int, int]:
    channels = max(x.shape[-1] for x in inputs)
    for a in (*cell.params, *cell.starts):
        if not a.shared and a.name in arguments:  # a start may be missing beside h0
            channels = arguments[a.name].shape[0] * (a.block or 1)
    return inputs[0].shape[0], inputs[0].shape[1], channels
