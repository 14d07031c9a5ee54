"""The backend for GPUs: one call -> a fixed series of kernels on PyTorch's current stream.

Nothing waits for the GPU: each kernel's result decides on the device what the next one does, so
that a call can be captured into a CUDA graph. All memory is PyTorch's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from rnncc.errors import ArgumentError
from rnncc.ir.abi import WORD
from rnncc.ir.choices import Choices
from rnncc.ir.spec import CUDA_KERNELS
from rnncc.planner import cuda as planner
from rnncc.planner.cuda import SHARED, Gpu
from rnncc.planner.gpu_constants import constants_of
from rnncc.planner.plan import Cut, Plan, Shape
from rnncc.runtime.args import Packer, tensors_of
from rnncc.runtime.call import Call
from rnncc.runtime.cuda import graph, series
from rnncc.runtime.cuda import module as modules
from rnncc.runtime.cuda.launch import Module
from rnncc.runtime.cuda.series import Job, Named, sums_of
from rnncc.runtime.kernel import COMPUTE, Kernel, kernel_of
from rnncc.runtime.prepared import Prepared
from rnncc.runtime.preparing import Preparing

PART = {name: n for n, names in enumerate(CUDA_KERNELS.values()) for name in names}
# Of a sequence: kernels count them in 32 bits, and a few hundred beyond its end.
MOST_STEPS = 2**31 - 2**10


class CudaBackend(Preparing):
    """See `Backend`. Tests run the same series of kernels by other modules: see `load`, `gpu`."""

    host_reads = False
    steps_saved = staticmethod(planner.steps_saved)

    def __init__(self) -> None:
        super().__init__()
        self._parts: dict[tuple[str, int], str] = {}
        self._sources: dict[tuple[str, str, torch.dtype], tuple[str, str]] = {}

    def load(self, name: str, source: str, dtype: str, device: torch.device) -> Module:
        """The kernels of a source, see `module.load`."""
        return modules.load(name, source, dtype, device)

    def gpu(self, device: torch.device) -> Gpu:
        """The properties of a device on which the plan depends."""
        return _gpu(device)

    def plan(
        self,
        kernel: Kernel,
        shape: Shape,
        dtype: torch.dtype,
        choices: Choices,
        total: int,
        device: torch.device,
    ) -> Plan:
        if torch.cuda._is_in_bad_fork():
            raise ArgumentError(
                "inputs: got tensors on a GPU in a process that was forked from one that uses "
                "CUDA, expected them in that one or in a spawned one.\n"
                "Fix: multiprocessing.get_context('spawn')"
            )
        if shape[1] >= MOST_STEPS:
            raise ArgumentError(
                f"inputs: got {shape[1]} steps, expected fewer than {MOST_STEPS} on a GPU.\n"
                "Fix: chunks, each from the state that the one before returns"
            )
        sizes = (COMPUTE[dtype].itemsize, dtype.itemsize)
        return _plan(kernel.key, shape, sizes, self.gpu(device), choices, total)

    def module(self, kernel: Kernel, name: str, dtype: torch.dtype, device: torch.device) -> Module:
        """The part of kernel.cu that holds a kernel `name`; compiled and loaded at first use."""
        found = self._sources.get((kernel.key, name, dtype))
        if found is None:
            kind = str(dtype).removeprefix("torch.")
            found = self._sources[kernel.key, name, dtype] = self._part(kernel, PART[name]), kind
        return self.load(kernel.spec.name, *found, device)

    def _part(self, kernel: Kernel, part: int) -> str:
        """Its text, one object for all its kernels: modules are found by it."""
        if (kernel.key, part) not in self._parts:
            self._parts[kernel.key, part] = part_of(kernel.source("cuda"), part)
        return self._parts[kernel.key, part]

    def empty(self, like: Tensor, shape: Sequence[Any], dtype: torch.dtype | None = None) -> Tensor:
        return like.new_empty(tuple(shape), dtype=dtype or like.dtype)

    def warmup(self, kernel: Kernel, dtype: torch.dtype, device: torch.device) -> None:
        for names in kernel.spec.cuda_parts.values():
            self.module(kernel, next(iter(names)), dtype, device)

    def prepare_forward(
        self,
        call: Call,
        y: Sequence[Tensor],
        z: Sequence[Tensor],
        h_last: Tensor | None,
        saved: Tensor | None,
        status: Tensor | None,
    ) -> Prepared:
        cut = call.plan.forward
        packer = Packer(call, cut, turned=True)
        packer.forward(y, z, h_last, saved, status)
        # blocks of tiles look for the largest in the status, the last tensor
        assert status is not None or not cut.in_block
        return self._prepared(packer, call, cut, series.forward, cut.in_block)

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
        _, steps, _ = call.shape
        runs, groups, size = sums_of(call, cut), call.groups, COMPUTE[call.dtype].itemsize
        # blocks of steps from one saved state to the next
        between = -(-min(call.plan.checkpoint, steps) // spec.ahead)
        across = -(-groups // cut.tiling.columns)
        packer = Packer(call, cut, turned=True)
        packer.backward(saved, dy, dz, dh_last, dx, dparams, dh0)
        packer.number("dz_given", any(g is not None for g in dz))
        packer.space(
            {
                "param_sums": WORD * runs * spec.param_slots * groups,
                "shared_sums": size * across * call.total * spec.shared_inputs,
                "inner": size * runs * between * spec.size * groups if between > 1 else 0,
            }
        )
        return self._prepared(packer, call, cut, series.backward)

    def record(self, run: Callable[[], None], device: torch.device) -> Callable[[], None]:
        return graph.record(run, device)

    def jacobian(self, call: Call) -> Tensor:
        result = call.inputs[0].new_empty(call.jacobian_shape, dtype=COMPUTE[call.dtype])
        if result.numel():
            packer = Packer(call, call.plan.forward, turned=True)
            packer.pointers("jacobians", [result])
            prepared = self._prepared(packer, call, call.plan.forward, series.jacobians)
            prepared.run(tensors_of(call, result))
        return result.transpose(0, 1)

    def _prepared(
        self,
        packer: Packer,
        call: Call,
        cut: Cut,
        count: Callable[[Job], Sequence[Named]],
        clears: bool = False,
    ) -> Prepared:
        job, kernel, dtype, device = (
            Job.of(call, cut),
            call.kernel,
            call.dtype,
            call.inputs[0].device,
        )
        launches = count(job)
        packer.space(series.borders(call, job) if count is not series.jacobians else {})

        def find(name: str) -> Module:
            return self.module(kernel, name, dtype, device)

        return packer.prepared(series.launcher(launches, find), False, clears)


def part_of(source: str, part: int) -> str:
    """The text of which only one part of `CUDA_KERNELS` is compiled."""
    return f"#define RNNCC_PART {part}\n{source}"


BACKEND = CudaBackend()
if hasattr(os, "register_at_fork"):  # a forked child can't use CUDA, which planning refuses
    os.register_at_fork(after_in_child=BACKEND.ways.clear)


@lru_cache(maxsize=1000)
def _plan(
    key: str, shape: Shape, sizes: tuple[int, int], gpu: Gpu, choices: Choices, total: int
) -> Plan:
    """With the bytes of a value that is computed, and of one in memory."""
    size, io = sizes
    return planner.plan(kernel_of(key).spec, shape, size, gpu, choices, total, io)


@cache
def _gpu(device: torch.device) -> Gpu:
    """With constants calibrated here, if there are any."""
    found = torch.cuda.get_device_properties(device)
    shared = getattr(found, "shared_memory_per_block_optin", SHARED)
    return Gpu.of(found.multi_processor_count, constants_of(found.name), shared)
