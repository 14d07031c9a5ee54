"""Direction: the directions of a layer and of those stacked on it, and where their weights are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from rnncc.errors import ArgumentError
from rnncc.ir.spec import KernelSpec
from rnncc.nn.solution import Solution
from rnncc.nn.vectors import learned_of

# Names that a layer uses itself.
OWN = ("kernel", "projection", "projection_reverse", "input_size", "hidden_size")
OPTIONS = ("bidirectional", "choices", "num_layers", "dropout", "batch_first")
TAKEN = {*OWN, *OPTIONS, "warmup", "last_solve", *nn.Module().__dict__}
BACK = "_reverse"


class Direction(NamedTuple):
    """One direction of time, of one of the stacked layers.

    Attributes:
        projection: the attribute that holds its projection.
        params: for each learned value of the cell the attribute that holds it.
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


def check_forward(what: str, bidirectional: bool, reverse: bool) -> None:
    """A layer goes step by step if a sequence begins at its first step.

    Raises:
        ArgumentError: it begins at the last one.
    """
    if bidirectional or reverse:
        option = "bidirectional" if bidirectional else "reverse"
        raise ArgumentError(
            f"{what}: got a layer with {option}=True, which begins at the last step of a "
            "sequence, expected one that runs forward.\nFix: layer(x) on the whole sequence"
        )


def endings(layers: int, bidirectional: bool) -> list[str]:
    """Of the attributes of each direction: those of the first layer have none, then _l1, _l2."""
    levels = ["", *(f"_l{k}" for k in range(1, layers))]
    return [f"{level}{way}" for level in levels for way in ("", BACK)[: 1 + bidirectional]]


def directions(spec: KernelSpec, layer: type, endings: Sequence[str]) -> list[Direction]:
    """The attributes of each direction in a class of layers: a param's own name and the ending.

    Where a module, or another param, has that name already, an underscore follows.
    """
    taken, found = {*TAKEN, *(f"projection{ending}" for ending in endings)}, []
    for ending in endings:
        params = {}
        for param, _ in learned_of(spec):
            attribute = f"{param.name}{ending}"
            while attribute in taken or hasattr(layer, attribute):
                attribute += "_"
            taken.add(attribute)
            params[param.name] = attribute
        found.append(Direction(f"projection{ending}", params, ending.endswith(BACK)))
    return found


def side_by_side(ahead: Solution, back: Solution) -> Solution:
    """Outputs and states along the way of both directions beside each other."""
    y = [torch.cat(pair, -1) for pair in zip(ahead.y, back.y, strict=True)]
    z = [torch.cat(pair, -1) for pair in zip(ahead.z, back.z, strict=True)]
    return Solution(y, z, ahead.h, ahead.status)
