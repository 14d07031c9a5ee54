"""Plan: structure, shape and threads -> how a kernel cuts its work."""

from __future__ import annotations

from dataclasses import dataclass

from rnncc.choices import AUTO, Choices
from rnncc.spec import KernelSpec

LANE_BYTES = 64  # the inner loop of a kernel: one AVX-512 register, two of AVX2
STEPS_SAVED = 16
LEAD = 64
WORTH_A_THREAD = 16384  # values; below, waking a thread costs more than it saves
TOLERANCE = {4: 5e-7, 8: 1e-12}


@dataclass(frozen=True)
class Cut:
    """How one pass is cut.

    Attributes:
        segment: steps of a segment.
        rows, columns: a tile, so many runs of steps (of a segment of a sequence) by so many groups
            of channels.
    """

    segment: int
    rows: int
    columns: int


@dataclass(frozen=True)
class Plan:
    """How one call cuts its work.

    Attributes:
        solver: which one runs, and `reason` why.
        forward, backward: their cuts.
        lead: steps that the first guess of a segment's start runs.
        sweeps: at most so many.
        tolerance: of neighbouring segments.
        every: steps between the states that the backward starts from.
        threads: how many work.
    """

    solver: str
    reason: str
    forward: Cut
    backward: Cut
    lead: int
    sweeps: int
    patient: bool
    tolerance: float
    every: int
    threads: int


def plan(
    spec: KernelSpec,
    shape: tuple[int, int, int],
    itemsize: int,
    threads: int,
    choices: Choices = AUTO,
) -> Plan:
    batch, steps, channels = shape
    every = choices.checkpoint or STEPS_SAVED
    whole = max(1, steps)
    if batch * steps * channels < WORTH_A_THREAD:
        threads = 1
    lanes = LANE_BYTES // itemsize
    largest = spec.tile * 4 // max(4, itemsize)
    groups = channels // spec.group

    def cut(segment: int) -> Cut:
        runs = batch * -(-whole // segment)
        rows, columns = _tile(runs, groups, lanes, largest, threads)
        return Cut(segment, rows, columns)

    solver = choices.solver
    segment = whole
    lead, sweeps = 4, 1
    if solver == "newton":
        segment, lead, sweeps = 1, 1, choices.iterations or 3
        sweeps += 1
    elif solver == "segmented":
        segment = min(choices.segment or 64, whole)
        sweeps = choices.iterations or -(-whole // segment)
        lead = min(LEAD, segment)
    else:
        solver = "sequential"
    back = max(segment // every, 1) * every if solver == "segmented" else whole
    return Plan(
        solver=solver,
        reason="",
        forward=cut(segment),
        backward=cut(back),
        lead=lead,
        sweeps=sweeps,
        patient=choices.solver != 'auto',
        tolerance=choices.tol or TOLERANCE[itemsize],
        every=every,
        threads=threads,
    )


def _tile(runs: int, groups: int, lanes: int, largest: int, threads: int) -> tuple[int, int]:
    """Rows by columns: whole vectors, many of them in flight, and as much work for each thread."""
    if groups < largest and runs > 1:
        # few channels: several runs side by side fill a vector
        wanted = min(_round_up(-(-runs * groups // threads), lanes), largest)
        if groups < lanes or wanted >= 2 * groups:
            return max(1, min(runs, wanted // max(1, groups))), groups
    fewest = -(-groups // largest)
    most = max(fewest, groups // lanes)
    counts = range(fewest, min(most, fewest + 2 * threads) + 1)
    best = min(counts, key=lambda tiles: (round(_idle(runs * tiles, threads), 1), tiles))
    return 1, min(_round_up(-(-groups // best), lanes), largest)


def _idle(tiles: int, threads: int) -> float:
    """The share of the threads' time that is lost when tiles don't divide among them."""
    return -(-tiles // threads) * threads / max(1, tiles) - 1


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
