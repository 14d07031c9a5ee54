"""Programs: a compiled cell and a row -> what is timed there, by name, made when it is wanted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rnncc.bench import workload
from rnncc.bench.baselines import (
    Arguments,
    Loop,
    UnavailableError,
    chunked,
    copier,
    initial_states,
    plain,
    step_on,
)
from rnncc.bench.rows import BASE, BOTH, FORWARD, FUNCTION, LAYER, PACKED, STEP, Row
from rnncc.bench.timing import Run
from rnncc.compiler import CompiledCell
from rnncc.ir.spec import InputSpec
from rnncc.nn.layer import CellLayer
from rnncc.nn.projection import projected, rows_of
from rnncc.nn.vectors import joined
from rnncc.runtime.cpu import allocator

RNNCC, AT_BASE = "rnncc", "rnncc at 8x2048x256"
COPY, LOOP, CHUNKS = "copy", "plain loop", "torch.compile"
LINEAR, KEPT, RECURRENCE = "Linear", "Linear, kept memory", "recurrence"
EAGER, GRU_CELL, DECODER = "eager cell", "nn.GRUCell", "decoder"

Programs = dict[str, Callable[[], Run]]


def programs(compiled: CompiledCell, row: Row) -> Programs:
    """All that are timed at a row; the rivals of `RNNCC` in the order of the table.

    A run of the forward is to be called without gradients enabled.
    """
    base = partial(_of_rnncc, compiled, row._replace(shape=BASE))
    return {**_WORKS[row.work](compiled, row), AT_BASE: base}


def _of_rnncc(compiled: CompiledCell, row: Row) -> Run:
    return programs(compiled, row)[RNNCC]()


def _run(row: Row, call: Callable[[], Any], leaves: list[Tensor]) -> Run:
    return workload.with_gradients(call, leaves) if row.direction == BOTH else call


# --- the recurrence alone --------------------------------------------------------------------


def function_run(compiled: CompiledCell, row: Row, arguments: Arguments, **options: Any) -> Run:
    """The function, called with tensors in the order of its signature.

    Args:
        options: solver, segment, ... of the call.
    """
    given = joined(compiled.spec, arguments)
    tensors = [given[name].detach() for name in compiled.spec.arguments]
    if row.direction == BOTH:
        tensors = [x.requires_grad_() for x in tensors]
    return _run(row, partial(compiled, *tensors, **options), tensors)


def _function(compiled: CompiledCell, row: Row) -> Programs:
    spec, cell, io = compiled.spec, compiled.stages.cell, _dtype(row)
    arguments = workload.random_arguments(spec, row.shape, dtype=io)

    def of(make: Callable[..., Loop]) -> Run:
        loop = make(cell, io)
        both = row.direction == BOTH
        return workload.forward_backward(loop, arguments) if both else partial(loop, arguments)

    ours = partial(function_run, compiled, row, arguments)
    loops = {CHUNKS: partial(of, chunked), LOOP: partial(of, plain)}
    return {RNNCC: ours, **_copy(compiled, row), **loops}


def _copy(compiled: CompiledCell, row: Row) -> Programs:
    """Of as many bytes as the pass must move; none of one step, which is bound by other things."""
    size = _dtype(row).itemsize
    moved = workload.bytes_moved(compiled.spec, row.shape, row.direction, size)
    return {} if row.shape[1] == 1 else {COPY: lambda: copier(moved)}


def _packed(compiled: CompiledCell, row: Row) -> Programs:
    """As the function, of which loops take no such inputs; the layer's projection does nothing."""

    def rnncc() -> Run:
        spec, (batch, steps, _) = compiled.spec, row.shape
        _all_projected(compiled)
        arguments = workload.random_arguments(spec, row.shape, dtype=_dtype(row))
        order = (arguments[i.name] for i in projected(spec))
        x = torch.cat([v.view(batch, steps, -1) for v in order], -1)
        layer = _layer_of(compiled, row, x.shape[-1])
        layer.projection = nn.Identity()  # type: ignore[assignment]
        x.requires_grad_(row.direction == BOTH)
        return _run(row, lambda: layer(x)[0], [x, *layer.parameters()])

    return {RNNCC: rnncc, **_copy(compiled, row)}


# --- layers ----------------------------------------------------------------------------------


def _layer(compiled: CompiledCell, row: Row) -> Programs:
    _all_projected(compiled)
    batch, steps, channels = row.shape
    layer = _layer_of(compiled, row, channels)
    x = torch.randn(batch, steps, channels).to(_dtype(row)).requires_grad_(row.direction == BOTH)
    linear = layer.projection
    return {
        RNNCC: lambda: _run(row, lambda: layer(x)[0], [x, *layer.parameters()]),
        LINEAR: lambda: _run(row, lambda: linear(x), [x, *linear.parameters()]),
        KEPT: lambda: _into_kept_memory(linear, x, row.direction),
        RECURRENCE: partial(_of_rnncc, compiled, row._replace(work=FUNCTION)),
    }


def _into_kept_memory(linear: nn.Linear, x: Tensor, direction: str) -> Run:
    """The matrix products of a Linear, their results in memory that was used before."""
    rows, weight, bias = x.detach().flatten(0, 1), linear.weight.detach(), linear.bias.detach()
    y = allocator.empty(rows, (rows.shape[0], weight.shape[0]))
    dx, dweight, dy = torch.empty_like(rows), torch.empty_like(weight), torch.randn_like(y)

    def forward() -> None:
        torch.addmm(bias, rows, weight.t(), out=y)

    def both() -> None:
        forward()
        torch.mm(dy, weight, out=dx)
        torch.mm(dy.t(), rows, out=dweight)
        dy.sum(0)

    return forward if direction == FORWARD else both


def _step(compiled: CompiledCell, row: Row) -> Programs:
    """One step of a layer; its inputs and states were there before."""
    _all_projected(compiled)
    batch, _, channels = row.shape
    layer = _layer_of(compiled, row, channels)
    x = torch.randn(batch, channels).to(_dtype(row))
    with torch.no_grad():
        _, state = layer(x[:, None])
    gru = nn.GRUCell(channels, channels, dtype=_dtype(row))
    return {
        RNNCC: lambda: partial(layer.step, x, state),
        DECODER: lambda: partial(layer.decoder(batch), x),
        EAGER: partial(_eager, compiled, row, layer.projection, x),
        GRU_CELL: lambda: partial(gru, x, torch.zeros_like(x)),
        LINEAR: lambda: partial(layer.projection, x),
    }


def _eager(compiled: CompiledCell, row: Row, linear: nn.Linear, x: Tensor) -> Run:
    """The same step in PyTorch: the projection, then the cell's equations."""
    cell, spec, io = compiled.stages.cell, compiled.spec, _dtype(row)
    arguments = workload.random_arguments(spec, row.shape, dtype=io)
    given = {name: v.to(io) for name, v in arguments.items()}
    states, params = initial_states(cell, given), [given[a.name] for a in cell.params]
    order = projected(spec)
    sizes = [rows_of(i, row.shape[2]) for i in order]
    places = [_place(order, a.name) for a in cell.inputs]
    step, weight, bias = step_on(cell, io, x.device), linear.weight, linear.bias

    def run() -> Any:
        rows = functional.linear(x, weight, bias).split(sizes, -1)
        return step(*states, *[rows[k] for k in places], *params)

    return run


def _place(order: list[InputSpec], name: str) -> int:
    return next(k for k, i in enumerate(order) if i.name == name)


# --- what they share -------------------------------------------------------------------------


def _dtype(row: Row) -> torch.dtype:
    return getattr(torch, row.dtype)  # type: ignore[no-any-return]


def _layer_of(compiled: CompiledCell, row: Row, features: int) -> CellLayer:
    return compiled.layer(features, row.shape[2], dtype=_dtype(row))


def _all_projected(compiled: CompiledCell) -> None:
    """Raises: UnavailableError: a layer is given more than x."""
    names = [i.name for i in compiled.spec.inputs if not i.projected]
    if names:
        raise UnavailableError(f"timed of layers of x alone; this cell is given {names[0]} too")


_WORKS: dict[str, Callable[[CompiledCell, Row], Programs]] = {
    FUNCTION: _function,
    PACKED: _packed,
    LAYER: _layer,
    STEP: _step,
}
