"""Plan for the CPU: structure, shape and machine -> the solver of a call, and its tiles."""

from __future__ import annotations

from collections.abc import Callable

from rnncc.ir.choices import AUTO, Choices
from rnncc.ir.spec import KernelSpec
from rnncc.planner import cpu_model
from rnncc.planner.cpu_model import LANE_BYTES, Load, span_of
from rnncc.planner.machine import Machine, this_machine
from rnncc.planner.plan import WARM_UP, Cut, Plan, Planner, Problem, Shape, Tiling, round_up

STEPS_SAVED = 16
WORTH_A_THREAD = 16384  # values; with fewer, waking a thread costs more than it saves
SHORTEST = 4 * WARM_UP[4]  # of the segments that `auto` takes
ALIKE = 1.05  # of the least predicted cost
WORTH_SEGMENTS = 1.25  # how many times faster segments must be than one pass, for `auto`
# Sweeps that are taken, as a rule, where the guesses are not good enough: by Newton's iteration; by
# an affine cell, one for M and then the solve and a correction.
FEWEST_SWEEPS = 4
AFFINE_SWEEPS = 3
BACK_WALKS = 4  # over segments: alone, from the gradients of the scan, and corrected

SLOWEST = 0.1  # of one pass over time: the most that a warm-up in vain may cost
# Of one pass over time: the most that may be predicted where states are forgotten slowly, for
# Newton's iteration, for an affine cell and for the backward, whose sweeps are short (the model has
# no cost of a sweep itself); and the most that all sweeps may cost that there may be.
NEWTON_AT_MOST = 0.6
AFFINE_AT_MOST = 0.38
BACK_AT_MOST = 0.25
ALL_AT_MOST = 0.8


def plan(
    spec: KernelSpec,
    shape: Shape,
    itemsize: int,
    threads: int,
    choices: Choices = AUTO,
    cores: int | None = None,
    total: int | None = None,
    machine: Machine | None = None,
) -> Plan:
    """Choose the solver, and cut [sequences, steps, channels] so that all threads work.

    Args:
        itemsize: bytes of the type that the recurrence is computed in.
        threads: at most; a small call takes one.
        cores: the number for which the solver is chosen, `threads` if None. The choice doesn't
            depend on `threads`, so that their number never changes a bit.
        total: steps of all sequences, if they aren't all as long as the longest.
    """
    problem = Problem.of(spec, shape, total)
    if problem.total * max(1, shape[2]) < WORTH_A_THREAD:
        threads = cores = 1
    machine = machine or this_machine()
    return _Planner(spec, problem, itemsize, choices, threads, cores or threads, machine).plan()


def steps_saved(spec: KernelSpec, choices: Choices) -> int:
    """Steps between saved states."""
    return choices.checkpoint or STEPS_SAVED


class _Planner(Planner):
    idle = "the machine"

    def __init__(
        self,
        spec: KernelSpec,
        problem: Problem,
        itemsize: int,
        choices: Choices,
        threads: int,
        cores: int,
        machine: Machine,
    ) -> None:
        super().__init__(spec, problem, itemsize, choices, steps_saved(spec, choices))
        self.threads = threads
        self.lanes = LANE_BYTES // itemsize
        self.largest, self.widest = (n * 4 // max(4, itemsize) for n in (spec.tile, spec.widest))
        self.model = cpu_model.Model(machine, spec, Load(problem, self.lanes, cores))

    # --- forward ---------------------------------------------------------------------------------

    def one_pass_cut(self) -> Cut:
        one_pass = self.one_pass(self.steps)
        return self.cut(self.steps, 1, one_pass, one_pass)

    def newton_cut(self, sweeps: int) -> Cut:
        cost = sweeps * self.sweep(1)
        return self.cut(1, sweeps, cost, self.one_pass(self.steps))

    def segmented_cut(self) -> Cut:
        segment = min(self.choices.segment or self.best(self.segmented), self.steps)
        predicted, one_pass = self.segmented(segment), self.one_pass(self.steps)
        return self.cut(segment, self.sweeps_of(segment), predicted, one_pass)

    def faster_cut(self, one_pass: float) -> Cut | None:
        affine = self.spec.structure.affine
        if affine:
            segment = self.best(self.corrected)
            if segment < self.steps and self.corrected(segment) <= AFFINE_AT_MOST * one_pass:
                sweeps = self.affine_sweeps(segment, one_pass)
                return self.cut(segment, sweeps, self.corrected(segment), one_pass)
        segment = self.best(self.segmented, self.warm_up)
        predicted = self.segmented(segment)
        if segment == self.steps or WORTH_SEGMENTS * predicted > one_pass:
            return None
        sweeps = 1 if affine else self.newton_sweeps(segment, one_pass)
        return self.cut(segment, sweeps, predicted, one_pass)

    def newton_sweeps(self, segment: int, one_pass: float) -> int:
        """As many as are worth it, or one."""
        warm_up, sweep = self.warm_up(segment), self.sweep(segment)
        if warm_up + FEWEST_SWEEPS * sweep > NEWTON_AT_MOST * one_pass:
            return 1
        return int((ALL_AT_MOST * one_pass - warm_up) / sweep)

    def segmented(self, segment: int) -> float:
        """Where the warm-up finds the initial states."""
        return self.warm_up(segment) + self.one_pass(segment)

    def corrected(self, segment: int) -> float:
        """The sweeps of an affine cell that remembers more."""
        solves = (AFFINE_SWEEPS - 1) * self.one_pass(segment)
        return self.warm_up(segment) + self.sweep(segment) + solves

    def affine_sweeps(self, segment: int, one_pass: float) -> int:
        """As many as are worth it, beside one in vain from the guesses."""
        left = ALL_AT_MOST * one_pass - self.corrected(segment)
        return 1 + AFFINE_SWEEPS + min(2, int(left / self.one_pass(segment)))

    def one_pass(self, segment: int) -> float:
        return self.model.one_pass(self.tiling_for_cores(segment))

    def sweep(self, segment: int) -> float:
        return self.model.sweep(self.tiling_for_cores(segment))

    def warm_up(self, segment: int) -> float:
        return self.model.warm_up(self.tiling_for_cores(segment), WARM_UP[self.itemsize])

    # --- backward --------------------------------------------------------------------------------

    def back_one_pass_cut(self) -> Cut:
        one_pass = self.back_pass(self.steps)
        return self.cut(self.steps, 1, one_pass, one_pass)

    def back_segmented_cut(self) -> Cut:
        asked = self.choices.segment
        segment = min(self.steps, round_up(asked, self.checkpoint)) if asked else self.back_best()
        return self.cut(
            segment, BACK_WALKS, self.back_segmented(segment), self.back_pass(self.steps)
        )

    def back_faster_cut(self, one_pass: float) -> Cut | None:
        segment = self.back_best()
        predicted = self.back_segmented(segment)
        if WORTH_SEGMENTS * predicted > one_pass:
            return None
        twice = predicted + self.back_alone(segment, segment) + self.back_pass(segment)
        sweeps = BACK_WALKS if twice < BACK_AT_MOST * one_pass else 1
        return self.cut(segment, sweeps, predicted, one_pass)

    def back_best(self) -> int:
        return self.best(
            self.back_segmented, lambda segment: self.back_alone(segment, WARM_UP[self.itemsize])
        )

    def back_segmented(self, segment: int) -> float:
        return self.back_alone(segment, WARM_UP[self.itemsize]) + self.back_pass(segment)

    def back_pass(self, segment: int) -> float:
        return self.model.back_pass(self.tiling_for_cores(segment))

    def back_alone(self, segment: int, steps: int) -> float:
        return self.model.back_alone(self.tiling_for_cores(segment), steps)

    # --- both ------------------------------------------------------------------------------------

    def best(
        self, cost: Callable[[int], float], in_vain: Callable[[int], float] | None = None
    ) -> int:
        """The length of segments that costs least: all steps, or a multiple of those saved.

        Of lengths whose costs differ by less than the model knows it is the longest, by which fewer
        streams run through memory at once.

        Args:
            in_vain: the part that may be wasted; only lengths count for which it is cheap.
        """
        unit = round_up(STEPS_SAVED, self.checkpoint)
        lengths, one_pass = [], cost(self.steps)
        for count in (2**n for n in range(1, 12)):
            length = round_up(-(-self.steps // count), unit)
            if length < SHORTEST or length >= self.steps:
                continue
            if in_vain is None or in_vain(length) <= SLOWEST * one_pass:
                lengths.append(length)
        least = min(map(cost, [self.steps, *lengths]))
        alike = [length for length in lengths if cost(length) <= ALIKE * least]
        return self.steps if one_pass == least else max(alike)

    def cut(self, segment: int, sweeps: int, predicted: float, one_pass: float) -> Cut:
        tiling, whole = (self.tiling(n, self.threads) for n in (segment, self.steps))
        return Cut(tiling, whole, sweeps, predicted, one_pass, self.warm_up_of(segment))

    def tiling_for_cores(self, segment: int) -> Tiling:
        """By which the solver is chosen, however many threads work."""
        return self.tiling(segment, self.model.load.threads)

    def tiling(self, segment: int, threads: int) -> Tiling:
        runs, groups = self.problem.runs(segment), self.problem.groups
        rows, columns = _tile(runs, groups, self.lanes, (self.largest, self.widest), threads)
        return Tiling(segment, rows, columns)


def _tile(
    runs: int, groups: int, lanes: int, most: tuple[int, int], threads: int
) -> tuple[int, int]:
    """Rows by columns: whole vectors, many of them in flight, and equal shares for all threads.

    A tile of one run takes its whole row, for caches are filled best in one stream through memory;
    less of it only where threads would be without a tile.

    Args:
        most: lanes of a tile of several runs, and of one.
    """
    span, (several, one) = span_of(groups, lanes), most
    wanted = min(round_up(-(-runs * groups // threads), lanes), several)
    if groups < lanes or wanted >= 2 * span:  # several runs side by side
        return max(1, min(runs, wanted // span)), groups
    fewest = -(-groups // one)
    counts = range(fewest, min(max(fewest, groups // lanes), fewest + 2 * threads) + 1)
    best = min(counts, key=lambda tiles: (round(_idle(runs * tiles, threads), 1), tiles))
    return 1, min(round_up(-(-groups // best), lanes), one)


def _idle(tiles: int, threads: int) -> float:
    """The share of the threads' time that is lost when tiles don't divide among them."""
    return -(-tiles // threads) * threads / max(1, tiles) - 1
