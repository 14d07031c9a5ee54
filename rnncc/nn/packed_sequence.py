"""Packed sequences: PyTorch's PackedSequence, step by step <-> sequences one after another."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from rnncc.errors import ArgumentError
from rnncc.nn.refusal import refuse, show
from rnncc.nn.sequences import to_device
from rnncc.runtime.sequences import Sequences


class Packing(NamedTuple):
    """Where the rows of a PackedSequence lie if its sequences are laid one after another.

    Attributes:
        x: the PackedSequence.
        there: [total], for each row of the joined sequences its row in x.
        back: [total], for each row of x its row in the joined sequences.
        sequences: the joined ones, in the order that the batch had before it was sorted.
    """

    x: PackedSequence
    there: Tensor
    back: Tensor
    sequences: Sequences

    def join(self, name: str, value: Any) -> Tensor:
        """Lay the sequences one after another: [total, ...].

        Raises:
            ArgumentError: it isn't packed as x is.
        """
        if not isinstance(value, PackedSequence) or not _alike(self.x, value):
            raise refuse(
                name,
                "one of other lengths" if isinstance(value, PackedSequence) else show(value),
                "a PackedSequence with the batch_sizes and sorted_indices of x",
                f"pack {name} with the lengths of x",
            )
        return value.data[self.there]

    def pack(self, rows: Any) -> Any:
        """A PackedSequence of [total, ...], or a tuple of them."""
        if isinstance(rows, tuple):
            return tuple(self.pack(row) for row in rows)
        x = self.x
        return PackedSequence(rows[self.back], x.batch_sizes, x.sorted_indices, x.unsorted_indices)


def read_packing(x: PackedSequence, name: str = "x") -> Packing:
    """From the sizes of the batch at each step, without a loop over time.

    Args:
        name: of x in messages.

    Raises:
        ArgumentError: they don't add up to the rows of data, or an index lies outside the batch.
    """
    _check(x, name)
    device, total = x.data.device, x.data.shape[0]
    sizes = to_device("x", x.batch_sizes, device)
    place = torch.arange(int(x.batch_sizes[0]), device=device)  # among the sorted sequences
    lengths = len(sizes) - torch.searchsorted(sizes.flip(0), place, right=True)
    if x.unsorted_indices is not None:
        place, lengths = x.unsorted_indices, lengths[x.unsorted_indices]
    starts, steps_begin = lengths.cumsum(0) - lengths, sizes.cumsum(0) - sizes
    rows = torch.arange(total, device=device)
    sequence = torch.repeat_interleave(lengths, output_size=total)
    there = steps_begin[rows - starts[sequence]] + place[sequence]
    back = torch.empty_like(there).scatter_(0, there, rows)
    return Packing(x, there, back, Sequences(starts, lengths))


def _check(x: PackedSequence, called: str) -> None:
    """Whether it could come from pack_sequence; indices on a GPU aren't read."""
    sizes, total = x.batch_sizes, x.data.shape[0]
    falls = _counts(sizes) and int(sizes[-1]) >= 1 and bool((sizes.diff() <= 0).all())
    if not falls or int(sizes[0]) > total or int(sizes.sum()) != total:
        raise refuse(
            called,
            f"a PackedSequence of {total} rows with the batch_sizes {_few(sizes)}",
            "sizes that fall, at least 1 each, and add up to the rows",
            "torch.nn.utils.rnn.pack_sequence",
        )
    for name, index in (("sorted", x.sorted_indices), ("unsorted", x.unsorted_indices)):
        if index is None or not index.is_cpu:
            continue
        if not _counts(index) or index.sort().values.tolist() != list(range(int(sizes[0]))):
            raise refuse(
                called,
                f"a PackedSequence with the {name}_indices {_few(index)}",
                f"each number from 0 to {int(sizes[0]) - 1} once",
                "torch.nn.utils.rnn.pack_sequence",
            )


def _counts(numbers: Tensor) -> bool:
    return numbers.dim() == 1 and bool(len(numbers)) and numbers.dtype == torch.int64


def _few(numbers: Tensor) -> str:
    if numbers.dim() != 1 or numbers.dtype != torch.int64:
        return show(numbers)
    shown = ", ".join(str(n) for n in numbers[:8].tolist())
    return f"[{shown}{', ...' if len(numbers) > 8 else ''}]"


def refuse_beside_packed(**given: Any) -> None:
    """Refuse the arguments that describe the sequences of a padded or joined x."""
    for name, value in given.items():
        if value is not None:
            raise ArgumentError(
                f"{name}: got it together with a PackedSequence, which brings its own lengths, "
                "expected a padded x.\nFix: x, lengths = pad_packed_sequence(x, batch_first=True)"
            )


def _alike(a: PackedSequence, b: PackedSequence) -> bool:
    """Whether both have the same sequences in the same rows."""
    if not torch.equal(a.batch_sizes, b.batch_sizes):
        return False
    if a.sorted_indices is None or b.sorted_indices is None:
        return a.sorted_indices is b.sorted_indices
    same = a.sorted_indices is b.sorted_indices  # comparing tensors on a GPU waits for it
    return same or torch.equal(a.sorted_indices, b.sorted_indices)
