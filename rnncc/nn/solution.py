"""Solution: what a call has led to, before it is given its user's form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rnncc.nn.short import Way
from rnncc.runtime.kernel import Kernel


class Solution(NamedTuple):
    """The results of a call.

    Attributes:
        y: the outputs, [B, T, N] each.
        z: the states after each step, [B, T, N] each, if they were asked for.
        h: the states after the last step, [states, S, N].
        status: float64, the struct Status of ir/abi.py; see `Solve`.
    """

    y: Sequence[Tensor]
    z: Sequence[Tensor]
    h: Tensor
    status: Tensor


def solution_of(kernel: Kernel, rows: Sequence[Tensor], h: Tensor, status: Tensor) -> Solution:
    """From the results of an operator; `rows`: the outputs, and the states if they are there."""
    count = len(kernel.spec.outputs)
    return Solution(rows[:count], rows[count:], h, status)


def solution_by(way: Way, kernel: Kernel, results: Sequence[Tensor]) -> Solution:
    """The solution from what a way leads to; what isn't wanted is empty."""
    rows = [*results]
    status = rows.pop() if way.status else NOTHING
    return solution_of(kernel, rows, rows.pop() if way.last else NOTHING, status)


NOTHING = torch.empty(0)
