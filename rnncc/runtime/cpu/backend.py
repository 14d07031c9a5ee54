"""The backend for CPUs: one call -> one call of a function of a built library."""

from __future__ import annotations

import ctypes
import os
from array import array
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from rnncc.ir.abi import WORD
from rnncc.ir.choices import Choices
from rnncc.planner import cpu as planner
from rnncc.planner.cpu_model import LANE_BYTES
from rnncc.planner.plan import Cut, Plan, Shape
from rnncc.process import IMPORTED_IN
from rnncc.runtime.args import Packer, tensors_of
from rnncc.runtime.call import Call
from rnncc.runtime.cpu import allocator, build
from rnncc.runtime.kernel import COMPUTE, Kernel, kernel_of
from rnncc.runtime.prepared import Prepared
from rnncc.runtime.preparing import Preparing
from rnncc.runtime.workspace import runs_of, workspace

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


class CpuBackend(Preparing):
    """See `Backend`."""

    host_reads = True
    steps_saved = staticmethod(planner.steps_saved)

    def __init__(self) -> None:
        super().__init__()
        self._functions: dict[tuple[str, torch.dtype], Functions] = {}

    def empty(self, like: Tensor, shape: Sequence[Any], dtype: torch.dtype | None = None) -> Tensor:
        return allocator.empty(like, shape, dtype)

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

    def prepare_forward(
        self,
        call: Call,
        y: Sequence[Tensor],
        z: Sequence[Tensor],
        h_last: Tensor | None,
        saved: Tensor | None,
        status: Tensor | None,
    ) -> Prepared:
        packer = Packer(call, call.plan.forward)
        packer.forward(y, z, h_last, saved, status)
        packer.space(_borders(call, call.plan.forward))
        return self._prepared(packer, call, "forward")

    def prepare_backward(
        self,
        call: Call,
        saved: Tensor,
        dy: Sequence[Tensor | None],
        dz: Sequence[Tensor | None],
        dh_last: Tensor | None,
        dx: Sequence[Tensor | None],
        dparams: Sequence[Tensor],
        dh0: Tensor | None,
    ) -> Prepared:
        spec, cut = call.kernel.spec, call.plan.backward
        size = COMPUTE[call.dtype].itemsize
        blocks = -(-call.groups // (LANE_BYTES // size))
        params = runs_of(call.shape, call.total, cut) * spec.param_slots * call.groups
        packer = Packer(call, cut)
        packer.backward(saved, dy, dz, dh_last, dx, dparams, dh0)
        packer.space(_borders(call, cut))
        packer.space({"param_sums": WORD * params})
        packer.space({"shared_sums": size * blocks * call.total * spec.shared_inputs})
        return self._prepared(packer, call, "backward")

    def jacobian(self, call: Call) -> Tensor:
        result = call.inputs[0].new_empty(call.jacobian_shape, dtype=COMPUTE[call.dtype])
        if result.numel():
            packer = Packer(call, call.plan.forward)
            packer.pointers("jacobians", [result])
            self._prepared(packer, call, "jacobian").run(tensors_of(call, result))
        return result.transpose(0, 1)

    def _prepared(self, packer: Packer, call: Call, direction: str) -> Prepared:
        function: Function = getattr(self.functions(call.kernel, call.dtype), direction)
        place, several = packer.layout.offsets["parallel"], call.plan.threads > 1

        def launch(words: array[int]) -> None:
            # after a fork PyTorch's would wait for threads that the child doesn't have; 0: our own
            if several and os.getpid() == IMPORTED_IN:
                words[place] = build.thread_pool()
            if function(words.buffer_info()[0]):
                raise MemoryError("a kernel could not allocate its scratch memory")

        return packer.prepared(launch, on_host=True)

    def warmup(self, kernel: Kernel, dtype: torch.dtype, device: torch.device) -> None:
        self.functions(kernel, dtype)

    def functions(self, kernel: Kernel, dtype: torch.dtype) -> Functions:
        """Those for a dtype; builds the library if it isn't built yet."""
        found = self._functions.get((kernel.key, dtype))
        if found is None:
            found = self._functions[kernel.key, dtype] = _load(kernel, dtype)
        return found


BACKEND = CpuBackend()


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


def _borders(call: Call, cut: Cut) -> dict[str, int]:
    """Scratch memory, where there are several segments."""
    if cut.tiling.segment >= call.shape[1]:
        return {}
    runs = runs_of(call.shape, call.total, cut)
    return workspace(call, cut, verdicts=2 * call.shape[0] + runs)
