"""Preparing: what backends share that pack Args, prepare a call, and run it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from rnncc.runtime.args import tensors_of
from rnncc.runtime.call import Call
from rnncc.runtime.prepared import Prepared


class Preparing(ABC):
    """Calls, each prepared and run; see `Backend`."""

    def forward(
        self,
        call: Call,
        y: Sequence[Tensor],
        z: Sequence[Tensor],
        h_last: Tensor,
        saved: Tensor | None,
        status: Tensor,
    ) -> None:
        results = (y, z, h_last, saved, status)
        self.prepare_forward(call, *results).run(tensors_of(call, *results))

    def backward(
        self,
        call: Call,
        saved: Tensor,
        dy: Sequence[Tensor | None],
        dz: Sequence[Tensor | None],
        dh_last: Tensor | None,
        dx: Sequence[Tensor | None],
        dparams: Sequence[Tensor],
        dh0: Tensor,
    ) -> None:
        gradients = (saved, dy, dz, dh_last, dx, dparams, dh0)
        self.prepare_backward(call, *gradients).run(tensors_of(call, *gradients))

    @abstractmethod
    def prepare_forward(
        self,
        call: Call,
        y: Sequence[Tensor],
        z: Sequence[Tensor],
        h_last: Tensor,
        saved: Tensor | None,
        status: Tensor,
    ) -> Prepared:
        """For all calls as this one; it takes `tensors_of(call, y, z, h_last, saved, status)`."""

    @abstractmethod
    def prepare_backward(
        self,
        call: Call,
        saved: Tensor,
        dy: Sequence[Tensor | None],
        dz: Sequence[Tensor | None],
        dh_last: Tensor | None,
        dx: Sequence[Tensor | None],
        dparams: Sequence[Tensor],
        dh0: Tensor,
    ) -> Prepared:
        """The same of a backward: `tensors_of(call, saved, dy, dz, dh_last, dx, dparams, dh0)`."""
