"""Plan: structure, shape and threads -> how a kernel cuts its work."""

from __future__ import annotations

from dataclasses import dataclass

from rnncc.errors import ArgumentError
from rnncc.spec import KernelSpec

SOLVERS = ("auto", "sequential")
LANE_BYTES = 64  # the inner loop of a kernel: one AVX-512 register, two of AVX2
STEPS_SAVED = 16


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
    spec: KernelSpec, batch: int, channels: int, itemsize: int, threads: int, solver: str = "auto"
) -> Plan:
    """Cut [batch, channels] into tiles so that all threads work with full vectors.

    Args:
        itemsize: bytes of the type that the recurrence is computed in.
    Raises:
        ArgumentError: an unknown solver.
    """
    check_solver(solver)
    lanes = LANE_BYTES // itemsize
    groups = channels // spec.group
    largest = spec.tile * 4 // itemsize if itemsize > 4 else spec.tile
    rows, columns = _tile(batch, groups, lanes, largest, threads)
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
    """Rows by columns; whole vectors, a tile for each thread, many vectors in flight."""
    if groups < lanes:
        # few channels: several sequences side by side fill a vector
        wanted = max(lanes, _round_up(-(-batch * groups // threads), lanes))
        return max(1, min(batch, min(wanted, largest) // groups)), groups
    tiles = -(-groups // largest)
    while batch * tiles < threads and groups // (tiles + 1) >= lanes:
        tiles += 1
    return 1, min(_round_up(-(-groups // tiles), lanes), largest)


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
