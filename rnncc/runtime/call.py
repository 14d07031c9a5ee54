"""Call: an operator's arguments -> one parsed call: kernel, choices, sequences and plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rnncc.ir.choices import Choices
from rnncc.ir.spec import KernelSpec
from rnncc.planner.plan import Plan, Shape
from rnncc.runtime.kernel import Kernel
from rnncc.runtime.sequences import ALL_WHOLE, Sequences

if TYPE_CHECKING:
    from rnncc.runtime.backend import Backend


@dataclass(frozen=True)
class Call:
    """One call of a kernel, as every backend takes it.

    Attributes:
        inputs: [B, T, N] each (shared ones [B, T]); with `packed` the first is [B, T, G, N] and
            stands for all inputs that are not shared.
        params: in the compute dtype, contiguous.
        h0: [states, S, N] in the compute dtype, contiguous, or None.
        dtype: of the tensors in memory.
        shape: sequences, steps of the longest (or a bound of it), channels; `groups` of channels.
        total: steps in memory.
        plan: how the call cuts its work.
    """

    kernel: Kernel
    choices: Choices
    inputs: Sequence[Tensor]
    packed: bool
    params: Sequence[Tensor]
    h0: Tensor | None
    sequences: Sequences
    dtype: torch.dtype
    shape: Shape
    groups: int
    total: int
    plan: Plan

    @property
    def jacobian_shape(self) -> tuple[int, ...]:
        """As the kernels write them: [T, B, N / group, D, D]."""
        (batch, steps, _), size = self.shape, self.kernel.spec.size
        return steps, batch, self.groups, size, size


def plan_call(
    backend: Backend,
    kernel: Kernel,
    choices: Choices,
    inputs: Sequence[Tensor],
    packed: bool,
    params: Sequence[Tensor],
    h0: Tensor | None,
    sequences: Sequences = ALL_WHOLE,
) -> Call:
    """A call with its plan."""
    x, spec = inputs[0], kernel.spec
    rows, steps = x.shape[:2]
    total, batch, channels = rows * steps, rows, channels_of(spec, inputs, params, h0)
    starts, lengths = sequences.starts, sequences.lengths
    if starts is not None:
        batch, steps = starts.shape[0], total  # the longest is at most all of them
        if lengths is not None and backend.host_reads:
            steps = int(lengths.max()) if batch else 0
    shape = (batch, steps, channels)
    plan = backend.plan(kernel, shape, x.dtype, choices, total, x.device)
    return Call(
        kernel=kernel,
        choices=choices,
        inputs=inputs,
        packed=packed,
        params=params,
        h0=h0,
        sequences=sequences,
        dtype=x.dtype,
        shape=shape,
        groups=channels // spec.structure.group,
        total=total,
        plan=plan,
    )


# --- shapes ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shapes:
    """The shapes of the tensors that the operators allocate.

    `saved` holds the checkpoints, [slots, states, N], flat: with a dimension of its own,
    torch.compile would specialize on T <= 16.
    """

    y: tuple[Any, ...]
    h: tuple[Any, ...]
    saved: tuple[Any, ...]


def shapes_of(
    spec: KernelSpec,
    inputs: Sequence[Tensor],
    params: Sequence[Tensor],
    steps_saved: int,
    starts: Tensor | None = None,
    h0: Tensor | None = None,
) -> Shapes:
    """From the first per-channel input, or from the first per-channel param, or h0.

    Args:
        steps_saved: steps between saved states.
        starts: the first steps of joined sequences.
    """
    rows, steps = inputs[0].shape[:2]
    channels, states = channels_of(spec, inputs, params, h0), len(spec.states)
    if starts is None:
        count = rows
        slots = rows * ((steps + steps_saved - 1) // steps_saved)
    else:
        count = starts.shape[0]
        slots = rows * steps // steps_saved + count
    return Shapes(
        y=(rows, steps, channels),
        h=(states, count, channels),
        saved=(slots * states * channels,),
    )


def channels_of(
    spec: KernelSpec, inputs: Sequence[Tensor], params: Sequence[Tensor], h0: Tensor | None
) -> Any:
    """N: an int, or symbolic under torch.compile."""
    for tensor in inputs:
        if tensor.dim() >= 3:
            return tensor.shape[-1]
    for tensor, param in zip(params, spec.params, strict=True):
        if not param.shared:
            return tensor.shape[0] * (param.block or 1)
    return 1 if h0 is None else h0.shape[-1]
