"""Node: what a short call leaves in autograd's graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rnncc.nn.autograd import pull
from rnncc.nn.given import Given
from rnncc.nn.short import Found, run

FIXED = 3  # arguments of the function below that come before the tensors


def solve(given: Given, states: bool, found: Found) -> list[Tensor]:
    """What the way gives, without what is saved for the backward."""
    head = (given.key, given.choices, given.packed, states, len(given.inputs), len(given.params))
    status: list[Tensor] = []
    return [*_apply(head, found, status, *given.own()), *status]


class Recurrence(torch.autograd.Function):
    """As `autograd.Recurrence`, without what a short call doesn't need and PyTorch takes time for.

    Arguments: what tells the call from others, the way to its kernel, a list for the status, and
    the tensors.
    """

    @staticmethod
    def forward(
        ctx: Any, head: Any, found: Found, status: list[Tensor], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        results = run(found)
        if found[0].status:
            status.append(results.pop())
        ctx.save_for_backward(*tensors, results.pop())
        ctx.head, ctx.last = head, found[0].last
        ctx.set_materialize_grads(False)
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        *tensors, saved = ctx.saved_tensors
        key, choices, packed, states, n, m = ctx.head
        given = Given(key, choices, tensors[:n], packed, tensors[n : n + m], *tensors[n + m :])
        *rows, dh_last = gradients if ctx.last else (*gradients, None)
        asked = ctx.needs_input_grad[FIXED:]
        results = pull(given, states, asked, saved, rows, dh_last)
        return *(None,) * FIXED, *results[: len(tensors)]


# Without a look at torch.func's transforms, of which there are none where there is a way.
_apply: Any = super(torch.autograd.Function, Recurrence).apply
