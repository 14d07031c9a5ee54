"""Given: the arguments that the operators begin with, and the call that they make."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rnncc.ir.choices import read_choices
from rnncc.ir.spec import KernelSpec
from rnncc.nn.sequences import check_values
from rnncc.runtime.backend import Backend
from rnncc.runtime.call import Call, Shapes, plan_call, shapes_of
from rnncc.runtime.kernel import Kernel
from rnncc.runtime.sequences import Sequences

SIGNATURE = (
    "str key, str choices, Tensor[] inputs, bool packed, Tensor[] params, Tensor? h0,"
    " Tensor? starts, Tensor? lengths, Tensor? reset"
)


class Given(NamedTuple):
    """The arguments of `SIGNATURE`, as torch.library takes them; `checks.parse` checks them."""

    key: str
    choices: str
    inputs: Sequence[Tensor]
    packed: bool
    params: Sequence[Tensor]
    h0: Tensor | None = None
    starts: Tensor | None = None
    lengths: Tensor | None = None
    reset: Tensor | None = None

    def tensors(self) -> tuple[Tensor | None, ...]:
        """All in one row; `of_tensors` takes them back."""
        return (*self.inputs, *self.params, self.h0, self.starts, self.lengths, self.reset)

    def own(self) -> list[Tensor]:
        """Inputs, params, and h0 if it is given."""
        return [*self.inputs, *self.params, *(() if self.h0 is None else (self.h0,))]

    @classmethod
    def of_tensors(
        cls,
        key: str,
        choices: str,
        packed: bool,
        counts: tuple[int, int],
        tensors: Sequence[Tensor | None],
    ) -> Given:
        """Args: counts: of inputs and params."""
        n, m = counts
        inputs: Any = list(tensors[:n])
        params: Any = list(tensors[n : n + m])
        return cls(key, choices, inputs, packed, params, *tensors[n + m :])

    def shapes(self, spec: KernelSpec, backend: Backend) -> Shapes:
        steps_saved = backend.steps_saved(spec, read_choices(self.choices))
        return shapes_of(spec, self.inputs, self.params, steps_saved, self.starts, self.h0)

    def with_own_lengths(self, backend: Backend) -> Given:
        """With a copy of the lengths that no one else changes, its numbers checked.

        Raises:
            ArgumentError: a length or boundary outside the inputs.
        """
        starts, lengths = self.starts, self.lengths
        assert lengths is not None
        if not backend.host_reads:  # its kernels limit what they read
            starts = None if starts is None else starts.contiguous()
            return self._replace(starts=starts, lengths=lengths.contiguous())
        dense = torch.contiguous_format
        lengths = lengths.clone(memory_format=dense)
        starts = None if starts is None else starts.clone(memory_format=dense)
        check_values(starts, lengths, self.inputs[0].shape[1])
        return self._replace(starts=starts, lengths=lengths)

    def plan(self, kernel: Kernel, backend: Backend) -> Call:
        return plan_call(
            backend,
            kernel,
            read_choices(self.choices),
            self.inputs,
            self.packed,
            [p.contiguous() for p in self.params],
            None if self.h0 is None else self.h0.contiguous(),
            Sequences.of(self.starts, self.lengths, self.reset),
        )


COMMON = len(Given._fields)
