"""Launch on a GPU: one call -> a fixed series of kernels on PyTorch's current stream.

Nothing waits for the GPU: what a kernel finds decides on the device what the next one does, so that
a call can be captured into a CUDA graph. All memory is PyTorch's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rnncc.ir.abi import Stage
from rnncc.ir.spec import CUDA_KERNELS
from rnncc.planner.cuda import WARP, WARPS_OF_BLOCK, shared_of_back_tiles, shared_of_tiles
from rnncc.planner.plan import Cut
from rnncc.runtime.args import Value, args_of, input_views, views
from rnncc.runtime.call import Call, Workspace, borders, runs_of, words_of
from rnncc.runtime.cuda import module as modules
from rnncc.runtime.kernel import COMPUTE, Kernel

PART = {name: n for n, names in enumerate(CUDA_KERNELS.values()) for name in names}
NO_WORKSPACE = Workspace({})
SUMMING_WARPS = 8
SPREAD = 512  # warps; fewer go one to a block, so that they spread over all processors


class Series:
    """Kernels of one call, one after another.

    Args:
        values: members of Args; from launch to launch only the stage and the round change, and
            whether there are segments.
        space: the workspace. PyTorch hands its memory on in the order of the stream, so it need
            only live until the last launch.
    """

    def __init__(
        self, call: Call, cut: Cut, values: Mapping[str, Value], space: Workspace = NO_WORKSPACE
    ) -> None:
        self.call, self.cut, self.keep = call, cut, (values, space)
        self.words = words_of(call, cut, {**values, **space.members})
        self.places = args_of(call.kernel.spec).layout.offsets
        self.groups = call.shape[2] // call.kernel.spec.group
        self.across = -(-self.groups // cut.tiling.columns)

    def change(self, member: str, value: int) -> None:
        """A member of Args, for the launches to come."""
        self.words[self.places[member]] = value

    def over_runs(self, name: str, runs: int, stage: Stage = Stage.SWEEP, number: int = 0) -> None:
        """A warp for each 32 / columns runs and each `columns` groups."""
        self.change("stage", stage)
        self.change("round", number)
        self.over_warps(name, -(-runs // (WARP // self.cut.tiling.columns)) * self.across)

    def over_warps(self, name: str, warps: int) -> None:
        rows = min(WARPS_OF_BLOCK, max(1, warps // SPREAD))
        self.over_blocks(name, -(-warps // rows), rows)

    def over_blocks(self, name: str, blocks: int, warps: int, shared: int = 0) -> None:
        """Blocks of so many warps, with so many bytes of shared memory."""
        kernel = module(self.call.kernel, name, self.call.dtype, self.call.device)
        address, length = self.words.buffer_info()
        full = f"{self.call.kernel.spec.name}_{name}"
        kernel.launch(full, blocks, (WARP, warps), shared, address, 8 * length)


def module(kernel: Kernel, name: str, dtype: torch.dtype, device: torch.device) -> modules.Module:
    """The part of kernel.cu that holds a kernel, for a dtype; compiled and loaded at first use."""
    part = PART[name]
    source = kernel.memo.get(("part", part))
    if source is None:
        source = f"#define RNNCC_PART {part}\n{kernel.source('cuda')}"
        kernel.memo["part", part] = source
    kind = str(dtype).removeprefix("torch.")
    return modules.load(kernel.spec.name, source, kind, device)


def forward(
    call: Call,
    y: Sequence[Tensor],
    z: Sequence[Tensor],
    h_last: Tensor,
    saved: Tensor | None,
    status: Tensor,
) -> None:
    """Run the forward; arguments as for `launch.forward`, `status` full of zeros."""
    batch, _, channels = call.shape
    spec, cut = call.kernel.spec, call.plan.forward
    space = _workspace(call, cut, h_last)
    results: dict[str, Value] = {
        "y": views(y),
        "z": views(z),
        "h_last": h_last,
        "saved": saved,
        "status": status,
    }
    series = Series(call, cut, results, space)
    if cut.in_block:
        warps, blocks = cut.tiling.rows, batch * across_warps(channels // spec.group)
        shared = shared_of_tiles(spec, warps, COMPUTE[call.dtype].itemsize)
        series.over_blocks("tiles", blocks, warps, shared)
        return
    if space.block is not None:
        runs, affine = runs_of(call, cut), spec.structure.affine
        newton = call.plan.solver == "newton"
        series.over_blocks("number_runs", 1, SUMMING_WARPS)
        series.over_runs("sweep", runs, Stage.WARM_UP)
        for number in range(cut.rounds):
            # only the first sweep may do without M, unless M is the same in all of them
            if affine or (number == 0 and not newton):
                series.over_runs("forward", runs, Stage.SWEEP, number)
            if not affine or number < 2:
                series.over_runs("sweep", runs, Stage.SWEEP, number)
            series.over_runs("scan", batch, Stage.SWEEP, number)
    series.over_runs("forward", batch, Stage.REST)


def backward(
    call: Call,
    saved: Tensor,
    dy: Sequence[Tensor | None],
    dz: Sequence[Tensor | None],
    dh_last: Tensor | None,
    dx: Sequence[Tensor | None],
    dparams: Sequence[Tensor],
    dh0: Tensor,
) -> None:
    """Run the backward into `dx` (None: not wanted), `dparams` and `dh0`."""
    spec, cut = call.kernel.spec, call.plan.backward
    batch, steps, channels = call.shape
    rows, extent = call.inputs[0].shape[:2]
    groups = channels // spec.group
    in_segments = cut.tiling.segment < steps and not cut.in_block
    runs = runs_of(call, cut) if in_segments else batch
    # blocks of steps from one saved state to the next
    between = -(-min(call.plan.checkpoint, steps) // spec.ahead)
    across = -(-groups // cut.tiling.columns)
    values: dict[str, Value] = {
        "saved": saved,
        "dy": views(dy),
        "dz": views(dz),
        "dz_given": any(g is not None for g in dz),
        "dh_last": dh_last,
        "dx": input_views(spec, dx, call.packed),
        "dparams": dparams,
        "dh0": dh0,
        "param_sums": saved.new_empty(runs * spec.param_slots * groups, dtype=torch.float64),
        "shared_sums": saved.new_empty(across * rows * extent * spec.shared_inputs),
        "inner": saved.new_empty(runs * between * spec.size * groups if between > 1 else 0),
    }
    series = Series(call, cut, values, _workspace(call, cut, saved))
    if cut.in_block:
        warps, blocks = cut.tiling.rows, batch * across_warps(groups)
        shared = shared_of_back_tiles(spec, warps, saved.dtype.itemsize)
        series.over_blocks("back_tiles", blocks, warps, shared)
        series.change("segment", steps)  # what sums the params up finds one row of sums a sequence
    elif in_segments:
        series.over_blocks("number_runs", 1, SUMMING_WARPS)
        series.over_runs("alone", runs, Stage.WARM_UP)
        series.over_runs("judge", batch)
        if cut.sweeps >= 2:
            series.over_runs("alone", runs)
            series.over_runs("scan_back", batch)
        series.over_runs("backward", runs)
        series.over_runs("backward", batch, Stage.REST)
        series.over_runs("reduce_starts", batch)
    else:
        series.over_runs("backward", batch, Stage.REST)
    if spec.params:
        columns = across_warps(groups)
        shared = SUMMING_WARPS * WARP * 8
        series.over_blocks("reduce_params", spec.param_slots * columns, SUMMING_WARPS, shared)
    if any(p.shared for p in spec.params):
        series.over_blocks("reduce_shared_params", spec.param_slots, 1)
    if spec.shared_inputs:
        series.over_warps("reduce_shared_inputs", -(-rows * extent // WARP))


def across_warps(groups: int) -> int:
    """Warps that so many groups of channels fill."""
    return -(-groups // WARP)


def jacobian(call: Call) -> Tensor:
    """As `launch.jacobian`."""
    spec = call.kernel.spec
    batch, steps, channels = call.shape
    shape = (steps, batch, channels // spec.group, spec.size, spec.size)
    result = call.inputs[0].new_empty(shape, dtype=COMPUTE[call.dtype])
    if result.numel():
        cut = call.plan.forward
        Series(call, cut, {"jacobians": result}).over_runs("jacobians", batch)
    return result.transpose(0, 1)


def warmup(kernel: Kernel, dtype: torch.dtype, device: torch.device) -> None:
    """Compile and load all kernels, so that a CUDA graph can be captured."""
    for names in CUDA_KERNELS.values():
        module(kernel, next(iter(names)), dtype, device)


def _workspace(call: Call, cut: Cut, like: Tensor) -> Workspace:
    """Scratch memory of segments of the grid, if there are any."""
    if cut.in_block or cut.tiling.segment >= call.shape[1]:
        return NO_WORKSPACE
    runs = runs_of(call, cut)
    control = 2 * (1 + cut.rounds) + 2 * runs
    return Workspace.of(like, borders(call, runs) | {"control": control})
