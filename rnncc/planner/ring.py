"""Ring: a cell and its types -> the shared memory of its CUDA kernels, and what they read ahead.

The headers of templates/include/rnncc/cuda count the same bytes; a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rnncc.errors import ArgumentError
from rnncc.ir.spec import KernelSpec

WARP = 32
WARPS_OF_BLOCK = 4
SUMMING_WARPS = 8  # of a block that sums over runs
BYTES_AHEAD = 168  # for each channel: kBytesAhead of templates/include/rnncc/cuda/ring.h
STAGES_OF_TILES = 2  # kStagesOfTiles of templates/include/rnncc/cuda/tiles.h
BYTES_OF_RING = 24 * 2**10  # of a warp, at most
MOST_STAGES = 64  # so many groups of copies can be waited for
# Sums over time: of up to so many params in registers, of up to so many in shared memory; of more
# again in registers, as far as they go: as in backward.h.
PARAMS_IN_REGISTERS, PARAMS_IN_SHARED = 16, 64
MOST_TENSORS = 63  # kMostTensors of templates/include/rnncc/cuda/ring.h
MOST_OF_RING = 64 * 2**10  # bytes: kMostOfRing of templates/include/rnncc/cuda/direct.h
SCANS = ("scan", "scan_back", "compare_back")
BYTES_OF_BORDER = 96  # up to so many, 8 of them are read ahead, else 4: as in queue.h
MOST_SHARED = 96 * 2**10  # bytes of a block, which every GPU from sm_80 on has
WITHOUT_REQUEST = 48 * 2**10  # bytes of a block, which every GPU gives at once


@dataclass(frozen=True)
class Ring:
    """What a warp reads next, in shared memory: blocks of steps (ring.h) or borders (queue.h).

    Attributes:
        stage: bytes of one block, or one border, of a warp.
        stages: their number; all but the one that is read are on their way from memory.
        steps: of the recurrence that are on their way.
        sums: bytes of the sums that a backward keeps for params and inputs.
    """

    stage: int
    stages: int
    steps: int
    sums: int = 0

    @property
    def bytes(self) -> int:
        """Of shared memory, for each warp."""
        return self.stage * self.stages + self.sums


def ring(spec: KernelSpec, io: int, real: int, back: bool, stages: int | None = None) -> Ring:
    """The ring of a warp, forward or `back`.

    Args:
        io, real: bytes of the tensors' type, and of the type that the recurrence is computed in.
        stages: as many as keep `BYTES_AHEAD` in flight, if None.
    Raises:
        ArgumentError: more tensors than a ring has bits for.
    """
    scalars = sum(1 if i.shared else spec.group for i in spec.inputs)
    scalars += spec.group * len(spec.outputs) * back
    block = scalars * spec.ahead * io
    wanted = 1 - (-BYTES_AHEAD * spec.group // block)
    found = stages or max(2, min(wanted, BYTES_OF_RING // (WARP * block), MOST_STAGES))
    states = spec.size * real * back
    tensors = len(spec.inputs) + len(spec.outputs) * back
    many = tensors > MOST_TENSORS
    if many and not spec.one_pass:
        raise ArgumentError(_many(spec.name, len(spec.inputs) + len(spec.outputs)))
    if spec.one_pass and (many or WARP * (block + states) * found > MOST_OF_RING):
        return Ring(0, 0, spec.ahead)  # read straight from memory
    return Ring(WARP * (block + states), found, (found - 1) * spec.ahead)


def _many(name: str, tensors: int) -> str:
    return (
        f"the cell '{name}' has {tensors} inputs and outputs, each element of a vector being one.\n"
        f"On a GPU cells of up to 8 values in a channel have at most {MOST_TENSORS}.\n"
        "Fix: fewer outputs, of which others are computed behind the layer, or device='cpu'"
    )


def bytes_of_sums(spec: KernelSpec, real: int) -> int:
    """Of a warp: what a backward sums in shared memory.

    Over time for params, if there are many; over channels for inputs that all of them share.
    """
    there = PARAMS_IN_REGISTERS < spec.param_slots <= PARAMS_IN_SHARED
    params = WARP * spec.param_slots * 8 if there else 0
    return params + spec.shared_inputs * spec.ahead * (WARP + 1) * real


def ring_of(kernel: str, spec: KernelSpec, io: int, real: int) -> Ring | None:
    """The shared memory of a warp of a kernel that isn't a block along time."""
    if kernel in SCANS:
        scalars = 3 * spec.size + spec.size**2
        return Ring(WARP * scalars * real, 8 if scalars * real <= BYTES_OF_BORDER else 4, 0)
    back = {"forward": False, "sweep": False, "alone": True, "backward": True}.get(kernel)
    if back is None:
        return None
    found = ring(spec, io, real, back)
    return replace(found, sums=bytes_of_sums(spec, real)) if kernel == "backward" else found


def rows_of_block(found: Ring) -> int:
    """Warps of a block of such a kernel: as many as there is room for their rings."""
    rows = WARPS_OF_BLOCK
    while rows > 1 and rows * found.bytes > WITHOUT_REQUEST:
        rows //= 2
    return rows


def shared_of_tiles(spec: KernelSpec, warps: int, io: int, real: int, back: bool) -> int:
    """Bytes of shared memory of a block along time: its inputs, and its segments' borders.

    The backward's also holds sums in double precision.
    """
    found = ring(spec, io, real, back, STAGES_OF_TILES)
    rings = warps * (found.bytes + back * bytes_of_sums(spec, real))
    shelves = ((2 * spec.size + spec.size**2) * warps + spec.size) * WARP * real
    return max(rings + shelves, shared_of_sums(warps) * back)


def shared_of_sums(warps: int) -> int:
    """Bytes of shared memory of a block that sums over its warps, in double precision."""
    return warps * WARP * 8


def warps_of_tiles(spec: KernelSpec, io: int, real: int, most: int = MOST_SHARED) -> int:
    """Warps of a block along time: those of the cell, or as many as `most` bytes have room for."""
    warps = spec.warps
    while warps > 1 and shared_of_tiles(spec, warps, io, real, back=True) > most:
        warps //= 2
    return warps
