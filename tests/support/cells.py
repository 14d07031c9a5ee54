"""Cells written as text, and a cell's own function run on tensors: an oracle without rnncc."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy
import torch
from torch import Tensor

import rnncc
from rnncc.ir.program import CellIR
from rnncc.lang.dsl import Cell
from rnncc.lang.loader import cells_of
from rnncc.lang.trace import trace
from tests.support.rows import Row, apart, dot, moved_on, on_rows, vectors_of, whole

SIGNATURE = "h: State, x: Input, a: Param"
IMPORTS = "from rnncc import *\nfrom rnncc import abs, cell\n"
DEF_LINE, BODY_LINE = 6, 7  # of `source_of` without `before`


# --- cells as text ---------------------------------------------------------------------------


def source_of(body: str, signature: str = SIGNATURE, before: str = "", name: str = "odd") -> str:
    """A cell file; `before` is the text above the cell."""
    head = f"{IMPORTS}{before}\n\n@cell\ndef {name}({signature}):\n"
    return head + textwrap.indent(textwrap.dedent(body).strip("\n"), "    ") + "\n"


def cell_from(folder: Path, source: str, file: str = "odd.py") -> Cell:
    """The last cell of a file with this source."""
    path = folder / file
    path.write_text(source, encoding="utf-8")
    return list(cells_of(path.resolve()).values())[-1]


def traced(folder: Path, body: str, signature: str = SIGNATURE, before: str = "") -> CellIR:
    return trace(cell_from(folder, source_of(body, signature, before)))


# --- the function itself, on tensors ---------------------------------------------------------


def _softmax(values: Sequence[Tensor]) -> Any:
    found = torch.stack(torch.broadcast_tensors(*values)).softmax(0).unbind()
    return Row(found) if isinstance(values, Row) else list(found)


class _Matrix:
    def __init__(self, blocks: Tensor) -> None:
        self.blocks = blocks

    def __matmul__(self, vector: Any) -> Any:
        if isinstance(vector, Row):
            return NotImplemented
        groups, k, _ = self.blocks.shape
        columns = vector.expand(*vector.shape[:-1], groups * k).unflatten(-1, (groups, k))
        return torch.einsum("gij,...gj->...gi", self.blocks, columns).flatten(-2)


def _spike(u: Tensor, surrogate: Any = "fast_sigmoid", slope: float = 25.0) -> Tensor:
    """A step whose gradient is that of the surrogate's integral, written from the papers."""
    if callable(surrogate):
        line = surrogate(u).detach() * u
        return (u > 0).to(u.dtype) + line - line.detach()
    v = slope * u
    inside = v - v.sign() * v**2 / 2
    integral = {
        "fast_sigmoid": u / (1 + v.abs()),
        "atan": torch.atan(torch.pi / 2 * v) / torch.pi,
        "sigmoid": torch.sigmoid(v),
        "triangle": torch.where(v.abs() < 1, inside, v.sign() / 2),
    }[surrogate]
    return (u > 0).to(u.dtype) + integral - integral.detach()


def _exprel(x: Tensor) -> Tensor:
    """The mean of exp(s x) over s in [0, 1], by Gauss and Legendre's rule."""
    nodes, weights = (torch.from_numpy(part) for part in numpy.polynomial.legendre.leggauss(30))
    rows = torch.exp((nodes.to(x.dtype) + 1) / 2 * x.unsqueeze(-1))
    return (rows * weights.to(x.dtype) / 2).sum(-1)


def _on_numbers_too(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """Python numbers among the arguments become tensors; numbers alone give a number."""

    def wrapped(*args: Any) -> Any:
        like = next((a for a in args if isinstance(a, Tensor) and a.is_floating_point()), None)
        dtype = torch.float64 if like is None else like.dtype
        tensors = [
            a if a is None or isinstance(a, Tensor) else torch.tensor(a, dtype=dtype) for a in args
        ]
        result = function(*tensors)
        return result if any(isinstance(a, Tensor) for a in args) else float(result)

    return wrapped


def _of_several(function: Callable[..., Tensor]) -> Callable[..., Any]:
    """Of two values, or of more from left to right."""
    pair = on_rows(_on_numbers_too(function))
    return lambda *args: functools.reduce(pair, args)


F = torch.nn.functional
TORCH: dict[str, Callable[..., Any]] = {
    name: _on_numbers_too(getattr(torch, name))
    for name in (
        "exp log log1p expm1 sqrt rsqrt sigmoid tanh sin cos sinh cosh erf abs sign floor "
        "ceil trunc atan asin acos asinh acosh atanh log2 log10 exp2"
    ).split()
} | {
    "softplus": _on_numbers_too(lambda x: -F.logsigmoid(-x)),
    "logsigmoid": _on_numbers_too(F.logsigmoid),
    "exprel": _on_numbers_too(_exprel),
    "silu": _on_numbers_too(F.silu),
    "gelu": _on_numbers_too(F.gelu),
    "round": _on_numbers_too(lambda x, digits=0: torch.round(x, decimals=int(digits))),
    "relu": _on_numbers_too(torch.relu),
    "hardsigmoid": _on_numbers_too(lambda x: F.relu6(x + 3) / 6),
    "hardtanh": _on_numbers_too(lambda x, lo=-1.0, hi=1.0: F.hardtanh(x, float(lo), float(hi))),
    "leaky_relu": _on_numbers_too(lambda x, slope=0.01: F.leaky_relu(x, float(slope))),
    "elu": _on_numbers_too(lambda x, alpha=1.0: F.elu(x, float(alpha))),
    "selu": _on_numbers_too(F.selu),
    "mish": _on_numbers_too(F.mish),
    "softsign": _on_numbers_too(F.softsign),
    "atan2": _on_numbers_too(torch.atan2),
    "softmax": _softmax,
    "logsumexp": lambda values: torch.stack(torch.broadcast_tensors(*values)).logsumexp(0),
    "dot": dot,
    "vector": Row,
    "stop_gradient": lambda x: x.detach(),
    "forward_as": lambda value, gradient_of: value.detach() + gradient_of - gradient_of.detach(),
    "maximum": _of_several(torch.maximum),
    "minimum": _of_several(torch.minimum),
    "clip": _on_numbers_too(torch.clamp),
    "where": _on_numbers_too(torch.where),
    "spike": _spike,
}


def on_tensors(cell: Cell) -> Callable[..., Any]:
    """The cell's function with PyTorch's functions in the place of rnncc's, helpers included."""
    function = cell.function
    names = dict(function.__globals__)
    for name, value in list(names.items()):
        known = [t for r, t in TORCH.items() if value is getattr(rnncc, r)]
        if known:
            takes_rows = name in ("softmax", "logsumexp", "dot", "vector", "maximum", "minimum")
            names[name] = known[0] if takes_rows else on_rows(known[0])
        elif isinstance(value, FunctionType) and value.__globals__ is function.__globals__:
            names[name] = _moved(value, names)
    return _moved(function, names)


def _moved(function: Any, names: dict[str, Any]) -> FunctionType:
    moved = FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
    moved.__kwdefaults__ = function.__kwdefaults__
    return moved


def run_step(
    cell: Cell, ir: CellIR, values: Mapping[str, Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """One step: next states and outputs, from states, inputs [..., N] and params by name."""
    states = {v.name: v for v in vectors_of(ir, "state")}
    matrices = {a.name for a in ir.params if a.block}
    like = values[ir.states[0].name]
    arguments = {n: _Matrix(v) if n in matrices else v for n, v in values.items()}
    result = on_tensors(cell)(**whole(ir, arguments), **ir.constants)
    if not isinstance(result, dict):
        several = result if isinstance(result, (tuple, list)) else (result,)
        if len(states) == 1 and ir.states[0].vector and not isinstance(result, tuple):
            several = (result,)
        result = dict(zip(states, several, strict=True))
    found: dict[str, Any] = {}
    for name, state in states.items():
        found |= moved_on(state, result[name], values)
    found = {n: _expanded(v, like) for n, v in found.items()}
    outputs = [_expanded(v, like) for n in result if n not in states for v in apart(result[n])]
    return [found[a.name] for a in ir.states], outputs or [found[n] for n in ir.outputs]


def _expanded(value: Any, like: Tensor) -> Tensor:
    return value.expand_as(like) if isinstance(value, Tensor) else torch.full_like(like, value)


def run_loop(
    cell: Cell, ir: CellIR, values: Mapping[str, Tensor], start: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """All steps: outputs [B, T, N] and the last states [B, N]."""
    states, rows = list(start), []
    for t in range(values[ir.inputs[0].name].shape[1]):
        now = dict(values) | dict(zip((a.name for a in ir.states), states, strict=True))
        for a in ir.inputs:
            now[a.name] = values[a.name][:, t].unsqueeze(-1) if a.shared else values[a.name][:, t]
        states, outputs = run_step(cell, ir, now)
        rows.append(outputs)
    return [torch.stack(column, 1) for column in zip(*rows, strict=True)], states


# --- a kernel against it ---------------------------------------------------------------------


def random_values(
    ir: CellIR, shape: tuple[int, int, int], seed: int = 0
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Inputs and params by name, and initial states, in float64; all require gradients."""
    batch, steps, channels = shape
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        drawn = torch.randn(size, generator=generator, dtype=torch.float64)
        return drawn.requires_grad_()

    values = {a.name: normal(batch, steps, *([] if a.shared else [channels])) for a in ir.inputs}
    for a in ir.params:
        k = a.block
        size = (channels // k, k, k) if k else (1,) if a.shared else (channels,)
        values[a.name] = normal(*size)
    return values, [normal(batch, channels) for _ in ir.states]


def assert_kernel_is_right(cell: Cell, shape: tuple[int, int, int] = (2, 4, 8)) -> None:
    """Outputs, last states and all gradients of the kernel equal those of the function itself."""
    compiled = rnncc.compile(cell)
    ir = compiled.stages.cell
    values, start = random_values(ir, shape)
    result = compiled(**values, h0=tuple(start) if len(start) > 1 else start[0], return_state=True)
    got = [t for part in result for t in ([part] if isinstance(part, Tensor) else part)]
    outputs, states = run_loop(cell, ir, values, start)
    names = [*ir.outputs, *(f"last {a.name}" for a in ir.states)]
    leaves = [*values.values(), *start]
    wanted = [*outputs, *states]
    weights = [torch.randn_like(w) for w in wanted]
    for name, g, w in zip(names, got, wanted, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
    labels = [*values, *(f"h0 {a.name}" for a in ir.states)]
    for name, g, w in zip(
        labels, gradients(got, weights, leaves), gradients(wanted, weights, leaves), strict=True
    ):
        torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


def gradients(
    results: Sequence[Tensor], weights: Sequence[Tensor], leaves: Sequence[Tensor]
) -> list[Tensor]:
    """Of the weighted sum of the results, by each leaf; zeros where there is no path."""
    pairs = [(r, w) for r, w in zip(results, weights, strict=True) if r.requires_grad]
    if not pairs:
        return [torch.zeros_like(leaf) for leaf in leaves]
    tensors, upstream = zip(*pairs, strict=True)
    found = torch.autograd.grad(tensors, leaves, upstream, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)]
