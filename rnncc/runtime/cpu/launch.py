"""Launch: one call on the CPU -> one call of a built kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from rnncc.planner.cpu_model import LANE_BYTES
from rnncc.planner.plan import Cut
from rnncc.runtime.args import Value, input_views, views
from rnncc.runtime.call import Call, Workspace, borders, runs_of, words_of
from rnncc.runtime.cpu import build
from rnncc.runtime.kernel import COMPUTE, Kernel

Function = Callable[[int], int]


def function(kernel: Kernel, part: str, dtype: torch.dtype) -> Function:
    """`forward`, `backward` or `jacobian` for a dtype; builds the library if it isn't built yet."""
    if ("cpp", part, dtype) not in kernel.memo:
        kind = str(dtype).removeprefix("torch.")
        library = build.load(kernel.spec.name, kernel.source("cpp"), kind)
        for name in ("forward", "backward", "jacobian"):
            found = getattr(library, f"{kernel.spec.name}_{name}")
            found.argtypes, found.restype = [ctypes.c_void_p], ctypes.c_int
            kernel.memo["cpp", name, dtype] = found
    return kernel.memo["cpp", part, dtype]  # type: ignore[no-any-return]


def forward(
    call: Call,
    y: Sequence[Tensor],
    z: Sequence[Tensor],
    h_last: Tensor,
    saved: Tensor | None,
    status: Tensor,
) -> None:
    """Run the forward kernel.

    Args:
        y, z: outputs, and the states after each step (or nothing), [B, T, N] each, to fill.
        h_last: [states, S, N], the states after the last step, to fill.
        saved: the states every few steps, to fill; or None.
        status: [6], float64, of which the kernel fills four: sweeps, largest mismatch, converged,
            and the step from which one pass over time did the rest, or -1.
    """
    cut = call.plan.forward
    space = _workspace(call, cut, h_last)
    results: dict[str, Value] = {
        "y": views(y),
        "z": views(z),
        "h_last": h_last,
        "saved": saved,
        "status": status,
    }
    _run(call, "forward", cut, {**results, **space.members})


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
    """Run the backward kernel into `dx` (None: not wanted), `dparams` and `dh0`."""
    spec, cut = call.kernel.spec, call.plan.backward
    rows, extent = call.inputs[0].shape[:2]
    groups = call.shape[2] // spec.group
    runs = runs_of(call, cut)
    blocks = -(-groups // (LANE_BYTES // COMPUTE[call.dtype].itemsize))
    space = _workspace(call, cut, saved)
    given: dict[str, Value] = {
        "saved": saved,
        "dy": views(dy),
        "dz": views(dz),
        "dh_last": dh_last,
        "dx": input_views(spec, dx, call.packed),
        "dparams": dparams,
        "dh0": dh0,
        "param_sums": saved.new_empty(runs * spec.param_slots * groups, dtype=torch.float64),
        "shared_sums": saved.new_empty(blocks * rows * extent * spec.shared_inputs),
    }
    _run(call, "backward", cut, {**given, **space.members})


def jacobian(call: Call) -> Tensor:
    """d h_t / d h_(t-1) along the sequence: [B, T, N / group, D, D], D = group * states.

    Rows and columns run over the states in declared order, and within each over the group.
    """
    spec = call.kernel.spec
    batch, steps, channels = call.shape
    shape = (steps, batch, channels // spec.group, spec.size, spec.size)
    result = call.inputs[0].new_empty(shape, dtype=COMPUTE[call.dtype])
    if result.numel():
        _run(call, "jacobian", call.plan.forward, {"jacobians": result})
    return result.transpose(0, 1)


def warmup(kernel: Kernel, dtype: torch.dtype, device: torch.device) -> None:
    """Build and load the library."""
    function(kernel, "forward", dtype)


def _workspace(call: Call, cut: Cut, like: Tensor) -> Workspace:
    """Scratch memory for the borders between segments, where there are several."""
    if cut.tiling.segment >= call.shape[1]:
        return Workspace({})
    runs = runs_of(call, cut)
    return Workspace.of(like, borders(call, runs) | {"verdicts": 2 * call.shape[0] + runs})


def _run(call: Call, part: str, cut: Cut, given: Mapping[str, Value]) -> None:
    """Call one function of the kernel."""
    words = words_of(call, cut, given)
    if function(call.kernel, part, call.dtype)(words.buffer_info()[0]):
        raise MemoryError("a kernel could not allocate its scratch memory")
