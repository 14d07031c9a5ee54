"""Prepared: one direction of a call, packed once; later calls fill in their addresses and run."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from rnncc.errors import ArgumentError

Slot = tuple[int, int, int]


@dataclass(frozen=True)
class Prepared:
    """The words of Args for all calls of the same shapes, strides, dtypes and plan.

    Attributes:
        words: Args with null addresses.
        slots: each address: its word, the tensor, and the bytes from the tensor's first element.
        space: bytes of scratch memory, which counts as one more tensor, the last.
        launch: runs the kernels on Args; safe from several threads, each with words of its own.
        cleared: tensors that must be zeros before.
    """

    words: array[int]
    slots: tuple[Slot, ...]
    space: int
    launch: Callable[[array[int]], None]
    cleared: tuple[int, ...] = ()

    def run(self, tensors: Sequence[Tensor]) -> None:
        """Run once, on tensors that are as those that it was prepared with.

        Raises:
            ArgumentError: a tensor's memory was given back.
            MemoryError: the kernel had none.
        """
        for k in self.cleared:
            tensors[k].zero_()
        if self.space:
            block = torch.empty(self.space, dtype=torch.uint8, device=tensors[0].device)
            tensors = [*tensors, block]
        self.launch(self.filled(tensors))

    def filled(self, tensors: Sequence[Tensor]) -> array[int]:
        """Args of its own with the addresses of the tensors, which must outlive it.

        With `space` the last is the scratch memory. `launch` may take it any number of times.
        """
        addresses = [tensor.data_ptr() for tensor in tensors]
        if 0 in addresses:
            _check_memory(tensors)
        words = self.words[:]
        for place, k, offset in self.slots:
            words[place] = addresses[k] + offset
        return words


def _check_memory(tensors: Sequence[Tensor]) -> None:
    for tensor in tensors:
        if tensor.numel() and not tensor.data_ptr():
            _no_memory(tensor)


def _no_memory(tensor: Tensor) -> NoReturn:
    raise ArgumentError(
        f"a tensor {list(tensor.shape)} of the call has no memory, expected its values: it was "
        "given back after the tensor was made.\nFix: fill it before the call and its backward"
    )
