"""Sequences: the sequences of one call, as kernels read them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Sequences:
    """The sequences of a call.

    Attributes:
        starts: [S], int64, where each begins if all lie one after another in inputs of one row;
            None if each has a row of its own.
        lengths: [S], int64, or None where all take every step.
        reset: [B, T], bool, true where the state is reset before the step; or None.
    """

    starts: Tensor | None = None
    lengths: Tensor | None = None
    reset: Tensor | None = None

    @staticmethod
    def of(starts: Tensor | None, lengths: Tensor | None, reset: Tensor | None) -> Sequences:
        """`ALL_WHOLE` itself where nothing is given."""
        if starts is None and lengths is None and reset is None:
            return ALL_WHOLE
        return Sequences(starts, lengths, reset)


ALL_WHOLE = Sequences()
