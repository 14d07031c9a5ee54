"""Autograd: the recurrence, and its gradients, as functions that PyTorch differentiates."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from rnncc.nn import vmap
from rnncc.nn.given import Given
from rnncc.nn.second import derivative, linearize, refuse_nested, second
from rnncc.nn.short import backward_way, run
from rnncc.nn.vmap import Upstream
from rnncc.runtime.kernel import kernel_of

FIXED = 5  # arguments of the functions below that come before the tensors
UNMOVED = 3  # tensors that have no derivative: starts, lengths, reset
OTHERS = 1 + UNMOVED  # beside inputs and params


def differentiable(given: Given, states: bool) -> Any:
    """The operator's forward with its derivatives of all kinds.

    Raises:
        ArgumentError: forward mode within forward mode.
    """
    if forward_ad._current_level >= 0:
        refuse_nested()
    counts = (len(given.inputs), len(given.params))
    apply: Any = Recurrence.apply
    return apply(given.key, given.choices, given.packed, states, counts, *given.tensors())


class Recurrence(torch.autograd.Function):
    """The recurrence with its gradient; arguments: the fixed ones, counts, then all tensors."""

    @staticmethod
    def forward(
        key: str, choices: str, packed: bool, states: bool, counts: Any, *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        given = Given.of_tensors(key, choices, packed, counts, tensors)
        return tuple(torch.ops.rnncc.forward.default(*given, states, True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.key, ctx.choices, ctx.packed, ctx.states, ctx.counts, *tensors = inputs
        *_, saved, status = output
        ctx.save_for_backward(*tensors, saved)
        if forward_ad._current_level >= 0:
            ctx.save_for_forward(*tensors)
        ctx.mark_non_differentiable(saved, status)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        *tensors, saved = ctx.saved_tensors
        given = Given.of_tensors(ctx.key, ctx.choices, ctx.packed, ctx.counts, tensors)
        *rows, dh_last, _, _ = gradients
        asked = ctx.needs_input_grad[FIXED:]
        results = pull(given, ctx.states, asked, saved, rows, dh_last)
        return *(None,) * FIXED, *results, *(None,) * UNMOVED

    @staticmethod
    def vmap(info: Any, dims: Any, *arguments: Any) -> Any:
        key, choices, packed, states, counts, *tensors = arguments
        given = Given.of_tensors(key, choices, packed, counts, tensors)
        alone = Given.of_tensors(key, choices, packed, counts, dims[FIXED:])

        def run(given: Given) -> Any:
            apply: Any = Recurrence.apply
            return apply(key, choices, packed, states, counts, *given.tensors())

        results, found = vmap.forward(run, info.batch_size, given, alone)
        return tuple(results), tuple(found)

    @staticmethod
    def jvp(ctx: Any, *dots: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        given = Given.of_tensors(ctx.key, ctx.choices, ctx.packed, ctx.counts, tensors)
        along = derivative(given, dots[FIXED : len(dots) - UNMOVED], ctx.states)
        return *along, None, None


# torch binds arguments to it at every call, and would work it out anew each time.
_signature = inspect.signature(Recurrence.forward)
Recurrence.forward.__signature__ = _signature  # type: ignore[attr-defined]


def pull(
    given: Given,
    states: bool,
    asked: Sequence[bool],
    saved: Tensor,
    rows: Sequence[Tensor | None],
    dh_last: Tensor | None,
) -> list[Tensor | None]:
    """The gradients of inputs, params and h0 from those of the outputs, states and last states.

    Args:
        asked: which are wanted; those of inputs that aren't are None.
    """
    n, m = len(given.inputs), len(given.params)
    wanted, compiling = list(asked[:n]), torch.compiler.is_compiling()
    if torch.is_grad_enabled() or (not compiling and forward_ad._current_level >= 0):
        apply: Any = Gradient.apply  # create_graph=True
        head = (given.key, given.choices, given.packed, states, (n, m), list(asked[: n + m]))
        results = apply(*head, *given.tensors(), saved, *rows, dh_last)
    else:
        count = len(kernel_of(given.key).spec.outputs)
        above = (saved, rows[:count], rows[count:], dh_last)
        found = None if compiling else backward_way(given, above, wanted)
        if found is not None:
            rest = iter(run(found))
            results = [*[next(rest) if w else None for w in wanted], *rest]
            return results if given.h0 is not None else [*results, None]
        results = torch.ops.rnncc.backward.default(*given, *above, wanted)
    dx = [g if w else None for g, w in zip(results, wanted, strict=False)]
    return [*dx, *results[n:-1], None if given.h0 is None else results[-1]]


class Gradient(torch.autograd.Function):
    """The gradients of a recurrence, with their own derivatives.

    Arguments: as of `Recurrence`, which inputs and params are wanted, then all tensors, what the
    forward has saved, and the gradients of its results.
    """

    @staticmethod
    def forward(
        key: str,
        choices: str,
        packed: bool,
        states: bool,
        counts: tuple[int, int],
        wanted: list[bool],
        *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        given, above = Gradient.arguments(key, choices, packed, counts, tensors)
        first = wanted[: counts[0]]
        return tuple(torch.ops.rnncc.backward.default(*given, *above, first))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.key, ctx.choices, ctx.packed, ctx.states, ctx.counts, ctx.wanted, *tensors = inputs
        ctx.h_shape = output[-1].shape
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *dots: Tensor | None) -> tuple[Any, ...]:
        given, gradients, states = Gradient.point(ctx)
        own = len(given.tensors())
        found = linearize(given, dots, states)
        of_given: list[Tensor | None] = [None] * own
        if any(ctx.needs_input_grad[FIXED + 1 : FIXED + 1 + own]):
            of_given[: own - UNMOVED] = second(kernel_of(given.key), found, gradients, given)
        dtype = given.inputs[0].dtype
        *rows, h = found.results
        asked = ctx.needs_input_grad[FIXED + 2 + own :]
        results = zip([*(row.to(dtype) for row in rows), h], asked, strict=True)
        along = [dot if needed else None for dot, needed in results]
        return *[None] * (FIXED + 1), *of_given, None, *along

    @staticmethod
    def jvp(ctx: Any, *dots: Tensor | None) -> tuple[Tensor | None, ...]:
        """By the symmetry of second derivatives: those that the backward has."""
        given, gradients, states = Gradient.point(ctx)
        own = len(given.tensors())
        of_given = dots[FIXED + 1 : FIXED + 1 + own - UNMOVED]
        moved: list[Tensor | None] = [None] * len(of_given)
        kept = [*ctx.wanted, *[True] * (len(moved) - len(ctx.wanted))]
        if any(dot is not None for dot in of_given):
            found = linearize(given, of_given, states)
            moved = second(kernel_of(given.key), found, gradients, given)
        upstream = dots[FIXED + 2 + own :]
        if any(dot is not None for dot in upstream):
            head = (ctx.key, ctx.choices, ctx.packed, states, ctx.counts, ctx.wanted)
            apply: Any = Gradient.apply
            linear = apply(*head, *given.tensors(), ctx.saved_tensors[own], *upstream)
            moved = [
                a if not keep else b if a is None else a + b
                for a, b, keep in zip(moved, linear, kept, strict=True)
            ]
        rows = zip(given.inputs, kept, strict=False)
        nothing = [x.new_zeros(x.shape if keep else (0,)) for x, keep in rows]
        nothing += [torch.zeros_like(p) for p in given.params]
        nothing.append(ctx.saved_tensors[own].new_zeros(ctx.h_shape))  # also if there is no h0
        unmoved = zip(moved, kept, nothing, strict=True)
        return tuple(zero if dot is None or not keep else dot for dot, keep, zero in unmoved)

    @staticmethod
    def vmap(info: Any, dims: Any, *arguments: Any) -> Any:
        key, choices, packed, states, counts, wanted, *tensors = arguments
        given, above = Gradient.arguments(key, choices, packed, counts, tensors)
        alone = Gradient.arguments(key, choices, packed, counts, dims[FIXED + 1 :])

        def run(given: Given, above: Upstream) -> Any:
            apply: Any = Gradient.apply
            rest = (*given.tensors(), above.saved, *above.dy, *above.dz, above.dh_last)
            return apply(key, choices, packed, states, counts, wanted, *rest)

        results, found = vmap.backward(run, info.batch_size, given, above, alone, wanted)
        return tuple(results), tuple(found)

    @staticmethod
    def arguments(
        key: str, choices: str, packed: bool, counts: tuple[int, int], tensors: Any
    ) -> tuple[Given, Upstream]:
        """From all tensors, or from the dimension of each."""
        own = sum(counts) + OTHERS
        given = Given.of_tensors(key, choices, packed, counts, tensors[:own])
        saved, *rows, h = tensors[own:]
        count = len(kernel_of(key).spec.outputs)
        return given, Upstream(saved, rows[:count], rows[count:], h)

    @staticmethod
    def point(ctx: Any) -> tuple[Given, list[Tensor | None], bool]:
        """Where it was evaluated: the call, and the gradients of its results."""
        own = sum(ctx.counts) + OTHERS
        tensors = ctx.saved_tensors
        given = Given.of_tensors(ctx.key, ctx.choices, ctx.packed, ctx.counts, tensors[:own])
        return given, list(tensors[own + 1 :]), ctx.states
