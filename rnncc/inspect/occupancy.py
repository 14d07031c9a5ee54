"""Occupancy: the resources of a block -> how many a multiprocessor holds, and the limit."""

from __future__ import annotations

from dataclasses import dataclass

from rnncc.errors import ArgumentError

WARP = 32  # threads
REGISTERS = 65536  # of a multiprocessor
REGISTER_UNIT = 256  # granularity of a warp's registers
PARTITIONS = 4  # of a multiprocessor, each with its own warps and registers
SHARED_UNIT = 128  # bytes
RESERVED = 1024  # bytes of shared memory that the driver keeps in each block


@dataclass(frozen=True)
class Limits:
    """The limits of a multiprocessor.

    Attributes:
        shared: bytes, and `block_shared` what one block may have of them.
        barriers: None where they never run out before the blocks do.
    """

    warps: int
    blocks: int
    shared: int
    block_shared: int
    barriers: int | None = None


def _limits(warps: int, blocks: int, kib: int, barriers: int | None = None) -> Limits:
    return Limits(warps, blocks, kib * 1024, (kib - 1) * 1024, barriers)


# Source: the table "Technical Specifications per Compute Capability" of the CUDA programming guide,
# and NVIDIA's cuda_occupancy.h for barriers.
LIMITS = {
    "sm_80": _limits(64, 32, 164),
    "sm_86": _limits(48, 16, 100),
    "sm_87": _limits(48, 16, 164),
    "sm_89": _limits(48, 24, 100),
    "sm_90": _limits(64, 32, 228, 64),
    "sm_100": _limits(64, 32, 228, 64),
    "sm_103": _limits(64, 32, 228, 64),
    "sm_120": _limits(48, 24, 100, 24),
    "sm_121": _limits(48, 24, 100, 24),
}


@dataclass(frozen=True)
class Occupancy:
    """The blocks and warps of a kernel that a multiprocessor holds at once.

    Attributes:
        blocks: 0 if none can be launched.
        share: of the warps that it could hold.
        limited_by: the resource that one more block would exceed: warps, blocks, registers, shared
            or barriers.
    """

    blocks: int
    warps: int
    share: float
    limited_by: tuple[str, ...]


def occupancy(
    arch: str, threads: int, registers: int, shared: int = 0, barriers: int = 0
) -> Occupancy:
    """Count as NVIDIA's occupancy calculator does, with the largest shared memory that can be set.

    Args:
        threads, shared, barriers: of a block; bytes of static and dynamic shared memory together.
        registers: of a thread.
    Raises:
        ArgumentError: an architecture that isn't in `LIMITS`, or no threads.
    """
    if arch not in LIMITS:
        raise ArgumentError(
            f"arch: got {arch!r}, expected one of {', '.join(LIMITS)}.\nFix: arch='sm_90'"
        )
    if threads < 1:
        raise ArgumentError(f"threads: got {threads}, expected at least 1.\nFix: threads=256")
    limits, warps = LIMITS[arch], -(-threads // WARP)
    allowed = {
        "warps": limits.warps // warps if threads <= 1024 else 0,
        "blocks": limits.blocks,
        "registers": _by_registers(registers, warps),
        "shared": _by_shared(limits, shared),
    }
    if barriers and limits.barriers is not None:
        allowed["barriers"] = limits.barriers // barriers
    blocks = min(allowed.values())
    limited_by = tuple(name for name, count in allowed.items() if count == blocks)
    return Occupancy(blocks, blocks * warps, blocks * warps / limits.warps, limited_by)


def _by_registers(registers: int, warps: int) -> int:
    if registers > 255:
        return 0
    each = max(1, -(-registers * WARP // REGISTER_UNIT)) * REGISTER_UNIT
    return REGISTERS // PARTITIONS // each * PARTITIONS // warps


def _by_shared(limits: Limits, shared: int) -> int:
    if shared > limits.block_shared:
        return 0
    each = -(-(shared + RESERVED) // SHARED_UNIT) * SHARED_UNIT
    return limits.shared // each
