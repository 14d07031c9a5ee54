"""Allocator: large results on the CPU reuse blocks that earlier results gave back.

The system zeroes fresh pages at their first touch, which takes a kernel that streams through its
results about a fifth of its time. PyTorch caches blocks like this on GPUs, but not on CPUs.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import os
from collections import deque
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

WORTH_KEEPING = 2**21  # bytes; smaller results stay with PyTorch's allocator, which is quicker
MOST_KEPT = int(os.environ.get("RNNCC_KEPT_BYTES", 2**29))
LARGE_PAGE = 2**21

_free: dict[int, deque[mmap.mmap]] = {}  # by size; append and pop are atomic


def empty(like: Tensor, shape: Sequence[Any], dtype: torch.dtype | None = None) -> Tensor:
    """As `like.new_empty(shape, dtype=dtype)`; a large one lies in memory that is reused.

    The block goes back when the last tensor on it is gone. Kept blocks take up to
    RNNCC_KEPT_BYTES (512 MiB; 0 keeps none).
    """
    dtype = dtype or like.dtype
    if type(like) is not Tensor or like.device.type != "cpu":  # fake tensors and other stand-ins
        return like.new_empty(tuple(shape), dtype=dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < WORTH_KEEPING or size > MOST_KEPT:
        return like.new_empty(tuple(shape), dtype=dtype)
    whole = -(-size // LARGE_PAGE) * LARGE_PAGE
    block = _take(whole)
    lease = _lease_type(whole).from_buffer(block)
    lease.block = block
    storage = torch.frombuffer(lease, dtype=torch.uint8).untyped_storage()
    # set_, not view: a result that is a view may not be changed in place
    return torch.empty(0, dtype=dtype).set_(storage, 0, tuple(shape), _strides(shape))


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def kept_bytes() -> int:
    """Bytes of the free blocks."""
    return sum(size * len(blocks) for size, blocks in _free.items())


def _take(size: int) -> mmap.mmap:
    try:
        return _free[size].pop()
    except (KeyError, IndexError):
        return _fresh(size)


def _fresh(size: int) -> mmap.mmap:
    block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without large pages
            block.madvise(mmap.MADV_HUGEPAGE)
    return block


@cache
def _lease_type(size: int) -> Any:
    """An array over a block, which gives the block back when it dies."""

    class Lease(ctypes.c_char * size):  # type: ignore[misc]
        block: mmap.mmap

        def __del__(self) -> None:
            if kept_bytes() + size > MOST_KEPT:
                _free.clear()
            _free.setdefault(size, deque()).append(self.block)

    return Lease
