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
        clears: the last tensor must be zeros before.
        device: where tensors are.
    """

    words: array[int]
    places: tuple[int, ...]
    others: tuple[tuple[int, int, int], ...]
    pieces: tuple[tuple[int, int], ...]
    args: int
    space: int
    launch: Callable[[array[int]], None]
    clears: bool
    device: torch.device

    def run(self, tensors: Sequence[Tensor]) -> None:
        """Run once, on tensors that are as those that it was prepared with.

        Raises:
            ArgumentError: a tensor's memory was given back.
            MemoryError: the kernel had none.
        """
        if self.clears:
            tensors[-1].zero_()
        self.run_at(addresses_of(tensors))

    def run_at(self, addresses: Sequence[int]) -> None:
        """The same by the addresses of the tensors."""
        space, first = None, 0
        if self.space:
            space = torch.empty(self.space, dtype=torch.uint8, device=self.device)
            first = space.data_ptr()
        self.launch(self.filled(addresses, first))

    def filled(self, addresses: Sequence[int], space: int = 0) -> array[int]:
        """Args of its own with these addresses, of tensors that must outlive it.

        `launch` may take it any number of times.

        Args:
            space: the address of `self.space` bytes, if that isn't 0.
        """
        words = self.words[:]
        for place, address in zip(self.places, addresses):  # noqa: B905  strict takes longer
            words[place] = address
        for place, k, offset in self.others:
            words[place] = addresses[k] + offset
        if self.pieces:
            first = space or words.buffer_info()[0] + self.args
            for place, offset in self.pieces:
                words[place] = first + offset
        return words


def addresses_of(tensors: Sequence[Tensor]) -> list[int]:
    """Where they lie.

    Raises:
        ArgumentError: a tensor's memory was given back.
    """
    addresses = [*map(Tensor.data_ptr, tensors)]
    if 0 in addresses:
        for tensor, address in zip(tensors, addresses, strict=True):
            if tensor.numel() and not address:
                _no_memory(tensor)
    return addresses


def _no_memory(tensor: Tensor) -> NoReturn:
    raise ArgumentError(
        f"a tensor {list(tensor.shape)} of the call has no memory, expected its values: it was "
        "given back after the tensor was made.\nFix: fill it before the call and its backward"
    )
