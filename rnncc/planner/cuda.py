"""Plan for CUDA: structure, shape and GPU -> which solver runs a call, and which blocks take it.

The cost model counts clock cycles: a thread's chain of dependent operations, or the latency of the
loads it has under way, where few warps share a processor; the instructions of all warps where many
do; or the bytes that memory moves. Its constants are in gpu_constants.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from rnncc.ir.choices import AUTO, Choices
from rnncc.ir.spec import Effort, KernelSpec
from rnncc.planner.gpu_constants import MEASURED, GpuConstants
from rnncc.planner.plan import (
    WARM_UP,
    Cut,
    Plan,
    Planner,
    Problem,
    Shape,
    Tiling,
    round_up,
)
from rnncc.planner.ring import MOST_SHARED, WARP, WARPS_OF_BLOCK, ring, warps_of_tiles

WARM_UP_OF_BLOCK = 4  # steps before a warp's segment, at most: kWarm of cuda/tiles.h
SCHEDULERS = 4  # of a processor; each starts one instruction of a warp in a cycle
ROUNDS = 8  # of sweeps at most, unless the user says otherwise; one pass over time solves the rest
AUTO_ROUNDS = 4
AFFINE_ROUNDS = 4  # at least: a guess in vain, M, the solve, and a correction
BACK_WALKS = 3  # over segments: alone, from the gradients of the scan, and corrected
SWEEPS_OF_TILE = 3  # that a block's segments take, as a rule
LETS_IN_REGISTERS = 64  # of a block of steps: kKeeps of cuda/backward.h
MOST_SAVED = 2**30  # steps
WORTH = 1.2  # times faster than one pass over time, for `auto`
RESIDENT = 16  # warps that a processor has at once, of 128 registers each
SHARED = 227 * 2**10  # bytes of shared memory of a block, on an H100


class Gpu(NamedTuple):
    """The properties of a GPU on which the plan depends.

    Attributes:
        processors: streaming multiprocessors.
        bytes_per_cycle: of its memory, for each cycle of a processor's clock.
        shared: bytes of shared memory that a block may have; a processor has about as many.
    """

    processors: int
    bytes_per_cycle: float = MEASURED.bytes_per_cycle
    constants: GpuConstants = MEASURED
    shared: int = SHARED

    @classmethod
    def of(cls, processors: int, constants: GpuConstants, shared: int = SHARED) -> Gpu:
        """With all constants as they were measured."""
        return cls(processors, constants.bytes_per_cycle, constants, shared)


def plan(
    spec: KernelSpec,
    shape: Shape,
    itemsize: int,
    gpu: Gpu,
    choices: Choices = AUTO,
    total: int | None = None,
    io: int | None = None,
) -> Plan:
    """Choose the solver and its level: one pass, segments of a block, or segments of the grid.

    Args:
        shape: sequences, steps of the longest (or a bound of it), channels.
        itemsize: bytes of the type that the recurrence is computed in.
        total: steps of all sequences, if they aren't all as long as the longest.
        io: bytes of the type of the tensors in memory, if it is another.
    """
    problem = Problem.of(spec, shape, total)
    return _Planner(spec, problem, itemsize, choices, gpu, io or itemsize).plan()


def steps_saved(spec: KernelSpec, choices: Choices) -> int:
    """Steps between saved states: whole blocks of those that a thread holds."""
    return round_up(min(choices.checkpoint or spec.ahead, MOST_SAVED), spec.ahead)


def columns_of(groups: int) -> int:
    """Neighbouring lanes that take neighbouring groups of channels: a power of two, 32 at most."""
    columns = 1
    while columns < min(groups, WARP):
        columns *= 2
    return columns


@dataclass(frozen=True)
class _Level:
    """One way to cut a direction: `cycles` it takes; the steps of a segment; within a block."""

    cycles: float
    segment: int
    in_block: bool = False


class _Planner(Planner):
    idle = "the GPU"
    threads = 0

    def __init__(
        self,
        spec: KernelSpec,
        problem: Problem,
        itemsize: int,
        choices: Choices,
        gpu: Gpu,
        io: int,
    ) -> None:
        super().__init__(spec, problem, itemsize, choices, steps_saved(spec, choices))
        self.gpu, self.io = gpu, io
        self.constants = gpu.constants
        self.batch, self.groups, self.total = problem.batch, problem.groups, problem.total

    # --- forward ---------------------------------------------------------------------------------

    def one_pass_cut(self) -> Cut:
        return self.cut(self.whole(), 1, self.whole())

    def newton_cut(self, sweeps: int) -> Cut:
        return self.cut(_Level(sweeps * self.sweep(1), 1), sweeps, self.whole())

    def segmented_cut(self) -> Cut:
        level = self.asked() or self.best()
        return self.cut(level, self.sweeps_of(level.segment, ROUNDS), self.whole())

    def faster_cut(self, one_pass: float) -> Cut | None:
        level, whole = self.best(), self.whole()
        if WORTH * level.cycles > whole.cycles:
            return None
        return self.cut(level, AUTO_ROUNDS, whole)

    def asked(self) -> _Level | None:
        """The segments that the user wants, in whole blocks of steps that a thread holds."""
        asked = self.choices.segment
        if asked is None:
            return None
        segment = round_up(asked, self.spec.ahead)
        if segment >= self.steps:
            return _Level(self.whole().cycles, self.steps)
        if segment == self.spec.ahead and self.choices.iterations is None:
            return self.tiles()
        return _Level(self.segments(segment), segment)

    def best(self) -> _Level:
        """The segments that cost least, of a block or of the grid.

        A block sweeps until its segments agree: it counts no iterations.
        """
        found = [self.tiles()] if self.choices.iterations is None else []
        for count in (2**n for n in range(1, 13)):
            segment = round_up(-(-self.steps // count), self.spec.ahead)
            if 2 * WARM_UP[4] <= segment < self.steps:
                found.append(_Level(self.segments(segment), segment))
        least = _Level(self.segments(self.spec.ahead), self.spec.ahead)
        return min(found, key=lambda level: level.cycles, default=least)

    def whole(self) -> _Level:
        cycles = self.walk(self.batch, self.steps, [self.step], self.streams)
        return _Level(cycles + self.constants.launch, self.steps)

    @property
    def step(self) -> Effort:
        """A step, but for what is computed before all of them."""
        step, early = self.spec.effort.step, self.spec.effort.early
        return step.model_copy(
            update={
                "operations": step.operations - early.operations,
                "functions": step.functions - early.functions,
            }
        )

    @property
    def streams(self) -> int:
        return len(self.spec.inputs) + len(self.spec.outputs)

    def borders(self, segment: int) -> float:
        """Walking over the borders of all segments, one after another."""
        return -(-self.steps // segment) * self.constants.border

    def sweep(self, segment: int) -> float:
        """A sweep that carries the product of the Jacobians, and the scan after it."""
        effort = [self.step, self.spec.effort.carry]
        swept = self.walk(self.problem.runs(segment), segment, effort, self.streams)
        return swept + self.borders(segment) + 2 * self.constants.launch

    def segments(self, segment: int) -> float:
        """Segments of the grid: their warm-up, a sweep for the product if affine, one that writes.

        That is all where the warm-up finds the initial states, as it does of gated cells. Affine
        cells often remember more; those that are neither take one pass, or more sweeps.
        """
        runs, spec = self.problem.runs(segment), self.spec
        with_product = [self.step, spec.effort.carry]
        cycles = self.walk(runs, self.warm_up_of(segment), with_product, len(spec.inputs))
        if spec.structure.affine:
            cycles += self.walk(runs, segment, with_product, len(spec.inputs))
            cycles += self.borders(segment)
        cycles += self.walk(runs, segment, [self.step], self.streams)
        launches = 4 + 2 * AUTO_ROUNDS
        return cycles + self.borders(segment) + launches * self.constants.launch

    def tiles(self) -> _Level:
        """Segments of a block, tile after tile."""
        spec, ahead, warps, c = self.spec, self.spec.ahead, self.warps(), self.constants
        runs = self.batch * warps
        with_product = [self.step, spec.effort.carry]
        sweep = self.walk(runs, ahead, with_product, self.streams, waits=False)
        inputs = len(spec.inputs)
        steps = min(WARM_UP_OF_BLOCK, ahead)
        guess = self.walk(runs, steps, [self.step], inputs, waits=False)
        scanned = 2 * c.barrier
        tile = self.fed(guess + SWEEPS_OF_TILE * (sweep + scanned))
        tiles = -(-self.steps // (ahead * warps))
        return _Level(tiles * tile + c.launch, ahead, in_block=True)

    # --- backward --------------------------------------------------------------------------------

    def back_one_pass_cut(self) -> Cut:
        whole = self.back_whole()
        return self.cut(whole, 1, whole)

    def back_segmented_cut(self) -> Cut:
        level = self.back_level()
        if level.segment >= self.steps:
            return self.back_one_pass_cut()
        return self.cut(level, BACK_WALKS, self.back_whole())

    def back_faster_cut(self, one_pass: float) -> Cut | None:
        level, whole = self.back_level(), self.back_whole()
        if level.segment >= self.steps or WORTH * level.cycles >= whole.cycles:
            return None
        return self.cut(level, BACK_WALKS, whole)

    def back_whole(self) -> _Level:
        cycles = self.back_walk(self.batch, self.steps)
        return _Level(cycles + 2 * self.constants.launch, self.steps)

    def back_level(self) -> _Level:
        """The segments that cost least, or those that the user wants."""
        asked, ahead = self.choices.segment, self.spec.ahead
        found = [self.back_tiles()] if self.checkpoint == ahead else []
        if asked is not None and asked <= ahead and found:
            return found[0]
        if asked is not None:
            segment = round_up(asked, self.checkpoint)
            return _Level(self.back_segments(segment), segment)
        for count in (2**n for n in range(1, 13)):
            segment = round_up(-(-self.steps // count), self.checkpoint)
            if 2 * WARM_UP[4] <= segment < self.steps:
                found.append(_Level(self.back_segments(segment), segment))
        return min(found, key=lambda level: level.cycles, default=self.back_whole())

    def back_tiles(self) -> _Level:
        """Segments of a block, tile after tile."""
        spec, ahead, warps, c = self.spec, self.spec.ahead, self.warps(), self.constants
        tiles = -(-self.steps // (ahead * warps))
        effort = [self.step, spec.effort.adjoint, spec.effort.through, *self.recomputed]
        walk = self.walk(self.batch * warps, ahead, effort, self.back_streams, waits=False)
        tile = self.fed(walk + 2 * c.barrier)
        return _Level(tiles * tile + 2 * c.launch, ahead, in_block=True)

    @property
    def back_streams(self) -> int:
        return 2 * len(self.spec.inputs) + len(self.spec.outputs)

    def back_walk(self, runs: int, steps: int) -> float:
        effort = [self.step, self.spec.effort.adjoint, *self.recomputed]
        return self.walk(runs, steps, effort, self.back_streams, back=True)

    @property
    def recomputed(self) -> list[Effort]:
        """A step that the backward takes twice, if it can't keep what derivatives read of it."""
        keeps = self.spec.ahead * self.spec.lets <= LETS_IN_REGISTERS
        return [] if keeps else [self.step]

    def back_segments(self, segment: int) -> float:
        """Likewise: the steps after each segment, the segments alone if affine, and a walk."""
        runs, spec = self.problem.runs(segment), self.spec
        alone = [self.step, spec.effort.through, *self.recomputed]
        cycles = self.walk(runs, self.warm_up_of(segment), alone, self.streams, back=True)
        if spec.structure.affine:
            cycles += self.walk(runs, segment, alone, self.streams, back=True)
            cycles += self.borders(segment)
        cycles += self.back_walk(runs, segment)
        return cycles + 2 * self.borders(segment) + 9 * self.constants.launch

    # --- both ------------------------------------------------------------------------------------

    def under_way(self, back: bool) -> int:
        """Steps whose inputs a thread that walks over steps has on their way, forward or `back`."""
        return ring(self.spec, self.io, self.itemsize, back).steps

    def fed(self, cycles: float) -> float:
        """The cycles of a tile of a block: its inputs come while the one before is computed."""
        return max(self.constants.latency, cycles)

    def walk(
        self,
        runs: int,
        steps: int,
        efforts: list[Effort],
        streams: int,
        back: bool = False,
        waits: bool = True,
    ) -> float:
        """Cycles of `runs` runs, each of `steps` steps.

        Args:
            back: it is a walk of the backward.
            waits: for its inputs; those of a block are there.
        """
        c, operations = self.constants, sum(e.operations for e in efforts)
        functions = sum(e.functions for e in efforts)
        in_turn = sum(e.chain_operations for e in efforts)
        slow = sum(e.chain_functions for e in efforts)
        chain = c.step + c.operation * in_turn + c.function * slow
        chain += c.aside * (operations - in_turn) + c.aside_function * (functions - slow)
        if waits:
            chain = max(chain, c.latency / self.under_way(back))
        issue = operations + c.issue_function * functions + c.issue_stream * streams
        warps = -(-runs * self.groups // WARP)
        each = -(-warps // (SCHEDULERS * self.gpu.processors))
        at_once = self.resident(back) if waits else RESIDENT
        waves = -(-warps // (self.gpu.processors * at_once))
        values = min(runs * steps, self.total) * self.groups * self.spec.group * streams
        memory = values * self.io / self.gpu.bytes_per_cycle
        begin = c.latency if waits else 0.0  # of its first inputs
        return float(max(steps * max(waves * chain, each * issue), memory) + begin)

    def resident(self, back: bool) -> int:
        """Warps that a processor has at once: those whose rings fit its memory."""
        found = ring(self.spec, self.io, self.itemsize, back)
        return min(RESIDENT, self.gpu.shared // max(1, found.bytes))

    def warps(self) -> int:
        """Of a block along time: at most the segments of a sequence, and those that fit memory."""
        most = min(self.gpu.shared, MOST_SHARED)
        found = warps_of_tiles(self.spec, self.io, self.itemsize, most)
        return min(found, -(-self.steps // self.spec.ahead))

    def cut(self, level: _Level, rounds: int, whole: _Level) -> Cut:
        columns = columns_of(self.groups)
        segment = min(level.segment, self.steps)
        rows = self.warps() if level.in_block else WARPS_OF_BLOCK
        return Cut(
            tiling=Tiling(segment, rows, columns),
            whole=Tiling(self.steps, WARPS_OF_BLOCK, columns),
            sweeps=rounds,
            predicted=level.cycles / self.constants.clock,
            one_pass=whole.cycles / self.constants.clock,
            warm_up=self.warm_up_of(segment),
            rounds=max(rounds, AFFINE_ROUNDS) if self.spec.structure.affine else rounds,
            in_block=level.in_block,
        )
