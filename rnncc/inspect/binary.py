"""Binary: a compiled cell -> its CUDA kernels compiled by NVRTC, for any GPU and without one."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import torch

from rnncc.inspect import resources, sass
from rnncc.ir.spec import KernelSpec
from rnncc.planner.ring import (
    SUMMING_WARPS,
    WARP,
    ring_of,
    rows_of_block,
    shared_of_sums,
    shared_of_tiles,
    warps_of_tiles,
)
from rnncc.runtime.cuda import nvrtc
from rnncc.runtime.kernel import COMPUTE

if TYPE_CHECKING:
    from rnncc.compiler import CompiledCell

WALKING = ("forward", "backward", "sweep", "alone", "tiles", "back_tiles")  # with a loop over steps


def binary(compiled: CompiledCell, dtype: str, arch: str) -> nvrtc.Binary:
    """All kernels of a cell for an architecture.

    Raises:
        ArgumentError: NVRTC doesn't know the architecture.
        BuildError: NVRTC isn't installed, or refused the text.
    """
    return nvrtc.compile(compiled.name, compiled.source("cuda"), dtype, arch)


def text(compiled: CompiledCell, stage: str, dtype: str, arch: str) -> str:
    """The stage "ptx" or "sass"."""
    made = binary(compiled, dtype, arch)
    return made.ptx if stage == "ptx" else sass.disassemble(made.cubin)


def inspect(compiled: CompiledCell, dtype: str, arch: str) -> list[dict[str, Any]]:
    """The resources of each kernel, see `resources.inspect`."""
    spec = compiled.spec
    return resources.inspect(binary(compiled, dtype, arch), _steps(spec), _launched(spec, dtype))


def _steps(spec: KernelSpec) -> dict[str, int]:
    """How many steps of the recurrence one trip of a kernel's largest loop takes."""
    return {f"{spec.name}_{name}": spec.ahead for name in WALKING}


def _launched(spec: KernelSpec, dtype: str) -> dict[str, resources.Launch]:
    """The largest block of each kernel that has dynamic shared memory, as it is launched."""
    io = getattr(torch, dtype)
    sizes = io.itemsize, COMPUTE[io].itemsize
    warps = warps_of_tiles(spec, *sizes)
    blocks = {
        name: (warps, shared_of_tiles(spec, warps, *sizes, back=name == "back_tiles"))
        for name in ("tiles", "back_tiles")
        if not spec.one_pass
    }
    if spec.params:
        blocks["reduce_params"] = SUMMING_WARPS, shared_of_sums(SUMMING_WARPS)
    for name in itertools.chain(*spec.cuda_parts.values()):
        ring = ring_of(name, spec, *sizes)
        if ring:
            blocks[name] = rows_of_block(ring), rows_of_block(ring) * ring.bytes
    return {
        f"{spec.name}_{name}": resources.Launch(WARP * rows, shared)
        for name, (rows, shared) in blocks.items()
    }
