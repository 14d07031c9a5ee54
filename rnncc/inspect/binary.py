"""Binary: a compiled cell -> its CUDA kernels compiled by NVRTC, for any GPU and without one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rnncc.inspect import resources, sass
from rnncc.ir.spec import KernelSpec
from rnncc.runtime.cuda import nvrtc

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
    from rnncc.planner.cuda import shared_of_back_tiles, shared_of_tiles

    spec, size = compiled.spec, 8 if dtype == "float64" else 4
    shared = {
        f"{spec.name}_tiles": shared_of_tiles(spec, spec.warps, size),
        f"{spec.name}_back_tiles": shared_of_back_tiles(spec, spec.warps, size),
    }
    return resources.inspect(binary(compiled, dtype, arch), _steps(spec), shared)


def _steps(spec: KernelSpec) -> dict[str, int]:
    """How many steps of the recurrence one trip of a kernel's largest loop takes."""
    return {f"{spec.name}_{name}": spec.ahead for name in WALKING}
