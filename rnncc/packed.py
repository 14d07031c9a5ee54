"""Packed: PyTorch's PackedSequence, which lies step by step <-> sequences one after another."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from rnncc.sequences import Sequences


class Packing(NamedTuple):
    """Where the rows of a PackedSequence lie if its sequences are laid one after another.

    Attributes:
        joined: [total], for each row of the joined sequences its row in the PackedSequence.
        packed: [total], the other way.
        sequences: the joined ones, in the order that the batch had before it was sorted.
    """

    joined: Tensor
    packed: Tensor
    sequences: Sequences


def read_packing(x: PackedSequence) -> Packing:
    """From the sizes of the batch at each step, without a loop over time."""
    device, total = x.data.device, x.data.shape[0]
    sizes = x.batch_sizes.to(device)
    place = torch.arange(int(x.batch_sizes[0]), device=device)  # among the sorted sequences
    lengths = len(sizes) - torch.searchsorted(sizes.flip(0), place, right=True)
    if x.unsorted_indices is not None:
        place, lengths = x.unsorted_indices, lengths[x.unsorted_indices]
    starts, steps_begin = lengths.cumsum(0) - lengths, sizes.cumsum(0) - sizes
    rows = torch.arange(total, device=device)
    sequence = torch.repeat_interleave(lengths, output_size=total)
    joined = steps_begin[rows - starts[sequence]] + place[sequence]
    packed = torch.empty_like(joined).scatter_(0, joined, rows)
    return Packing(joined, packed, Sequences(starts, lengths))


def packed_alike(a: PackedSequence, b: PackedSequence) -> bool:
    """Whether both have the same sequences in the same rows."""
    if not torch.equal(a.batch_sizes, b.batch_sizes):
        return False
    if a.sorted_indices is None or b.sorted_indices is None:
        return a.sorted_indices is b.sorted_indices
    return torch.equal(a.sorted_indices, b.sorted_indices)
