"""Direction: the directions of a layer, and the attributes that hold their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from rnncc.errors import ArgumentError
from rnncc.ir.spec import KernelSpec
from rnncc.nn.ops import Solution

# Names that a layer uses itself.
OWN = ("kernel", "projection", "projection_reverse", "input_size", "hidden_size")
TAKEN = {*OWN, "warmup", "bidirectional", "choices", "last_solve", *nn.Module().__dict__}


class Direction(NamedTuple):
    """One direction of time.

    Attributes:
        projection: the attribute that holds its projection.
        params: for each param of the cell the attribute that holds it.
        back: it is the second of two, from the end.
    """

    projection: str
    params: dict[str, str]
    back: bool


def check_directions(bidirectional: bool, reverse: bool) -> None:
    """At most one of them.

    Raises:
        ArgumentError: both, or no bool.
    """
    if not isinstance(bidirectional, bool):
        raise ArgumentError(
            f"bidirectional: got {bidirectional!r}, expected True or False.\n"
            "Fix: bidirectional=True"
        )
    if bidirectional and reverse:
        raise ArgumentError(
            "reverse: got True with bidirectional=True, which runs both ways already, expected one "
            "of them.\nFix: leave reverse out"
        )


def directions(spec: KernelSpec, layer: type, endings: Sequence[str]) -> list[Direction]:
    """The attributes of each direction in a class of layers: a param's own name and the ending.

    Where a module, or another param, has that name already, an underscore follows.
    """
    taken, found = set(TAKEN), []
    for ending in endings:
        params = {}
        for param in spec.params:
            attribute = f"{param.name}{ending}"
            while attribute in taken or hasattr(layer, attribute):
                attribute += "_"
            taken.add(attribute)
            params[param.name] = attribute
        found.append(Direction(f"projection{ending}", params, ending != ""))
    return found


def side_by_side(ahead: Solution, back: Solution) -> Solution:
    """Both directions in one: outputs and states along the way beside each other."""
    y = [torch.cat(pair, -1) for pair in zip(ahead.y, back.y, strict=True)]
    z = [torch.cat(pair, -1) for pair in zip(ahead.z, back.z, strict=True)]
    return Solution(y, z, torch.cat([ahead.h, back.h], 1), ahead.status)
