"""Predict: a cut of a pass over time -> its time on this machine, by a model of a step's cost."""

from __future__ import annotations

from dataclasses import dataclass

from rnncc.ir.spec import Effort, KernelSpec
from rnncc.planner.machine import Machine

LANE_BYTES = 64  # the inner loop of a kernel: one AVX-512 register, two of AVX2


@dataclass(frozen=True)
class Work:
    """What is to be done: `batch` sequences by `groups` groups of channels.

    Attributes:
        steps, total: of the longest sequence, and of all.
        lanes: that fill LANE_BYTES.
        threads: that share it.
    """

    batch: int
    steps: int
    total: int
    groups: int
    lanes: int
    threads: int

    def runs(self, segment: int) -> int:
        """How many segments all sequences have, about."""
        return min(self.batch * -(-self.steps // segment), self.total // segment + self.batch)


@dataclass(frozen=True)
class Tiling:
    """Tiles of `rows` runs by `columns` groups of channels; a run is a segment of a sequence."""

    segment: int
    rows: int
    columns: int


def one_pass(machine: Machine, spec: KernelSpec, work: Work, tiling: Tiling) -> float:
    """Nanoseconds of the forward in one piece, or of one sweep of its segments."""
    streams = len(spec.inputs) + len(spec.outputs)
    return _walk(machine, work, tiling, tiling.segment, [spec.effort.step], streams)


def lead(machine: Machine, spec: KernelSpec, work: Work, tiling: Tiling, steps: int) -> float:
    """The steps that lead up to each segment."""
    efforts = [spec.effort.step, spec.effort.carry]
    return _walk(machine, work, tiling, steps, efforts, len(spec.inputs))


def sweep(machine: Machine, spec: KernelSpec, work: Work, tiling: Tiling) -> float:
    """A sweep that carries the product of the Jacobians, and the scan after it."""
    efforts = [spec.effort.step, spec.effort.carry]
    streams = len(spec.inputs) + len(spec.outputs)
    runs = work.runs(tiling.segment)
    scan = runs * work.groups * spec.size**2 * machine.operation
    return _walk(machine, work, tiling, tiling.segment, efforts, streams) + scan


def back_pass(machine: Machine, spec: KernelSpec, work: Work, tiling: Tiling) -> float:
    """The backward in one piece, or the walk over all segments that writes the gradients."""
    streams = 3 * len(spec.inputs) + len(spec.outputs)
    efforts = [spec.effort.step, spec.effort.adjoint]
    return _walk(machine, work, tiling, tiling.segment, efforts, streams)


def back_alone(machine: Machine, spec: KernelSpec, work: Work, tiling: Tiling, steps: int) -> float:
    """The gradients through `steps` of each segment alone."""
    streams = 2 * len(spec.inputs) + len(spec.outputs)
    efforts = [spec.effort.step, spec.effort.through]
    return _walk(machine, work, tiling, steps, efforts, streams)


def _walk(
    machine: Machine, work: Work, tiling: Tiling, steps: int, efforts: list[Effort], streams: int
) -> float:
    """All tiles through so many steps."""
    return machine.nanoseconds(counts(work, tiling, steps, efforts, streams))


def counts(work: Work, tiling: Tiling, steps: int, efforts: list[Effort], streams: int) -> Machine:
    """How often the busiest thread does each thing."""
    rows, columns = tiling.rows, tiling.columns
    runs = work.runs(tiling.segment)
    across = -(-work.groups // columns)
    tiles = -(-runs // rows) * across
    mean = min(steps, work.total / runs)
    taken = max(steps, -(-tiles // work.threads) * mean)  # steps of tiles that a thread takes
    vectors = taken * -(-rows * columns // work.lanes)
    copied = 0 if columns % work.lanes == 0 else taken * rows * streams
    together = work.threads > 1 and tiles > 1
    return Machine(
        step=taken * len(efforts),
        operation=vectors * sum(e.operations for e in efforts),
        function=vectors * sum(e.functions for e in efforts),
        row=copied,
        value=copied * columns,
        beside=taken if together and across > 1 else 0,
        wake=1 if together else 0,
    )
