"""Projection: a layer's x -> the inputs of its cell, by one Linear.

Its rows are those of each projected input that isn't shared, N each, and then one for each shared
input that is projected as well.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rnncc.errors import ArgumentError
from rnncc.ir.spec import InputSpec, KernelSpec
from rnncc.ir.vector import Vector
from rnncc.nn.arguments import broadcast, cast, check_tensor, common_dtype, fit
from rnncc.nn.initialize import fill
from rnncc.nn.linear import apply_linear
from rnncc.nn.refusal import refuse, show
from rnncc.nn.vectors import label
from rnncc.runtime.kernel import COMPUTE


class Projected(NamedTuple):
    """The inputs of a cell, as the operators take them.

    Attributes:
        inputs: with `packed` first all unshared ones as one, [B, T, G, N], then each shared one,
            [B, T]; else each, in the cell's order.
        dtype: of the projection, and so of the outputs; the inputs may be in float32.
    """

    inputs: list[Tensor]
    packed: bool
    dtype: torch.dtype


class Layout(NamedTuple):
    """What of a cell's inputs lies where, once for all calls of a layer.

    Attributes:
        width: the rows of the projection; 0 without one.
        given: inputs that are given by name.
        listed: those that the operators take by themselves, beside the packed ones.
        packed: how many are in one tensor: all unshared ones, or none if one of them is given.
        alone: the projected ones among the listed, in the order of the rows.
        sizes: the rows of the packed ones, if there are any, and of each of `alone`.
        vectors: those of the cell.
    """

    channels: int
    width: int
    given: list[InputSpec]
    listed: list[InputSpec]
    packed: int
    alone: list[InputSpec]
    sizes: list[int]
    vectors: tuple[Vector, ...]

    @classmethod
    def of(cls, spec: KernelSpec, channels: int, absent: bool = False) -> Layout:
        """Args: absent: there is no projection, so that all inputs are given."""
        own = [i for i in spec.inputs if not i.shared]
        packed = len(own) if all(i.projected for i in own) else 0
        alone = [i for i in projected(spec) if i.shared or not packed]
        sizes = [packed * channels] if packed else []
        return cls(
            channels,
            0 if absent else width(spec, channels),
            given(spec),
            [i for i in spec.inputs if i.shared or not packed],
            packed,
            alone,
            sizes + [rows_of(i, channels) for i in alone],
            spec.vectors,
        )


def given(spec: KernelSpec) -> list[InputSpec]:
    """Inputs that are given to a layer by name."""
    return [i for i in spec.inputs if not i.projected]


def without(spec: KernelSpec) -> KernelSpec:
    """The spec for a layer that has no projection: all inputs are given."""
    all_given = tuple(i.model_copy(update={"projected": False}) for i in spec.inputs)
    return spec.model_copy(update={"inputs": all_given})


def projected(spec: KernelSpec) -> list[InputSpec]:
    """The others, in the order of the rows."""
    return sorted((i for i in spec.inputs if i.projected), key=lambda i: i.shared)


def width(spec: KernelSpec, channels: int) -> int:
    """Rows of the projection; N where nothing is projected, so that a layer always has a weight."""
    return sum(rows_of(i, channels) for i in projected(spec)) or channels


def rows_of(i: InputSpec, channels: int) -> int:
    """The rows of one input."""
    return 1 if i.shared else channels


def reset(linear: nn.Module, spec: KernelSpec, channels: int) -> None:
    """Initialize it as torch.nn.Linear does, except biases for which the cell has an init.

    A module that has replaced the Linear is left as it is.
    """
    if not isinstance(linear, nn.Linear):
        return
    linear.reset_parameters()
    if linear.bias is None:
        return
    first = 0
    for i in projected(spec):
        rows = rows_of(i, channels)
        if i.bias is not None:
            fill(linear.bias.data[first : first + rows], i.bias)
        first += rows


def inputs(
    linear: nn.Module | None, layout: Layout, x: Tensor | None, named: Mapping[str, Tensor]
) -> Projected:
    """The inputs of the cell.

    Args:
        linear, x: [..., T, input_size]; None where there is no projection.
        named: those that are given, [..., T, N] each, shared ones [..., T].
    Raises:
        ArgumentError: a given input doesn't fit, or the module gives another width.
    """
    if linear is None or x is None:
        return _as_given(layout, [named[i.name] for i in layout.given])
    rows, leading = apply_linear(linear, x), x.shape[:-1]
    packed, channels, shape = layout.packed, layout.channels, (*leading, layout.width)
    if not isinstance(rows, Tensor) or rows.shape != shape or rows.dtype not in COMPUTE:
        raise _misfit(rows, x, layout.width)
    dtype, count, steps = rows.dtype, math.prod(leading[:-1]), leading[-1]
    if not layout.listed:
        return Projected([rows.reshape(count, steps, packed, channels)], True, dtype)
    taken = {i.name: _whole(i, named[i.name], channels, rows) for i in layout.given}
    wide = dtype if all(v.dtype == dtype for v in taken.values()) else COMPUTE[dtype]
    flat = cast(rows, wide).reshape(count, steps, layout.width)
    pieces = list(flat.split(layout.sizes, -1)) if len(layout.sizes) > 1 else [flat]
    found = [pieces.pop(0).unflatten(-1, (packed, channels))] if packed else []
    pieces = pieces[: len(layout.alone)]  # one over if nothing is projected
    for i, piece in zip(layout.alone, pieces, strict=True):
        taken[i.name] = piece.squeeze(-1) if i.shared else piece
    found += [cast(taken[i.name], wide) for i in layout.listed]
    return Projected(found, packed > 0, dtype)


def _as_given(layout: Layout, tensors: list[Tensor]) -> Projected:
    """Inputs without a projection, in the dtype to which they are promoted."""
    leading, steps, _ = extent(layout, tensors)
    dtype = promoted([i.name for i in layout.given], tensors)
    rest = [(steps,) if i.shared else (steps, layout.channels) for i in layout.given]
    found = [fit(cast(v, dtype), leading, r) for v, r in zip(tensors, rest, strict=True)]
    return Projected(found, False, dtype)


def extent(layout: Layout, tensors: Sequence[Tensor]) -> tuple[tuple[int, ...], int, int]:
    """(leading dimensions, T, N) of the given inputs, without a projection.

    Raises:
        ArgumentError: they don't broadcast to one shape of the layer's channels.
    """
    leading, steps, channels = broadcast(layout.given, tensors, layout.vectors)
    if channels not in (None, 1, layout.channels):
        odd = next(k for k, i in enumerate(layout.given) if not i.shared and _last(tensors[k]) > 1)
        raise refuse(
            label(layout.vectors, layout.given[odd].name),
            show(tensors[odd]),
            f"[..., T, {layout.channels}], a value for each channel of the layer",
            f"layer({channels}, projection=None) where the layer is made",
        )
    return leading, steps, layout.channels


def _last(tensor: Tensor) -> int:
    return tensor.shape[-1]


def promoted(names: Sequence[str], tensors: Sequence[Tensor]) -> torch.dtype:
    """Half precision and float32 give float32, as nothing is rounded; else they must agree."""
    dtypes = [v.dtype for v in tensors]
    if len({COMPUTE[dtype] for dtype in dtypes}) > 1:
        return common_dtype(names, tensors)
    return functools.reduce(torch.promote_types, dtypes)


def _misfit(rows: Any, x: Tensor, size: int) -> ArgumentError:
    return refuse(
        "projection(x)",
        show(rows),
        f"{[*x.shape[:-1], size]}, the rows of all inputs that are projected",
        f"a module from {x.shape[-1]} features to {size} in its place",
    )


def _whole(i: InputSpec, value: Tensor, channels: int, rows: Tensor) -> Tensor:
    """A given input for all sequences and steps: [B, T, N], or [B, T] if it is shared."""
    check_tensor(i.name, value, rows.device)
    rest = (rows.shape[-2],) if i.shared else (rows.shape[-2], channels)
    leading = rows.shape[:-2]
    try:
        whole = value.expand(*leading, *rest)
    except RuntimeError:
        what = "one value per step" if i.shared else "one value per step and channel"
        raise refuse(i.name, show(value), f"{[*leading, *rest]}", what) from None
    return whole.reshape(math.prod(leading), *rest)
