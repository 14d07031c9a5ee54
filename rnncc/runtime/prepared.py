"""Prepared: one direction of a call, packed once; later calls fill in their addresses and run."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from rnncc.errors import ArgumentError


@dataclass(frozen=True)
class Prepared:
    """The words of Args for all calls of the same shapes, strides, dtypes and plan.

    Attributes:
        words: Args with null addresses, and behind them scratch memory, if it is little and the
            host's; a kernel takes Args by their address.
        places: the word of the address of each tensor.
        others: further addresses: their word, which tensor, and the bytes from its first element.
        pieces: addresses in scratch memory: their word, and the bytes from its beginning.
        args: bytes of Args.
        space: bytes of scratch memory that isn't behind Args, which a run allocates.
        launch: runs the kernels on Args; safe from several threads, each with words of its own.
        cleared: tensors that must be zeros before.
    """

    words: array[int]
    places: tuple[int, ...]
    others: tuple[tuple[int, int, int], ...]
    pieces: tuple[tuple[int, int], ...]
    args: int
    space: int
    launch: Callable[[array[int]], None]
    cleared: tuple[int, ...] = ()

    def run(self, tensors: Sequence[Tensor]) -> None:
        """Run once, on tensors that are as those that it was prepared with.

        Raises:
            ArgumentError: a tensor's memory was given back.
            MemoryError: the kernel had none.
        """
        space = None
        if self.space:
            space = torch.empty(self.space, dtype=torch.uint8, device=tensors[0].device)
        for k in self.cleared:
            tensors[k].zero_()
        self.launch(self.filled(tensors, space))

    def filled(self, tensors: Sequence[Tensor], space: Tensor | None = None) -> array[int]:
        """Args of its own with the addresses of the tensors, which must outlive it.

        `launch` may take it any number of times.

        Args:
            space: `self.space` bytes, if that isn't 0.
        """
        words = self.words[:]
        for place, tensor in zip(self.places, tensors, strict=True):
            words[place] = address = tensor.data_ptr()
            if not address and tensor.numel():
                _no_memory(tensor)
        for place, k, offset in self.others:
            words[place] = tensors[k].data_ptr() + offset
        if self.pieces:
            first = words.buffer_info()[0] + self.args if space is None else space.data_ptr()
            for place, offset in self.pieces:
                words[place] = first + offset
        return words


def _no_memory(tensor: Tensor) -> NoReturn:
    raise ArgumentError(
        f"a tensor {list(tensor.shape)} of the call has no memory, expected its values: it was "
        "given back after the tensor was made.\nFix: fill it before the call and its backward"
    )
