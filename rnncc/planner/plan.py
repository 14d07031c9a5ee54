"""Plan: the decisions that all targets share, and the record of a decision.

A target (cpu, cuda) lists the cuts and their cost; `Planner` chooses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from rnncc.errors import ArgumentError
from rnncc.ir.choices import Choices
from rnncc.ir.program import LARGEST_PRODUCT
from rnncc.ir.spec import KernelSpec

Shape = tuple[int, int, int]  # sequences, steps of the longest, channels

# Steps of the warm-up of a segment, by bytes of the state: over these, most cells forget all digits
# of their initial state.
WARM_UP = {4: 64, 8: 128}
NEWTON_ITERATIONS = 3  # unless the user says otherwise

# By bytes of the state, relative to its own size: how little a scan may still want to change for
# neighbouring segments to agree, a few units in the last place; and the largest change after which
# the next sweep is as exact as rounding lets it be, the root of a unit. Newton's iteration over
# single steps asks for less, relative to max(1, |state|) and to the state's largest size.
TOLERANCE = {4: 5e-7, 8: 1e-15}
SETTLED = {4: 3.5e-4, 8: 1.5e-8}
AFFINE_SETTLED = {4: 1e-3, 8: 1.5e-8}  # only rounding is left to correct
NEWTON_TOLERANCE = {4: 5e-7, 8: 1e-12}


@dataclass(frozen=True)
class Problem:
    """The size of a call: `batch` sequences by `groups` groups of channels.

    Attributes:
        steps, total: of the longest sequence, and of all.
    """

    batch: int
    steps: int
    total: int
    groups: int

    @classmethod
    def of(cls, spec: KernelSpec, shape: Shape, total: int | None) -> Problem:
        """With at least one of each.

        Args:
            total: steps of all sequences, if they aren't all as long as the longest.
        """
        batch, steps, channels = (max(1, size) for size in shape)
        longest = shape[0] * shape[1]
        total = max(1, longest if total is None else min(total, longest))
        return cls(batch, steps, total, max(1, channels // spec.group))

    def runs(self, segment: int) -> int:
        """How many segments all sequences have, at most."""
        return min(self.batch * -(-self.steps // segment), self.total // segment + self.batch)


@dataclass(frozen=True)
class Tiling:
    """Tiles of `rows` runs by `columns` groups of channels; a run is a segment of a sequence."""

    segment: int
    rows: int
    columns: int


@dataclass(frozen=True)
class Cut:
    """How one direction is cut.

    Attributes:
        tiling: segments and tiles; `whole`: those of one pass over time.
        sweeps: forward, the most sweeps before one pass solves the rest; backward, 2 if all
            segments may be walked twice, else 1.
        predicted: nanoseconds, if the warm-up finds the initial states.
        one_pass: nanoseconds of one pass over time instead.
        warm_up: steps that give a guess of a segment's border.
        rounds: CUDA: how often sweeps are launched.
        in_block: CUDA: segments are the warps of a block, which walks over time.
    """

    tiling: Tiling
    whole: Tiling
    sweeps: int
    predicted: float
    one_pass: float
    warm_up: int
    rounds: int = 0
    in_block: bool = False


@dataclass(frozen=True)
class Plan:
    """How one call runs.

    Attributes:
        solver: "sequential", "segmented" or "newton", and `reason` why.
        forward, backward: their cuts.
        patient: use all sweeps before giving up segments.
        tolerance: of neighbouring segments; `settled`: a correction after which they agree, 0 for
            none.
        checkpoint: steps between the saved states.
        threads: their number; 0 on a GPU.
    """

    solver: str
    reason: str
    forward: Cut
    backward: Cut
    patient: bool
    tolerance: float
    settled: float
    checkpoint: int
    threads: int


class Planner(ABC):
    """The choice of a solver, from the cuts of a target and their cost."""

    idle: str  # units that one pass over time leaves idle
    threads: int

    def __init__(
        self, spec: KernelSpec, problem: Problem, itemsize: int, choices: Choices, checkpoint: int
    ) -> None:
        self.spec = spec
        self.problem = problem
        self.steps = problem.steps
        self.itemsize = itemsize
        self.choices = choices
        self.checkpoint = checkpoint

    def plan(self) -> Plan:
        solver, reason, forward = self.forward()
        tol = self.choices.tol
        default = NEWTON_TOLERANCE if solver == "newton" else TOLERANCE
        settled = AFFINE_SETTLED if self.spec.structure.affine else SETTLED
        return Plan(
            solver=solver,
            reason=reason,
            forward=forward,
            backward=self.backward(),
            patient=self.choices.solver != "auto",
            tolerance=default[self.itemsize] if tol is None else tol,
            settled=settled[self.itemsize] if tol is None and solver != "newton" else 0.0,
            checkpoint=self.checkpoint,
            threads=self.threads,
        )

    def forward(self) -> tuple[str, str, Cut]:
        """Solver, reason, cut."""
        asked, whole = self.choices.solver, self.one_pass_cut()
        if self.spec.one_pass and asked != "sequential":
            if asked != "auto":
                raise ArgumentError(_needs_products(self.spec, asked))
            reason = f"one pass over time: {values_of(self.spec)}, too many for products"
            return "sequential", reason, whole
        if asked == "newton":
            iterations = min(self.choices.iterations or NEWTON_ITERATIONS, self.steps)
            return "newton", "every step at once, as asked", self.newton_cut(iterations + 1)
        if asked == "sequential":
            return "sequential", "one pass over time, as asked", whole
        if asked == "segmented":
            return "segmented", "as asked", self.segmented_cut()
        if self.spec.structure.spiking:
            reason = "one pass over time: a spike has no slope to iterate by"
            return "sequential", reason, whole
        cut = self.faster_cut(whole.one_pass)
        if cut is None:
            reason = "one pass over time: batch x channels fills the machine"
            return "sequential", reason, whole
        reason = f"batch x channels leaves {self.idle} idle; segments of time fill it"
        return "segmented", reason, cut

    def backward(self) -> Cut:
        """The cut of the backward; for Newton's iteration as the cost says, for it is linear."""
        asked, whole = self.choices.solver, self.back_one_pass_cut()
        if asked == "sequential" or self.spec.one_pass:
            return whole
        if asked == "segmented":
            return self.back_segmented_cut()
        return self.back_faster_cut(whole.one_pass) or whole

    def warm_up_of(self, segment: int) -> int:
        """Steps of the warm-up of a segment: within its neighbour."""
        return min(WARM_UP[self.itemsize], segment)

    def sweeps_of(self, segment: int, default: int | None = None) -> int:
        """Sweeps over segments of this length: the user's, `default`, or as many as can help.

        Each solves a segment of every sequence at least, but the first may be one in vain.
        """
        most = -(-self.steps // segment) + 1
        return min(self.choices.iterations or default or most, most)

    @abstractmethod
    def one_pass_cut(self) -> Cut:
        """Whole sequences, forward."""

    @abstractmethod
    def newton_cut(self, sweeps: int) -> Cut:
        """Every step a segment of its own."""

    @abstractmethod
    def segmented_cut(self) -> Cut:
        """Segments, of the user's length or of the best one."""

    @abstractmethod
    def faster_cut(self, one_pass: float) -> Cut | None:
        """Segments, if they are enough faster than `one_pass` nanoseconds."""

    @abstractmethod
    def back_one_pass_cut(self) -> Cut:
        """Whole sequences, backward."""

    @abstractmethod
    def back_segmented_cut(self) -> Cut:
        """The same of the backward as `segmented_cut`."""

    @abstractmethod
    def back_faster_cut(self, one_pass: float) -> Cut | None:
        """The same of the backward as `faster_cut`."""


def values_of(spec: KernelSpec) -> str:
    """The values of a group of channels, in words."""
    return f"{spec.size} values in a {'channel' if spec.group == 1 else 'group of channels'}"


def _needs_products(spec: KernelSpec, asked: str) -> str:
    return (
        f"solver: got {asked!r}, expected 'auto' or 'sequential': '{spec.name}' has "
        f"{values_of(spec)}, and products of step Jacobians are held for at most "
        f"{LARGEST_PRODUCT}.\nFix: solver='auto', which takes one pass over time"
    )


def round_up(value: int, multiple: int) -> int:
    """The next multiple, or the value itself."""
    return -(-value // multiple) * multiple
