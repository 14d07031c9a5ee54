"""The backend for CPUs: one call -> one call of a function of a built library."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, cast

import torch
from torch import Tensor

from rnncc.ir.choices import Choices
from rnncc.planner import cpu as planner
from rnncc.planner.cpu_model import LANE_BYTES
from rnncc.planner.plan import Cut, Plan, Shape
from rnncc.process import IMPORTED_IN
from rnncc.runtime.args import Value, input_views, views, words_of
from rnncc.runtime.backend import Backend
from rnncc.runtime.call import Call
from rnncc.runtime.cpu import allocator, build
from rnncc.runtime.kernel import COMPUTE, Kernel, kernel_of
from rnncc.runtime.workspace import NO_WORKSPACE, Workspace, runs_of, workspace

CORES = torch.get_num_threads()  # when rnncc was first used in this process
Function = Callable[[int], int]


class Functions(NamedTuple):
    """The functions of a library; each takes the address of Args and returns 0 if it had memory.

    Attributes:
        jacobian: None for a cell that has none; `nn` asks for none then.
    """

    forward: Function
    backward: Function
    jacobian: Function | None


class CpuBackend:
    """See `Backend`."""

    host_reads = True
    steps_saved = staticmethod(planner.steps_saved)
    empty = staticmethod(allocator.empty)

    def __init__(self) -> None:
        self._functions: dict[tuple[str, torch.dtype], Functions] = {}

    def plan(
        self,
        kernel: Kernel,
        shape: Shape,
        dtype: torch.dtype,
        choices: Choices,
        total: int,
        device: torch.device,
    ) -> Plan:
        threads, size = torch.get_num_threads(), COMPUTE[dtype].itemsize
        return _plan(kernel.key, shape, size, threads, choices, total)

    def forward(
        self,
        call: Call,
        y: Sequence[Tensor],
        z: Sequence[Tensor],
        h_last: Tensor,
        saved: Tensor | None,
        status: Tensor,
    ) -> None:
        cut = call.plan.forward
        space = _borders(call, cut, h_last)
        results: dict[str, Value] = {"y": views(y), "z": views(z), "h_last": h_last}
        results |= {"saved": saved, "status": status}
        _run(self.functions(call.kernel, call.dtype).forward, call, cut, results | space.members)

    def backward(
        self,
        call: Call,
        saved: Tensor,
        dy: Sequence[Tensor | None],
        dz: Sequence[Tensor | None],
        dh_last: Tensor | None,
        dx: Sequence[Tensor | None],
        dparams: Sequence[Tensor],
        dh0: Tensor,
    ) -> None:
        spec, cut = call.kernel.spec, call.plan.backward
        blocks = -(-call.groups // (LANE_BYTES // COMPUTE[call.dtype].itemsize))
        params = runs_of(call.shape, call.total, cut) * spec.param_slots * call.groups
        space = _borders(call, cut, saved)
        values: dict[str, Value] = {
            "saved": saved,
            "dy": views(dy),
            "dz": views(dz),
            "dh_last": dh_last,
            "dx": input_views(spec, dx, call.packed),
            "dparams": dparams,
            "dh0": dh0,
            "param_sums": saved.new_empty(params, dtype=torch.float64),
            "shared_sums": saved.new_empty(blocks * call.total * spec.shared_inputs),
        }
        _run(self.functions(call.kernel, call.dtype).backward, call, cut, values | space.members)

    def jacobian(self, call: Call) -> Tensor:
        result = call.inputs[0].new_empty(call.jacobian_shape, dtype=COMPUTE[call.dtype])
        if result.numel():
            function = self.functions(call.kernel, call.dtype).jacobian
            assert function is not None
            _run(function, call, call.plan.forward, {"jacobians": result})
        return result.transpose(0, 1)

    def warmup(self, kernel: Kernel, dtype: torch.dtype, device: torch.device) -> None:
        self.functions(kernel, dtype)

    def functions(self, kernel: Kernel, dtype: torch.dtype) -> Functions:
        """Those for a dtype; builds the library if it isn't built yet."""
        found = self._functions.get((kernel.key, dtype))
        if found is None:
            found = self._functions[kernel.key, dtype] = _load(kernel, dtype)
        return found


BACKEND: Backend = CpuBackend()


@lru_cache(maxsize=1000)
def _plan(key: str, shape: Shape, size: int, threads: int, choices: Choices, total: int) -> Plan:
    return planner.plan(kernel_of(key).spec, shape, size, threads, choices, CORES, total)


def _load(kernel: Kernel, dtype: torch.dtype) -> Functions:
    kind = str(dtype).removeprefix("torch.")
    library = build.load(kernel.spec.name, kernel.source("cpp"), kind)
    return Functions(
        _function(library, f"{kernel.spec.name}_forward"),
        _function(library, f"{kernel.spec.name}_backward"),
        _function(library, f"{kernel.spec.name}_jacobian") if kernel.spec.has_jacobian else None,
    )


def _function(library: ctypes.CDLL, name: str) -> Function:
    found = getattr(library, name)
    found.argtypes, found.restype = [ctypes.c_void_p], ctypes.c_int
    return cast(Function, found)


def _borders(call: Call, cut: Cut, like: Tensor) -> Workspace:
    """Scratch memory, where there are several segments."""
    if cut.tiling.segment >= call.shape[1]:
        return NO_WORKSPACE
    runs = runs_of(call.shape, call.total, cut)
    return workspace(call, cut, like, verdicts=2 * call.shape[0] + runs)


def _run(function: Function, call: Call, cut: Cut, values: Mapping[str, Value]) -> None:
    """Call one function of the kernel."""
    inputs = input_views(call.kernel.spec, call.inputs, call.packed)
    # after a fork PyTorch's pool would wait for threads that the child doesn't have; 0: our own
    pool = build.thread_pool() if os.getpid() == IMPORTED_IN else 0
    words = words_of(call, cut, {"parallel": pool, "x": inputs, **values})
    if function(words.buffer_info()[0]):
        raise MemoryError("a kernel could not allocate its scratch memory")
