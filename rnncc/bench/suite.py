"""Suite: a compiled cell and rows of the table -> times of all programs there, taken in turns."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from rnncc.bench import workload
from rnncc.bench.baselines import UnavailableError, oracle
from rnncc.bench.programs import (
    AT_BASE,
    CHUNKS,
    COPY,
    DECODER,
    EAGER,
    GRU_CELL,
    KEPT,
    LINEAR,
    LOOP,
    RECURRENCE,
    RNNCC,
    Programs,
    programs,
)
from rnncc.bench.rows import BOTH, FUNCTION, PACKED, Row
from rnncc.bench.timing import Run, interleave
from rnncc.bench.watch import Watch
from rnncc.compiler import CompiledCell

SECONDS = 1.5  # of all programs of a row, once they are warm
CHECKED = 64  # steps on which a kernel is held to the loop
CALLS = 10  # of one step in a sample, whose clock they would else be too short for
# Without the loop under torch.compile, which compiles for 10 to 40 seconds.
USUAL = (RNNCC, COPY, LOOP, EAGER, GRU_CELL, LINEAR, KEPT, RECURRENCE, DECODER)


@dataclass(frozen=True)
class Found:
    """Median seconds at a row, by program.

    Attributes:
        skipped: the reason of each program that can't run.
        runs: samples of the slowest.
        bytes: the least that the pass must read and write.
        others: the share of the processors' time that others took; None if that is unknown.
    """

    row: Row
    seconds: Mapping[str, float]
    skipped: Mapping[str, str]
    runs: int
    bytes: int
    others: float | None

    @property
    def per_element(self) -> float:
        """Nanoseconds of rnncc for one step of one channel of one sequence."""
        return self.seconds[RNNCC] * 1e9 / self.row.size

    @property
    def share(self) -> float | None:
        """Of the speed of a copy of as many bytes as the pass must move."""
        copy = self.seconds.get(COPY)
        return None if copy is None else copy / self.seconds[RNNCC]

    @property
    def rivals(self) -> dict[str, float]:
        """The other programs' seconds."""
        return {name: s for name, s in self.seconds.items() if name not in (RNNCC, COPY, AT_BASE)}

    def data(self) -> dict[str, Any]:
        """For machines; milliseconds."""
        row = self.row
        return {
            "work": row.work,
            "shape": list(row.shape),
            "dtype": row.dtype,
            "pass": row.direction,
            "ms": {name: seconds * 1e3 for name, seconds in self.seconds.items()},
            "ns_per_element": self.per_element if RNNCC in self.seconds else None,
            "share_of_copy": self.share if RNNCC in self.seconds else None,
            "bytes": self.bytes,
            "runs": self.runs,
            "others": self.others,
            "skipped": dict(self.skipped),
        }


def measure(
    compiled: CompiledCell,
    row: Row,
    wanted: Collection[str] = USUAL,
    budget: float = SECONDS,
    more: Programs | None = None,
) -> Found:
    """Check rnncc on a few steps, then time the programs of a row in turns.

    Args:
        wanted: names of programs; those that a row doesn't have are left out.
        budget: about how many seconds all take, once they are warm.
        more: other programs.
    Raises:
        ArgumentError: the shape doesn't fit the cell.
        RnnccError: the kernel and the loop don't agree.
    """
    spec, io = compiled.spec, getattr(torch, row.dtype)
    workload.check_shape(spec, row.shape)
    _check(compiled, row)
    runs: dict[str, Run] = {}
    skipped: dict[str, str] = {}
    try:
        made = {**programs(compiled, row), **(more or {})}
    except UnavailableError as error:
        made, skipped = {}, {RNNCC: str(error)}
    for name, make in made.items():
        if name in wanted:
            try:
                runs[name] = _sampled(row, make())
            except UnavailableError as error:
                skipped[name] = str(error)
    if CHUNKS in runs:
        runs[CHUNKS]()  # compiles, partly by other processes
    watch = Watch()
    times = interleave(runs, budget)
    return Found(
        row,
        {name: statistics.median(samples) / _calls(row) for name, samples in times.items()},
        skipped,
        min(map(len, times.values()), default=0),
        workload.bytes_moved(spec, row.shape, row.direction, io.itemsize),
        watch.others(),
    )


def _check(compiled: CompiledCell, row: Row) -> None:
    if row.work not in (FUNCTION, PACKED):
        return
    batch, steps, channels = row.shape
    few, io = (batch, min(steps, CHECKED), channels), getattr(torch, row.dtype)
    arguments = workload.random_arguments(compiled.spec, few, dtype=io)
    loop = oracle(compiled.stages.cell, io)
    workload.check(workload.fused_loop(compiled), loop, arguments, compiled.spec)


def _calls(row: Row) -> int:
    return CALLS if row.shape[1] == 1 else 1


def _sampled(row: Row, run: Run) -> Run:
    """A sample of it: some calls, gradients enabled once for all of them or not."""

    def sample(calls: int, gradients: bool) -> None:
        with torch.set_grad_enabled(gradients):
            for _ in range(calls):
                run()

    return partial(sample, _calls(row), row.direction == BOTH)
