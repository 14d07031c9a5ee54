"""Figures: a cell's CUDA kernels -> the numbers that their speed depends on, without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rnncc.inspect.binary import WALKING, inspect
from rnncc.inspect.roofline import SIZES, Roofline, estimate
from rnncc.ir.choices import AUTO
from rnncc.ir.spec import KernelSpec
from rnncc.planner.cuda import steps_saved
from rnncc.planner.devices import DEVICES, ISSUED, SPECIAL
from rnncc.planner.ring import WARP, ring

if TYPE_CHECKING:
    from rnncc.compiler import CompiledCell

DEVICE = DEVICES["H100"]
SHAPE = (8, 2048, 4096)  # sequences, steps, channels
PASSES = ("forward", "backward")
Data = dict[str, Any]


def figures(compiled: CompiledCell, dtype: str) -> Data:
    """The figures of one cell and dtype on `DEVICE`, for a call of `SHAPE` in one pass over time.

    Returns:
        "kernels": of each kernel with a loop over steps the registers of a thread, bytes spilled
            and of stack, bytes of shared memory of a block, warps that a multiprocessor holds, and
            the instructions of one channel and step by class, from the lightest trip.
        "passes": of each pass the bytes on their way from memory in a multiprocessor, the cycles
            that each unit takes for a step of all of its channels, and the unit that bounds it.
    Raises:
        BuildError: NVRTC or nvdisasm isn't installed.
    """
    spec = compiled.spec
    prefix = f"{spec.name}_"
    found = {k["kernel"].removeprefix(prefix): k for k in inspect(compiled, dtype, DEVICE.arch)}
    kernels = {name: _kernel(found[name], spec.group) for name in WALKING}
    every = steps_saved(spec, AUTO)
    roofs = estimate(compiled.stages, spec, SHAPE, dtype, DEVICE, every)
    passes = {name: _pass(name, spec, dtype, kernels[name], roofs[name]) for name in PASSES}
    return {"kernels": kernels, "passes": passes}


def _kernel(found: Mapping[str, Any], group: int) -> Data:
    counts = found["loops"][0]["per_step"] if found["loops"] else {}
    return {
        "registers": found["registers"],
        "spilled": found["spill_stores"] + found["spill_loads"],
        "stack": found["stack"],
        "shared": found["static_shared"] + found["dynamic_shared"],
        "warps": found["occupancy"]["warps"],
        "instructions": {name: round(pair[0] / group, 2) for name, pair in counts.items()},
    }


def _pass(name: str, spec: KernelSpec, dtype: str, kernel: Data, roof: Roofline) -> Data:
    batch, steps, channels = SHAPE
    values = batch * channels / DEVICE.multiprocessors
    counts, to_cycles = kernel["instructions"], DEVICE.clock / steps
    cycles = {
        "memory": roof.memory * to_cycles,
        "issue": values * counts["all"] / ISSUED,
        "special": values * counts["special"] / SPECIAL,
        "chain": roof.chain * to_cycles,
    }
    return {
        "in_flight": round(_in_flight(name, spec, dtype, kernel["warps"])),
        "cycles": {unit: round(count) for unit, count in cycles.items()},
        "bound": max(cycles, key=lambda unit: cycles[unit]),
    }


def _in_flight(name: str, spec: KernelSpec, dtype: str, most_warps: int) -> float:
    """Bytes that a multiprocessor has asked memory for: all that its threads read ahead."""
    batch, _, channels = SHAPE
    warps = min(batch * channels / spec.group / WARP / DEVICE.multiprocessors, most_warps)
    io = SIZES[dtype]
    found = ring(spec, io, max(io, 4), back=name == "backward")
    return warps * found.stage * (found.stages - 1)
