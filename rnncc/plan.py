"""Plan: structure, shape and threads -> how a kernel cuts its work."""

from __future__ import annotations

from dataclasses import dataclass

from rnncc.errors import ArgumentError
from rnncc.spec import KernelSpec

SOLVERS = ("auto", "sequential")
LANE_BYTES = 64  # the inner loop of a kernel: one AVX-512 register, two of AVX2
STEPS_SAVED = 16
WORTH_A_THREAD = 16384  # values; below, waking a thread costs more than it saves


@dataclass(frozen=True)
class Plan:
    """How one launch cuts its work.

    Attributes:
        solver: which one runs, and `reason` why.
        rows, columns: a tile, so many sequences by so many groups of channels.
        every: steps between the states that the backward starts from.
        threads: how many work.
    """

    solver: str
    reason: str
    rows: int
    columns: int
    every: int
    threads: int

    def __str__(self) -> str:
        return (
            f"{self.solver}: {self.reason}; tiles of {self.rows} x {self.columns} "
            f"(sequences x channel groups), {self.threads} threads, "
            f"a state saved every {self.every} steps"
        )


def plan(
    spec: KernelSpec,
    shape: tuple[int, int, int],
    itemsize: int,
    threads: int,
    solver: str = "auto",
) -> Plan:
    """Cut [batch, steps, channels] into tiles so that all threads work with full vectors.

    Args:
        itemsize: bytes of the type that the recurrence is computed in.
        threads: how many may work; a small call takes one.
    Raises:
        ArgumentError: an unknown solver.
    """
    check_solver(solver)
    batch, steps, channels = shape
    if batch * steps * channels < WORTH_A_THREAD:
        threads = 1
    lanes = LANE_BYTES // itemsize
    largest = spec.tile * 4 // max(4, itemsize)
    rows, columns = _tile(batch, channels // spec.group, lanes, largest, threads)
    return Plan(
        solver="sequential",
        reason="one fused pass over time, parallel over batch and channels",
        rows=rows,
        columns=columns,
        every=STEPS_SAVED,
        threads=threads,
    )


def check_solver(solver: str) -> None:
    """Refuse a solver that there is none of."""
    if solver not in SOLVERS:
        raise ArgumentError(
            f"solver: got {solver!r}, expected one of {', '.join(SOLVERS)}.\nFix: solver='auto'"
        )


def _tile(batch: int, groups: int, lanes: int, largest: int, threads: int) -> tuple[int, int]:
    """Rows by columns: whole vectors, many of them in flight, and as much work for each thread."""
    if groups < lanes:
        # few channels: several sequences side by side fill a vector
        wanted = min(_round_up(-(-batch * groups // threads), lanes), largest)
        return max(1, min(batch, wanted // max(1, groups))), groups
    fewest = -(-groups // largest)
    most = max(fewest, groups // lanes)
    counts = range(fewest, min(most, fewest + 2 * threads) + 1)
    best = min(counts, key=lambda tiles: (round(_idle(batch * tiles, threads), 1), tiles))
    return 1, min(_round_up(-(-groups // best), lanes), largest)


def _idle(tiles: int, threads: int) -> float:
    """The share of the threads' time that is lost when tiles don't divide among them."""
    return -(-tiles // threads) * threads / max(1, tiles) - 1


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
