"""Workspace: scratch memory for the borders between the segments of a call."""

from __future__ import annotations

from rnncc.ir.abi import WORD
from rnncc.planner.plan import Cut, Shape
from rnncc.runtime.call import Call


def workspace(call: Call, cut: Cut, **more: int) -> dict[str, int]:
    """Bytes of the members for the borders between the runs of a cut; `more`: words of others."""
    batch, _, channels = call.shape
    spec, runs = call.kernel.spec, runs_of(call.shape, call.total, cut)
    values = runs * (channels // spec.group) * spec.size
    words = {"run_starts": batch + 1, "products": values * spec.size}
    words |= dict.fromkeys(("begins", "ends", "peaks", "initials"), values) | more
    return {name: WORD * count for name, count in words.items()}


def runs_of(shape: Shape, total: int, cut: Cut) -> int:
    """The most segments that the sequences can have; at least one for each sequence."""
    batch, steps, _ = shape
    segment = cut.tiling.segment
    return batch if segment >= steps else total // segment + batch
