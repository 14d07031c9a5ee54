"""Projection: a layer's x -> the inputs of its cell, by one Linear.

Its rows are those of each projected input that isn't shared, N each, and then one for each shared
input that is projected as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rnncc.errors import ArgumentError
from rnncc.ir.spec import InputSpec, KernelSpec
from rnncc.nn.arguments import cast, check_tensor, refuse, show
from rnncc.nn.initialize import fill
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


def given(spec: KernelSpec) -> list[InputSpec]:
    """Inputs that are given to a layer by name."""
    return [i for i in spec.inputs if not i.projected]


def check_given(spec: KernelSpec, named: Mapping[str, object]) -> None:
    """Check that all of them are given, and no others.

    Raises:
        ArgumentError: one is missing, or unknown.
    """
    wanted = [i.name for i in given(spec)]
    if set(named) != set(wanted):
        odd = sorted(set(named) ^ set(wanted))[0]
        expected = ", ".join(wanted) or "none"
        raise ArgumentError(
            f"{odd}: {'missing' if odd in wanted else 'not an input that is given by name'}.\n"
            f"Fix: beside x, the layer of '{spec.name}' takes these inputs by name: {expected}"
        )


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
    linear: nn.Module, spec: KernelSpec, channels: int, x: Tensor, named: Mapping[str, Tensor]
) -> Projected:
    """The inputs of the cell.

    Args:
        x: [..., T, input_size].
        named: those that `given` lists, [..., T, N] each, shared ones [..., T].
    Raises:
        ArgumentError: a given input doesn't fit, or the module gives another width.
    """
    rows = _rows(linear, width(spec, channels), x)
    taken = {i.name: _whole(i, named[i.name], channels, rows) for i in given(spec)}
    dtype = _dtype(rows.dtype, taken.values())
    flat = cast(rows, dtype).reshape(math.prod(x.shape[:-2]), *rows.shape[-2:])
    own = [i for i in spec.inputs if not i.shared]
    packed = bool(own) and all(i.projected for i in own)
    alone = [i for i in projected(spec) if i.shared or not packed]
    sizes = [len(own) * channels] if packed else []
    sizes += [rows_of(i, channels) for i in alone]
    pieces = list(flat.split(sizes, -1)) if len(sizes) > 1 else [flat]
    found = [pieces.pop(0).unflatten(-1, (len(own), channels))] if packed else []
    for i, piece in zip(alone, pieces, strict=False):  # one over where nothing is projected
        taken[i.name] = piece.squeeze(-1) if i.shared else piece
    found += [cast(taken[i.name], dtype) for i in spec.inputs if i.shared or not packed]
    return Projected(found, packed, rows.dtype)


def _rows(linear: nn.Module, size: int, x: Tensor) -> Tensor:
    rows: Any = linear(x)
    check_tensor("projection(x)", rows, x.device)
    if tuple(rows.shape) != (*x.shape[:-1], size):
        raise refuse(
            "projection(x)",
            show(rows),
            f"{[*x.shape[:-1], size]}, the rows of all inputs that are projected",
            f"a module from {x.shape[-1]} features to {size} in its place",
        )
    return rows  # type: ignore[no-any-return]


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


def _dtype(projected: torch.dtype, taken: Iterable[Tensor]) -> torch.dtype:
    """The projection's; float32 where a given input would lose digits in half precision."""
    alike = all(v.dtype == projected for v in taken)
    return projected if alike else COMPUTE[projected]
