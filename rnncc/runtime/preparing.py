"""Preparing: what backends share that pack Args, prepare a call, and run it."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rnncc.runtime.args import tensors_of
from rnncc.runtime.backend import Backend
from rnncc.runtime.call import Call
from rnncc.runtime.prepared import Prepared

WORTH_ASKING = 2**16  # bytes; for fewer, PyTorch's own allocator is asked at once


class Preparing(Backend):
    """Calls, each prepared and run; see `Backend`.

    Attributes:
        ways: of calls that were seen before, by their form; see nn/short.py.
    """

    def __init__(self) -> None:
        self.ways: dict[tuple[Any, ...], Any] = {}

    def makers(
        self, rows: Sequence[tuple[tuple[Any, ...], torch.dtype]], like: Tensor
    ) -> tuple[Callable[[], Tensor], ...]:
        """For results of these shapes and dtypes: what allocates each, on the device of `like`."""
        return tuple(
            partial(self.empty, like.new_empty(0), shape, dtype=dtype)
            if math.prod(shape) * dtype.itemsize >= WORTH_ASKING
            else partial(torch.empty_like, like.new_empty((), dtype=dtype).expand(shape))
            for shape, dtype in rows
        )

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

    def record(self, run: Callable[[], None], device: torch.device) -> Callable[[], None]:
        """What does again what `run` does, on the same memory, in less time if it can."""
        return run

    @abstractmethod
    def prepare_forward(
        self,
        call: Call,
        y: Sequence[Tensor],
        z: Sequence[Tensor],
        h_last: Tensor | None,
        saved: Tensor | None,
        status: Tensor | None,
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
        dh0: Tensor | None,
    ) -> Prepared:
        """The same of a backward: `tensors_of(call, saved, dy, dz, dh_last, dx, dparams, dh0)`."""
