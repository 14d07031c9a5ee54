"""Shift: the states after each step of a call -> those before it, and gradients the other way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rnncc.ir.spec import KernelSpec
from rnncc.nn.given import Given


class Shift(NamedTuple):
    """Where each step of a call takes its state from.

    Attributes:
        fresh: bool [B, T, 1], steps that begin from the initial state.
        owner: int64 [T], of joined sequences that have a state of their own the one of a step.
        initial_states: [states, S, N], or the cell's inits, [states, 1, 1].
        step: 1, or -1 in reverse.
    """

    fresh: Tensor
    owner: Tensor | None
    initial_states: Tensor
    step: int

    @classmethod
    def of(cls, given: Given, spec: KernelSpec, reverse: bool) -> Shift:
        x, h0, step = given.inputs[0], given.h0, -1 if reverse else 1
        fresh, owner = (
            _joined(given, reverse) if given.starts is not None else _whole(given, reverse)
        )
        if given.reset is not None:
            fresh = fresh | given.reset
        if h0 is None or not h0.shape[1]:
            inits = x.new_tensor([[[s.init]] for s in spec.states])
            return cls(fresh.unsqueeze(-1), None, inits, step)
        return cls(fresh.unsqueeze(-1), owner, h0, step)

    def before(self, z: Tensor, place: int) -> Tensor:
        """The state before each step, [B, T, N].

        Args:
            z: that after each step.
            place: of the state among those of the cell.
        """
        first = self.initial_states[place]
        first = first[:, None] if self.owner is None else first[self.owner][None]
        return torch.where(self.fresh, first, z.roll(self.step, 1))

    def after(self, gradient: Tensor) -> Tensor:
        """The gradient of the states after each step, from that of the states before it."""
        return torch.where(self.fresh, 0.0, gradient).roll(-self.step, 1)

    def initial(self, gradients: Sequence[Tensor | None], like: Tensor) -> Tensor:
        """The gradient of the initial states [states, S, N], from those of the states before."""
        return torch.stack([self._initial(g, like[0]) for g in gradients])

    def _initial(self, gradient: Tensor | None, like: Tensor) -> Tensor:
        if gradient is None:
            return torch.zeros_like(like)
        fresh = torch.where(self.fresh, gradient, 0.0)
        if self.owner is None:
            return fresh.sum(1)
        return torch.zeros_like(like).index_add(0, self.owner, fresh[0])


def _whole(given: Given, reverse: bool) -> tuple[Tensor, None]:
    x, lengths = given.inputs[0], given.lengths
    rows, steps = x.shape[:2]
    places = torch.arange(steps, device=x.device)
    last = steps - 1 if lengths is None else lengths[:, None] - 1
    fresh = places == last if reverse else places == 0
    return fresh.expand(rows, steps), None


def _joined(given: Given, reverse: bool) -> tuple[Tensor, Tensor | None]:
    x, starts, lengths = given.inputs[0], given.starts, given.lengths
    assert starts is not None
    assert lengths is not None
    places = torch.arange(x.shape[1], device=x.device)
    if not starts.shape[0]:
        return places[None] >= 0, None
    order = torch.argsort(starts, stable=True)
    ranks = torch.searchsorted(starts[order], places, right=True) - 1
    owner = order[ranks.clamp(min=0)]
    first = starts + lengths - 1 if reverse else starts
    return (places == first[owner])[None], owner
