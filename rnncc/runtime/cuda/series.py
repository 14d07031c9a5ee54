"""Series: the kernels of one call, in their order, each with its grid.

The order never depends on results: on the device, each kernel decides whether it has work to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import cast

from torch import Tensor

from rnncc.ir.abi import WORD, Stage
from rnncc.planner.plan import Cut
from rnncc.planner.ring import (
    SUMMING_WARPS,
    WARP,
    WARPS_OF_BLOCK,
    ring_of,
    rows_of_block,
    shared_of_sums,
    shared_of_tiles,
)
from rnncc.runtime.args import Value, View, input_views, layout_of, words_of
from rnncc.runtime.call import Call
from rnncc.runtime.cuda.module import Module
from rnncc.runtime.kernel import COMPUTE, kernel_of
from rnncc.runtime.workspace import NO_WORKSPACE, Workspace, runs_of, workspace

SPREAD = 512  # warps; fewer go one to a block, so that they spread over all processors
VIEWS = ("x", "y", "z", "dy", "dz", "dx")


class Series:
    """Kernels of one call, one after another.

    PyTorch hands memory on in the order of the stream, so that the workspace need only live until
    the last launch.

    Args:
        values: members of Args. From launch to launch only the stage and the round change, and
            whether there are segments.
        like: a tensor in whose kind of memory the workspace is; None for no workspace.
        find: a kernel's name -> the module that has it.
    """

    def __init__(
        self,
        call: Call,
        cut: Cut,
        values: dict[str, Value],
        like: Tensor | None,
        find: Callable[[str], Module],
    ) -> None:
        spec = call.kernel.spec
        self.call, self.cut, self.find = call, cut, find
        self.space = NO_WORKSPACE if like is None else _borders(call, cut, like)
        self.values = {"x": input_views(spec, call.inputs, call.packed), **values}
        if call.choices.reverse:
            self.values |= {n: _reversed(v) for n, v in self.values.items() if n in VIEWS}
        self.words = words_of(call, cut, {**self.values, **self.space.members})
        self.across = -(-call.groups // cut.tiling.columns)
        self.sizes = call.dtype.itemsize, COMPUTE[call.dtype].itemsize  # of tensors, of states

    def change(self, member: str, value: int) -> None:
        """A member of Args, for the launches to come."""
        layout, _ = layout_of(self.call.kernel.spec)
        self.words[layout.offsets[member]] = value

    def over_runs(self, name: str, runs: int, stage: Stage = Stage.SWEEP, number: int = 0) -> None:
        """A warp for each 32 / columns runs and each `columns` groups."""
        self.change("stage", stage)
        self.change("round", number)
        self.over_warps(name, -(-runs // (WARP // self.cut.tiling.columns)) * self.across)

    def over_warps(self, name: str, warps: int) -> None:
        most, shared = _block_of(name, self.call.kernel.key, *self.sizes)
        rows = min(most, max(1, warps // SPREAD))
        self.over_blocks(name, -(-warps // rows), rows, rows * shared)

    def over_blocks(self, name: str, blocks: int, warps: int, shared: int = 0) -> None:
        """Blocks of `warps` warps, with `shared` bytes of shared memory."""
        address, length = self.words.buffer_info()
        full = f"{self.call.kernel.spec.name}_{name}"
        self.find(name).launch(full, blocks, (WARP, warps), shared, address, WORD * length)


@lru_cache(maxsize=1000)
def _block_of(name: str, key: str, io: int, real: int) -> tuple[int, int]:
    """The most warps of a block of a kernel, and the shared memory of each, in bytes."""
    found = ring_of(name, kernel_of(key).spec, io, real)
    return (rows_of_block(found), found.bytes) if found else (WARPS_OF_BLOCK, 0)


def run_forward(series: Series) -> None:
    """One pass over time, segments of a block, or segments of the grid and a pass for the rest."""
    call, cut = series.call, series.cut
    batch, spec = call.shape[0], call.kernel.spec
    if cut.in_block:
        warps, blocks = cut.tiling.rows, batch * _full_warps(call.groups)
        shared = shared_of_tiles(spec, warps, *series.sizes, back=False)
        series.over_blocks("tiles", blocks, warps, shared)
        return
    if series.space.block is not None:
        _run_sweeps(series)
    series.over_runs("forward", batch, Stage.REST)


def _run_sweeps(series: Series) -> None:
    call, cut = series.call, series.cut
    runs, affine = runs_of(call, cut), call.kernel.spec.structure.affine
    newton = call.plan.solver == "newton"
    series.over_blocks("number_runs", 1, SUMMING_WARPS)
    series.over_runs("sweep", runs, Stage.WARM_UP)
    for number in range(cut.rounds):
        for name in kernels_of(number, affine, newton):
            series.over_runs(name, runs, Stage.SWEEP, number)
        series.over_runs("scan", call.shape[0], Stage.SWEEP, number)


def kernels_of(number: int, affine: bool, newton: bool) -> list[str]:
    """Those that a sweep may need: `sweep_after` of common/policy.h takes one of them, or none."""
    # only the first sweep may leave M out, unless M is the same in all of them
    without_M = affine or (number == 0 and not newton)
    with_M = not affine or number < 2
    return ["forward"] * without_M + ["sweep"] * with_M


def run_backward(series: Series) -> None:
    """The gradients of inputs and states, then the sums of those of params and shared inputs."""
    call, cut = series.call, series.cut
    batch, steps, _ = call.shape
    if cut.in_block:
        warps, blocks = cut.tiling.rows, batch * _full_warps(call.groups)
        shared = shared_of_tiles(call.kernel.spec, warps, *series.sizes, back=True)
        series.over_blocks("back_tiles", blocks, warps, shared)
        series.change("segment", steps)  # the params' sums have one row a sequence
    elif cut.tiling.segment < steps:
        runs = runs_of(call, cut)
        series.over_blocks("number_runs", 1, SUMMING_WARPS)
        series.over_runs("alone", runs, Stage.WARM_UP)
        series.over_runs("judge", batch)
        if cut.sweeps >= 2:
            series.over_runs("alone", runs)
            series.over_runs("scan_back", batch)
        for number in range(max(1, cut.sweeps - 1)):
            series.over_runs("backward", runs, Stage.SWEEP, number)
            series.over_runs("compare_back", batch, Stage.SWEEP, number)
        series.over_runs("backward", batch, Stage.REST)
        series.over_runs("reduce_starts", batch)
    else:
        series.over_runs("backward", batch, Stage.REST)
    _reduce(series)


def _reduce(series: Series) -> None:
    call, spec = series.call, series.call.kernel.spec
    if spec.params:
        blocks = spec.param_slots * _full_warps(call.groups)
        shared = shared_of_sums(SUMMING_WARPS)
        series.over_blocks("reduce_params", blocks, SUMMING_WARPS, shared)
    if any(p.shared for p in spec.params):
        series.over_blocks("reduce_shared_params", spec.param_slots, 1)
    if spec.shared_inputs:
        series.over_warps("reduce_shared_inputs", -(-call.total // WARP))


def sums_of(call: Call, cut: Cut) -> int:
    """Rows of sums that a backward leaves for each param: one for each run, or each sequence."""
    return call.shape[0] if cut.in_block else runs_of(call, cut)


def _full_warps(groups: int) -> int:
    """Warps that this many groups of channels fill."""
    return -(-groups // WARP)


def _borders(call: Call, cut: Cut, like: Tensor) -> Workspace:
    """Scratch memory of segments of the grid, if there are any."""
    if cut.in_block or cut.tiling.segment >= call.shape[1]:
        return NO_WORKSPACE
    control = 2 * (1 + cut.rounds) + 2 * runs_of(call, cut)
    return workspace(call, cut, like, control=control)


def _reversed(value: Value) -> list[View]:
    """Kernels step through time by one signed stride."""
    found = cast(Sequence[View], value)
    return [(address, row, -time, channel) for address, row, time, channel in found]
