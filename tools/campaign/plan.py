"""Plan: the steps of a campaign in their order, and the seconds that each is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SECONDS = 520.0  # of all steps: a command on a lent GPU may end after 10 minutes
# A process stops by itself so much before it is ended: this share of its time, at most so many s.
MARGIN, MOST_MARGIN = 0.15, 6.0


@dataclass(frozen=True)
class Part:
    """A step.

    Attributes:
        weight: its share of the seconds.
        text: what it does, for --list.
    """

    name: str
    weight: float
    text: str


PARTS = (
    Part("doctor", 30, "what is installed, and whether a first kernel gives the right answer"),
    Part("agreement", 100, "tests/gpu for the core cells, then the other tests that need a GPU"),
    Part("times", 140, "the table of docs/cuda.md: rnncc, a copy, the plain loop, cuDNN"),
    Part("calls", 30, "Python's time for short calls, and for one step of a layer"),
    Part("compile", 40, "seconds of compiling kernels, cold, and loading them from the cache"),
    Part("counters", 50, "ncu: DRAM throughput, occupancy, stalls, bank conflicts"),
    Part("sanitizer", 45, "compute-sanitizer: memcheck and racecheck on small calls"),
    Part("constants", 80, "the planner's constants, fitted, and its regret over 12 shapes"),
    Part("peers", 50, "other projects at the table's shapes, and the loop in compiled chunks"),
)
NAMES = tuple(part.name for part in PARTS)


def share(parts: Sequence[Part], seconds: float) -> float:
    """What the first of the parts that are left is given of the seconds that are left."""
    return seconds * parts[0].weight / sum(part.weight for part in parts)


def soft(limit: float) -> float:
    """When a process that is ended at `limit` should stop by itself."""
    return limit - min(MOST_MARGIN, MARGIN * limit)
