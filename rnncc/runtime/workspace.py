"""Workspace: scratch memory for the borders between the segments of a call."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from rnncc.planner.plan import Cut, Shape
from rnncc.runtime.args import Value
from rnncc.runtime.call import Call


class Workspace(NamedTuple):
    """Scratch memory of one call.

    Attributes:
        members: of Args, where they lie.
        block: the tensor that holds them; it must live until the last kernel is launched.
    """

    members: dict[str, Value]
    block: Tensor | None = None


NO_WORKSPACE = Workspace({})


def workspace(call: Call, cut: Cut, like: Tensor, **more: int) -> Workspace:
    """For the borders between the runs of a cut; `more` words for other members."""
    batch, _, channels = call.shape
    spec, runs = call.kernel.spec, runs_of(call.shape, call.total, cut)
    values = runs * (channels // spec.group) * spec.size
    words = {"run_starts": batch + 1, "begins": values, "ends": values}
    words |= {"products": values * spec.size, **more}
    block = like.new_empty(sum(words.values()), dtype=torch.float64)
    places = itertools.accumulate(words.values(), initial=0)
    first = block.data_ptr()
    return Workspace(
        {name: first + 8 * place for name, place in zip(words, places, strict=False)}, block
    )


def runs_of(shape: Shape, total: int, cut: Cut) -> int:
    """The most segments that the sequences can have; at least one for each sequence."""
    batch, steps, _ = shape
    segment = cut.tiling.segment
    return batch if segment >= steps else total // segment + batch
