"""Series: the kernels of one call, in their order, each with its grid.

The order never depends on results: on the device, each kernel decides whether it has work to do. So
a series is counted once for each shape and plan.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from rnncc.ir.abi import Stage
from rnncc.ir.spec import KernelSpec
from rnncc.planner.plan import Cut, Shape
from rnncc.planner.ring import (
    SUMMING_WARPS,
    WARP,
    WARPS_OF_BLOCK,
    ring_of,
    rows_of_block,
    shared_of_sums,
    shared_of_tiles,
)
from rnncc.runtime.args import layout_of
from rnncc.runtime.call import Call
from rnncc.runtime.cuda.launch import Launch, Module, Ready
from rnncc.runtime.kernel import COMPUTE, kernel_of
from rnncc.runtime.workspace import runs_of, workspace

SPREAD = 512  # warps; fewer go one to a block, so that they spread over all processors
CHANGED = ("stage", "round", "segment")  # members of Args, from launch to launch


@dataclass(frozen=True)
class Job:
    """What a series depends on: the call but for its tensors.

    Attributes:
        key: of the kernel.
        io, real: bytes of a scalar of the tensors, and of the states.
    """

    key: str
    shape: Shape
    total: int
    groups: int
    cut: Cut
    newton: bool
    io: int
    real: int

    @classmethod
    def of(cls, call: Call, cut: Cut) -> Job:
        """Of one direction of a call."""
        newton = call.plan.solver == "newton"
        sizes = call.dtype.itemsize, COMPUTE[call.dtype].itemsize
        return cls(call.kernel.key, call.shape, call.total, call.groups, cut, newton, *sizes)

    @property
    def spec(self) -> KernelSpec:
        return kernel_of(self.key).spec

    @property
    def runs(self) -> int:
        return runs_of(self.shape, self.total, self.cut)

    @property
    def by_grid(self) -> bool:
        """Whether there are segments of the grid."""
        return not self.cut.in_block and self.cut.tiling.segment < self.shape[1]


Named = tuple[str, Launch]  # by the kernel's name in CUDA_KERNELS, by which its module is found


def launcher(
    launches: Sequence[Named], find: Callable[[str], Module]
) -> Callable[[array[int]], None]:
    """What launches a series, one kernel after another, on Args.

    PyTorch hands memory on in the order of the stream, so that tensors need only live until the
    last launch.

    Args:
        find: a kernel's name -> the module that has it.
    """
    known: tuple[Module, list[Ready]] | None = None

    def launch(words: array[int]) -> None:
        nonlocal known
        held, first = known, find(launches[0][0])  # each time: in a forked process it raises
        if held is None or held[0] is not first:
            size = words.itemsize * len(words)
            held = known = first, [find(name).ready(one, size) for name, one in launches]
        first.run(held[1], words[:])  # the next call begins with the caller's

    return launch


class _Series:
    """Counts the launches of a series."""

    def __init__(self, job: Job) -> None:
        self.job, self.cut = job, job.cut
        self.across = -(-job.groups // job.cut.tiling.columns)
        self.launches: list[Named] = []
        layout, _ = layout_of(job.spec)
        self._places = {name: layout.offsets[name] for name in CHANGED}
        self._changes: dict[int, int] = {}

    def change(self, member: str, value: int) -> None:
        """A member of Args, for the launches to come."""
        self._changes[self._places[member]] = value

    def over_runs(self, name: str, runs: int, stage: Stage = Stage.SWEEP, number: int = 0) -> None:
        """A warp for each 32 / columns runs and each `columns` groups."""
        self.change("stage", stage)
        self.change("round", number)
        self.over_warps(name, -(-runs // (WARP // self.cut.tiling.columns)) * self.across)

    def over_warps(self, name: str, warps: int) -> None:
        found = ring_of(name, self.job.spec, self.job.io, self.job.real)
        most, shared = (rows_of_block(found), found.bytes) if found else (WARPS_OF_BLOCK, 0)
        rows = min(most, max(1, warps // SPREAD))
        self.over_blocks(name, -(-warps // rows), rows, rows * shared)

    def over_blocks(self, name: str, blocks: int, warps: int, shared: int = 0) -> None:
        """Blocks of `warps` warps, with `shared` bytes of shared memory."""
        full, changes = f"{self.job.spec.name}_{name}", tuple(self._changes.items())
        self.launches.append((name, Launch(full, blocks, (WARP, warps), shared, changes)))
        self._changes.clear()


@lru_cache(maxsize=1000)
def forward(job: Job) -> tuple[Named, ...]:
    """One pass over time, segments of a block, or segments of the grid and a pass for the rest."""
    series, cut = _Series(job), job.cut
    if cut.in_block:
        warps, blocks = cut.tiling.rows, job.shape[0] * _full_warps(job.groups)
        shared = shared_of_tiles(job.spec, warps, job.io, job.real, back=False)
        series.over_blocks("tiles", blocks, warps, shared)
        return tuple(series.launches)
    if job.by_grid:
        _sweeps(series)
    series.over_runs("forward", job.shape[0], Stage.REST)
    return tuple(series.launches)


def _sweeps(series: _Series) -> None:
    job = series.job
    series.over_blocks("number_runs", 1, SUMMING_WARPS)
    series.over_runs("sweep", job.runs, Stage.WARM_UP)
    for number in range(job.cut.rounds):
        for name in kernels_of(number, job.spec.structure.affine, job.newton):
            series.over_runs(name, job.runs, Stage.SWEEP, number)
        series.over_runs("scan", job.shape[0], Stage.SWEEP, number)


@lru_cache(maxsize=1000)
def jacobians(job: Job) -> tuple[Named, ...]:
    """The step Jacobians, one after another."""
    series = _Series(job)
    series.over_runs("jacobians", job.shape[0])
    return tuple(series.launches)


def kernels_of(number: int, affine: bool, newton: bool) -> list[str]:
    """Those that a sweep may need: `sweep_after` of common/policy.h takes one of them, or none."""
    # only the first sweep may leave M out, unless M is the same in all of them
    without_M = affine or (number == 0 and not newton)
    with_M = not affine or number < 2
    return ["forward"] * without_M + ["sweep"] * with_M


@lru_cache(maxsize=1000)
def backward(job: Job) -> tuple[Named, ...]:
    """The gradients of inputs and states, then the sums of those of params and shared inputs."""
    series, cut = _Series(job), job.cut
    batch, steps, _ = job.shape
    if cut.in_block:
        warps, blocks = cut.tiling.rows, batch * _full_warps(job.groups)
        shared = shared_of_tiles(job.spec, warps, job.io, job.real, back=True)
        series.over_blocks("back_tiles", blocks, warps, shared)
        series.change("segment", steps)  # the params' sums have one row a sequence
    elif job.by_grid:
        series.over_blocks("number_runs", 1, SUMMING_WARPS)
        series.over_runs("alone", job.runs, Stage.WARM_UP)
        series.over_runs("judge", batch)
        if cut.sweeps >= 2:
            series.over_runs("alone", job.runs)
            series.over_runs("scan_back", batch)
        for number in range(max(1, cut.sweeps - 1)):
            series.over_runs("backward", job.runs, Stage.SWEEP, number)
            series.over_runs("compare_back", batch, Stage.SWEEP, number)
        series.over_runs("backward", batch, Stage.REST)
        series.over_runs("reduce_starts", batch)
    else:
        series.over_runs("backward", batch, Stage.REST)
    _reduce(series)
    return tuple(series.launches)


def _reduce(series: _Series) -> None:
    job, spec = series.job, series.job.spec
    if spec.params:
        blocks = spec.param_slots * _full_warps(job.groups)
        shared = shared_of_sums(SUMMING_WARPS)
        series.over_blocks("reduce_params", blocks, SUMMING_WARPS, shared)
    if any(p.shared for p in spec.params):
        series.over_blocks("reduce_shared_params", spec.param_slots, 1)
    if spec.shared_inputs:
        series.over_warps("reduce_shared_inputs", -(-job.total // WARP))


def sums_of(call: Call, cut: Cut) -> int:
    """Rows of sums that a backward leaves for each param: one for each run, or each sequence."""
    return call.shape[0] if cut.in_block else runs_of(call.shape, call.total, cut)


def _full_warps(groups: int) -> int:
    """Warps that this many groups of channels fill."""
    return -(-groups // WARP)


def borders(call: Call, job: Job) -> dict[str, int]:
    """Scratch memory of segments of the grid, where there are any."""
    if not job.by_grid:
        return {}
    control = 2 * (1 + job.cut.rounds) + 2 * job.runs
    return workspace(call, job.cut, control=control)
