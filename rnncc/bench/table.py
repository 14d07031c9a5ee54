"""Table: a compiled cell -> its times at the shapes of docs/cuda.md, row by row, in given time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from rnncc.bench import workload
from rnncc.bench.baselines import Shape
from rnncc.bench.cuda import DIRECTIONS, Case, GpuTiming, memory_as_error
from rnncc.bench.timing import Place
from rnncc.compiler import CompiledCell

# Most informative first. From 512 to 32768 steps by doubling, the ends and the middle before the
# rest, to see where segments of time overtake one pass; decoding at the width of a model of 7
# billion params, for one user, a small server and a large one.
WIDE: tuple[Shape, ...] = ((8, 2048, 4096), (1, 32768, 2048), (1, 131072, 64), (64, 1024, 1024))
DOUBLED: tuple[Shape, ...] = tuple((8, steps * 512, 256) for steps in (64, 1, 16, 2, 8, 32))
DECODED: tuple[Shape, ...] = tuple((batch, 1, 4096) for batch in (1, 64, 512))
CHUNKED: Shape = (8, 2048, 256)  # the one shape of baselines that compile for long
COMPILING = 60.0  # seconds that must be left for them

SAMPLED, PATIENCE = 0.2, 1.5  # see `Case`: with the warm-up of each, 2 to 3 seconds a row


@dataclass(frozen=True)
class Row:
    """One row of the table: [B, T, N], a dtype, and "forward", "forward+backward" or "decode"."""

    shape: Shape
    dtype: str
    direction: str


@dataclass(frozen=True)
class Measured:
    """A row with its times, or with the reason that it has none."""

    row: Row
    timing: GpuTiming | None = None
    reason: str = ""

    def data(self) -> dict[str, Any]:
        """For machines: the row, "reason", and what `GpuTiming.data` holds."""
        shape, dtype, direction = self.row.shape, self.row.dtype, self.row.direction
        row = {"shape": list(shape), "dtype": dtype, "pass": direction, "reason": self.reason}
        return row | (self.timing.data() if self.timing else {})


def _rows(shapes: Sequence[Shape], directions: Sequence[str]) -> tuple[Row, ...]:
    return tuple(
        Row(shape, dtype, direction)
        for shape in shapes
        for dtype in ("float32", "bfloat16")
        for direction in directions
    )


ROWS = (
    *_rows(WIDE, DIRECTIONS[:2]),
    *_rows(DECODED, DIRECTIONS[2:]),
    *_rows((*DOUBLED, CHUNKED), DIRECTIONS[:2]),
)


def measure(
    compiled: CompiledCell,
    place: Place,
    budget: float = 180.0,
    rows: Sequence[Row] = ROWS,
    peers: bool = True,
) -> Iterator[Measured]:
    """Check and time row after row; one that fails doesn't stop the others.

    Args:
        place: a GPU and its clock.
        budget: seconds after which no other row is begun; those left are yielded with that reason.
        peers: also the programs of other projects.
    """
    table = _Table(compiled, place, budget, time.perf_counter() + budget, peers)
    return map(table.measured, rows)


@dataclass(frozen=True)
class _Table:
    compiled: CompiledCell
    place: Place
    budget: float
    end: float
    peers: bool
    checked: set[tuple[Shape, str]] = field(default_factory=set)

    @property
    def left(self) -> float:
        return self.end - time.perf_counter()

    def measured(self, row: Row) -> Measured:
        if self.left <= 0:
            return Measured(row, reason=f"not reached within {self.budget:.0f} s")
        try:
            with memory_as_error():
                return Measured(row, self.timing(row))
        except Exception as error:  # the rows after it may do
            return Measured(row, reason=str(error).strip() or type(error).__name__)

    def timing(self, row: Row) -> GpuTiming:
        workload.check_shape(self.compiled.spec, row.shape)
        dtype: torch.dtype = getattr(torch, row.dtype)
        case = Case(
            self.compiled,
            row.shape,
            dtype,
            self.place,
            budget=SAMPLED,
            patience=min(PATIENCE, self.left),
            against_peers=self.peers,
            builds=self.builds(row),
        )
        if (row.shape, row.dtype) not in self.checked:
            case.check()
            self.checked.add((row.shape, row.dtype))
        return case.time(row.direction, self.builds(row) and row.dtype == "float32")

    def builds(self, row: Row) -> bool:
        """Whether to time baselines that compile for long: chunks for 10 to 40 s a direction."""
        return row.shape == CHUNKED and self.left > COMPILING
