"""CPU model: a cut of a pass over time -> its predicted time, from the cost of a step."""

from __future__ import annotations

from dataclasses import dataclass

from rnncc.ir.spec import Effort, KernelSpec
from rnncc.planner.machine import Machine
from rnncc.planner.plan import Problem, Tiling, round_up

LANE_BYTES = 64  # the inner loop of a kernel: one AVX-512 register, two of AVX2
SLICE = 16  # vectors of these, which a step takes at once
WAIT = 3  # vectors that could be computed in the time until the result of one is there


@dataclass(frozen=True)
class Load:
    """A problem and the threads that compute it.

    Attributes:
        lanes: that fill LANE_BYTES.
        threads: that share it.
    """

    problem: Problem
    lanes: int
    threads: int


@dataclass(frozen=True)
class Model:
    """Nanoseconds of the parts of a call, cut into tiles."""

    machine: Machine
    spec: KernelSpec
    load: Load

    def one_pass(self, tiling: Tiling) -> float:
        """The forward in one piece, or one sweep of its segments."""
        streams = len(self.spec.inputs) + len(self.spec.outputs)
        return self._walk(tiling, tiling.segment, [self.spec.effort.step], streams)

    def warm_up(self, tiling: Tiling, steps: int) -> float:
        """The steps before each segment."""
        efforts = [self.spec.effort.step, self.spec.effort.carry]
        return self._walk(tiling, steps, efforts, len(self.spec.inputs))

    def sweep(self, tiling: Tiling) -> float:
        """A sweep that carries the product of the Jacobians, and the scan after it."""
        efforts = [self.spec.effort.step, self.spec.effort.carry]
        streams = len(self.spec.inputs) + len(self.spec.outputs)
        problem = self.load.problem
        runs = problem.runs(tiling.segment)
        scan = runs * problem.groups * self.spec.size**2 * self.machine.operation
        return self._walk(tiling, tiling.segment, efforts, streams) + scan

    def back_pass(self, tiling: Tiling) -> float:
        """The backward in one piece, or the walk over all segments that writes the gradients."""
        streams = 3 * len(self.spec.inputs) + len(self.spec.outputs)
        efforts = [self.spec.effort.step, self.spec.effort.adjoint]
        return self._walk(tiling, tiling.segment, efforts, streams)

    def back_alone(self, tiling: Tiling, steps: int) -> float:
        """The gradients through `steps` of each segment alone."""
        streams = 2 * len(self.spec.inputs) + len(self.spec.outputs)
        efforts = [self.spec.effort.step, self.spec.effort.through]
        return self._walk(tiling, steps, efforts, streams)

    def _walk(self, tiling: Tiling, steps: int, efforts: list[Effort], streams: int) -> float:
        """All tiles through `steps` steps."""
        return self.machine.nanoseconds(counts(self.load, tiling, steps, efforts, streams))


def span_of(columns: int, lanes: int) -> int:
    """Lanes of a run of these columns: whole vectors, unless they don't fill one."""
    return columns if columns < lanes else round_up(columns, lanes)


def counts(load: Load, tiling: Tiling, steps: int, efforts: list[Effort], streams: int) -> Machine:
    """The counts of the busiest thread."""
    problem, rows, columns = load.problem, tiling.rows, tiling.columns
    runs = problem.runs(tiling.segment)
    across = -(-problem.groups // columns)
    tiles = -(-runs // rows) * across
    mean = min(steps, problem.total / runs)
    taken = max(steps, -(-tiles // load.threads) * mean)  # steps of tiles that a thread takes
    span = span_of(columns, load.lanes)
    wide = -(-rows * span // load.lanes)
    operations = sum(max(wide * e.operations, WAIT * e.chain_operations) for e in efforts)
    functions = sum(max(wide * e.functions, WAIT * e.chain_functions) for e in efforts)
    copied = 0 if span % load.lanes == 0 else taken * rows * streams
    alone = columns == 1  # then many steps are copied in one loop
    together = load.threads > 1 and tiles > 1
    return Machine(
        step=taken * -(-wide // SLICE) * len(efforts),
        operation=taken * operations,
        function=taken * functions,
        row=0 if alone else copied,
        piece=copied * _pieces(columns, load.lanes),
        beside=taken * wide if together and across > 1 else 0,
        wake=1 if together else 0,
    )


def _pieces(columns: int, lanes: int) -> int:
    """Of a row that fills no vector: its values, or two parts of a vector that may overlap."""
    return columns if columns < lanes // 4 else 2
