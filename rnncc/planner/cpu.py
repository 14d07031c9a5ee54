"""Plan: structure, shape and machine -> which solver runs a call, and how it cuts its work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rnncc.ir.spec import KernelSpec
from rnncc.planner import cpu_model as predict
from rnncc.planner.choices import AUTO, Choices
from rnncc.planner.cpu_model import LANE_BYTES, Tiling, Work
from rnncc.planner.machine import Machine, this_machine

STEPS_SAVED = 16
WORTH_A_THREAD = 16384  # values; below, waking a thread costs more than it saves
# Steps that lead up to a segment: most cells have forgotten by then where they began.
LEAD = 64
SHORTEST = 4 * LEAD  # of the segments that `auto` takes
WORTH_SEGMENTS = 1.25  # how many times faster segments must be than one pass, for `auto`
FEWEST_SWEEPS = 3  # that Newton's iteration takes, as a rule, where the guesses are not good enough

SLOWEST = 0.046  # of one pass over time, what a lead in vain may cost
AT_MOST = 0.9  # of one pass over time, what an iteration that ends well may cost

# How well neighbouring segments must agree by default, relative to max(1, |state|), by bytes of the
# state: a few units in the last place, or what rounding makes of a segment of K steps, sqrt(K) / 2
# units. One scan of an affine cell is exact, so there only what overflows is looked for.
EPSILON = {4: 2.0**-23, 8: 2.0**-52}
TOLERANCE = {4: 5e-7, 8: 1e-12}
AFFINE_TOLERANCE = {4: 1e-4, 8: 1e-11}


@dataclass(frozen=True)
class Cut:
    """How one direction is cut.

    Attributes:
        tiling: segments and tiles; `whole`: those of one pass over time.
        lead: steps that lead up to a segment.
        sweeps: forward, the most sweeps before one pass does the rest; backward, 2 if all segments
            may be walked twice, else 1.
        predicted: nanoseconds, if what leads up to the segments tells how they start.
        one_pass: nanoseconds of one pass over time instead.
        in_block: CUDA: segments are the warps of a block, which walks over time.
    """

    tiling: Tiling
    whole: Tiling
    lead: int
    sweeps: int
    predicted: float
    one_pass: float
    in_block: bool = False


@dataclass(frozen=True)
class Plan:
    """How one call runs.

    Attributes:
        solver: "sequential", "segmented" or "newton", and `reason` why.
        forward, backward: their cuts.
        patient: not to give up segments before all sweeps are done.
        tolerance: of neighbouring segments.
        every: steps between the states that the backward starts from.
        threads: how many work; 0 on a GPU.
    """

    solver: str
    reason: str
    forward: Cut
    backward: Cut
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
    cores: int | None = None,
    total: int | None = None,
    machine: Machine | None = None,
) -> Plan:
    """Choose the solver, and cut [sequences, steps, channels] so that all threads work.

    Args:
        itemsize: bytes of the type that the recurrence is computed in.
        threads: how many may work; a small call takes one.
        cores: how many to choose the solver for, `threads` if None. The choice doesn't follow
            `threads`, so that their number never changes a bit.
        total: steps of all sequences, if they aren't all as long as the longest.
    """
    batch, steps, _ = shape
    total = batch * steps if total is None else min(total, batch * steps)
    return _Planner(
        spec, shape, total, itemsize, threads, choices, cores or threads, machine
    ).plan()


class _Planner:
    def __init__(
        self,
        spec: KernelSpec,
        shape: tuple[int, int, int],
        total: int,
        itemsize: int,
        threads: int,
        choices: Choices,
        cores: int,
        machine: Machine | None,
    ) -> None:
        batch, steps, channels = (max(1, size) for size in shape)
        total = max(1, total)
        small = total * channels < WORTH_A_THREAD
        self.spec = spec
        self.choices = choices
        self.machine = machine or this_machine()
        self.itemsize = itemsize
        self.threads = 1 if small else threads
        self.lanes = LANE_BYTES // itemsize
        self.largest = spec.tile * 4 // max(4, itemsize)
        self.steps = steps
        self.every = choices.checkpoint or STEPS_SAVED
        groups = max(1, channels // spec.group)
        self.work = Work(batch, steps, total, groups, self.lanes, 1 if small else cores)

    def plan(self) -> Plan:
        solver, reason, forward = self.forward()
        affine = self.spec.structure.affine and solver != "newton"
        table = AFFINE_TOLERANCE if affine else TOLERANCE
        rounding = EPSILON[self.itemsize] * forward.tiling.segment**0.5 / 2
        tol = self.choices.tol
        return Plan(
            solver=solver,
            reason=reason,
            forward=forward,
            backward=self.backward(),
            patient=self.choices.solver != "auto",
            tolerance=max(table[self.itemsize], rounding) if tol is None else tol,
            every=self.every,
            threads=self.threads,
        )

    # --- forward ---------------------------------------------------------------------------------

    def forward(self) -> tuple[str, str, Cut]:
        """Solver, reason, cut."""
        choices, one_pass = self.choices, self.one_pass(self.steps)
        if choices.solver == "newton":
            iterations = min(choices.iterations or 3, self.steps)
            cost = (iterations + 1) * self.sweep(1)
            cut = self.cut(1, 1, iterations + 1, cost, one_pass)
            return "newton", "every step at once, as asked", cut
        if choices.solver == "segmented":
            segment = min(choices.segment or self.best(self.segmented), self.steps)
            most = -(-self.steps // segment) + 1  # the first may be one in vain
            sweeps = min(choices.iterations or most, most)
            cut = self.cut(segment, LEAD, sweeps, self.segmented(segment), one_pass)
            return "segmented", "as asked", cut
        whole = self.cut(self.steps, LEAD, 1, one_pass, one_pass)
        if choices.solver == "sequential":
            return "sequential", "one pass over time, as asked", whole
        return self.auto(whole)

    def auto(self, whole: Cut) -> tuple[str, str, Cut]:
        structure, one_pass = self.spec.structure, whole.one_pass
        if structure.spiking:
            return "sequential", "one pass over time: a spike has no slope to iterate by", whole
        segment = self.best(self.segmented, None if structure.affine else self.lead)
        predicted = self.segmented(segment)
        if segment == self.steps or WORTH_SEGMENTS * predicted > one_pass:
            return "sequential", "one pass over time: batch x channels gives enough to do", whole
        sweeps = int((AT_MOST * one_pass - self.lead(segment)) / self.sweep(segment))
        if structure.affine:
            sweeps = 4
        elif sweeps < FEWEST_SWEEPS:
            sweeps = 1
        reason = "batch x channels leaves the machine idle; segments of time fill it"
        return "segmented", reason, self.cut(segment, LEAD, sweeps, predicted, one_pass)

    def segmented(self, segment: int) -> float:
        last = self.one_pass(segment)
        if self.spec.structure.affine:
            return self.lead(segment) + self.sweep(segment) + last
        return self.lead(segment) + last

    def one_pass(self, segment: int) -> float:
        return predict.one_pass(self.machine, self.spec, self.work, self.tiling(segment, True))

    def sweep(self, segment: int) -> float:
        return predict.sweep(self.machine, self.spec, self.work, self.tiling(segment, True))

    def lead(self, segment: int) -> float:
        return predict.lead(self.machine, self.spec, self.work, self.tiling(segment, True), LEAD)

    # --- backward --------------------------------------------------------------------------------

    def backward(self) -> Cut:
        one_pass = self.back_pass(self.steps)
        whole = self.cut(self.steps, LEAD, 1, one_pass, one_pass)
        if self.choices.solver == "sequential":
            return whole
        asked = self.choices.segment
        if self.choices.solver == "segmented" and asked:
            segment = min(self.steps, -(-asked // self.every) * self.every)
        else:
            segment = self.best(self.back_segmented, lambda k: self.back_alone(k, LEAD))
        predicted = self.back_segmented(segment)
        if self.choices.solver == "segmented":
            return self.cut(segment, LEAD, 2, predicted, one_pass)
        if WORTH_SEGMENTS * predicted > one_pass:
            return whole
        twice = predicted + self.back_alone(segment, segment)
        sweeps = 2 if twice < AT_MOST * one_pass else 1
        return self.cut(segment, LEAD, sweeps, predicted, one_pass)

    def back_segmented(self, segment: int) -> float:
        return self.back_alone(segment, LEAD) + self.back_pass(segment)

    def back_pass(self, segment: int) -> float:
        return predict.back_pass(self.machine, self.spec, self.work, self.tiling(segment, True))

    def back_alone(self, segment: int, steps: int) -> float:
        tiling = self.tiling(segment, True)
        return predict.back_alone(self.machine, self.spec, self.work, tiling, steps)

    # --- both ------------------------------------------------------------------------------------

    def best(self, cost: Callable[[int], float], lead: Callable[[int], float] | None = None) -> int:
        """The length of segments that costs least: all steps, or a multiple of those saved.

        Args:
            lead: what may turn out to be in vain, so that only lengths count for which it is cheap.
        """
        unit = -(-STEPS_SAVED // self.every) * self.every
        lengths, one_pass = [], cost(self.steps)
        for count in (2**n for n in range(1, 12)):
            length = _round_up(-(-self.steps // count), unit)
            if length < SHORTEST or length >= self.steps:
                continue
            if lead is None or lead(length) <= SLOWEST * one_pass:
                lengths.append(length)
        return min([self.steps, *lengths], key=cost)

    def cut(self, segment: int, lead: int, sweeps: int, predicted: float, one_pass: float) -> Cut:
        tilings = self.tiling(segment), self.tiling(self.steps)
        return Cut(*tilings, lead, sweeps, predicted, one_pass)

    def tiling(self, segment: int, chosen_for_cores: bool = False) -> Tiling:
        runs = self.work.runs(segment)
        threads = self.work.threads if chosen_for_cores else self.threads
        rows, columns = _tile(runs, self.work.groups, self.lanes, self.largest, threads)
        return Tiling(segment, rows, columns)


def _tile(runs: int, groups: int, lanes: int, largest: int, threads: int) -> tuple[int, int]:
    """Rows by columns: whole vectors, many of them in flight, and as much work for each thread."""
    wanted = min(_round_up(-(-runs * groups // threads), lanes), largest)
    if groups < lanes or wanted >= 2 * groups:  # several runs side by side
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
