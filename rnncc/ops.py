"""Ops: one generic pair of torch.library operators for all cells, and their autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from rnncc import launch
from rnncc.launch import COMPUTE, kernel_of, shapes_of
from rnncc.memory import empty

LIBRARY = torch.library.Library("rnncc", "DEF")
LIBRARY.define(
    "forward(str key, Tensor[] inputs, bool packed, Tensor[] params, Tensor? h0, bool save)"
    " -> Tensor[]"
)
LIBRARY.define(
    "backward(str key, Tensor[] inputs, bool packed, Tensor[] params, Tensor saved,"
    " Tensor?[] dy, Tensor? dh_last, bool[] wanted) -> Tensor[]"
)


def _allocate_forward(
    key: str,
    inputs: Sequence[Tensor],
    packed: bool,
    params: Sequence[Tensor],
    h0: Tensor | None,
    save: bool,
) -> list[Tensor]:
    """[*outputs, h_last, saved]: what the forward operator returns, not yet filled."""
    spec = kernel_of(key).spec
    shapes = shapes_of(spec, inputs, params)
    x = inputs[0]
    compute = COMPUTE[x.dtype]
    return [
        *(empty(x, shapes.y) for _ in spec.outputs),
        empty(x, shapes.h, dtype=compute),
        empty(x, shapes.saved if save else (0,), dtype=compute),
    ]


def _forward_cpu(
    key: str,
    inputs: Sequence[Tensor],
    packed: bool,
    params: Sequence[Tensor],
    h0: Tensor | None,
    save: bool,
) -> list[Tensor]:
    *y, h_last, saved = results = _allocate_forward(key, inputs, packed, params, h0, save)
    kernel = kernel_of(key)
    if h_last.numel():
        params = [p.contiguous() for p in params]
        h0 = None if h0 is None else h0.contiguous()
        launch.forward(kernel, inputs, packed, params, h0, y, h_last, saved if save else None)
    return results


def _allocate_backward(
    key: str,
    inputs: Sequence[Tensor],
    packed: bool,
    params: Sequence[Tensor],
    saved: Tensor,
    dy: Sequence[Tensor | None],
    dh_last: Tensor | None,
    wanted: Sequence[bool],
) -> list[Tensor]:
    """[*dx, *dparams, dh0]: an input whose gradient is not wanted gets an empty one."""
    return [
        *(empty(x, x.shape if w else (0,)) for x, w in zip(inputs, wanted, strict=True)),
        *(p.new_empty(p.shape) for p in params),
        saved.new_empty(shapes_of(kernel_of(key).spec, inputs, params).h),
    ]


def _backward_cpu(
    key: str,
    inputs: Sequence[Tensor],
    packed: bool,
    params: Sequence[Tensor],
    saved: Tensor,
    dy: Sequence[Tensor | None],
    dh_last: Tensor | None,
    wanted: Sequence[bool],
) -> list[Tensor]:
    results = _allocate_backward(key, inputs, packed, params, saved, dy, dh_last, wanted)
    dx, dparams, dh0 = results[: len(inputs)], results[len(inputs) : -1], results[-1]
    if saved.numel() == 0:  # no step or no sequence: nothing flows but h0 -> h_last
        for gradient in results:
            gradient.zero_()
        if dh_last is not None:
            dh0.copy_(dh_last)
        return results
    launch.backward(
        kernel_of(key),
        inputs,
        packed,
        [p.contiguous() for p in params],
        saved,
        dy,
        None if dh_last is None else dh_last.contiguous(),
        [g if w else None for g, w in zip(dx, wanted, strict=True)],
        dparams,
        dh0,
    )
    return results


LIBRARY.impl("forward", _forward_cpu, "CPU")
LIBRARY.impl("backward", _backward_cpu, "CPU")
torch.library.register_fake("rnncc::forward", _allocate_forward, lib=LIBRARY)
torch.library.register_fake("rnncc::backward", _allocate_backward, lib=LIBRARY)


class Recurrence(torch.autograd.Function):
    """The recurrence with its gradient; arguments: key, packed, counts, then all tensors."""

    @staticmethod
    def forward(
        key: str, packed: bool, n_inputs: int, n_params: int, *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        inputs, params = tensors[:n_inputs], tensors[n_inputs : n_inputs + n_params]
        h0 = tensors[-1]
        return tuple(torch.ops.rnncc.forward(key, inputs, packed, params, h0, True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.key, ctx.packed, ctx.n_inputs, ctx.n_params, *tensors = inputs
        ctx.has_h0 = tensors[-1] is not None
        ctx.save_for_backward(*tensors[:-1], output[-1])
        ctx.mark_non_differentiable(output[-1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        *tensors, saved = ctx.saved_tensors
        inputs, params = tensors[: ctx.n_inputs], tensors[ctx.n_inputs :]
        wanted = list(ctx.needs_input_grad[4 : 4 + ctx.n_inputs])
        *dy, dh_last, _ = gradients
        with torch.no_grad():
            results = torch.ops.rnncc.backward(
                ctx.key, inputs, ctx.packed, params, saved, dy, dh_last, wanted
            )
        if torch.is_grad_enabled():  # create_graph=True
            apply: Any = FirstOrder.apply
            given = [g for g in gradients if g is not None]
            results = apply(len(results), *results, *tensors, *given)
        dx = [g if w else None for g, w in zip(results, wanted, strict=False)]
        dparams, dh0 = results[ctx.n_inputs : -1], results[-1]
        return None, None, None, None, *dx, *dparams, dh0 if ctx.has_h0 else None


class FirstOrder(torch.autograd.Function):
    """Hands gradients on, and raises where somebody differentiates them once more."""

    @staticmethod
    def forward(count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(t.view_as(t) for t in tensors[:count])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        raise NotImplementedError(
            "rnncc has first derivatives only; gradients of gradients (create_graph=True and a "
            "second backward) are not there.\nFix: the plain loop, rnncc show NAME --stage torch"
        )


def solve(
    key: str,
    inputs: Sequence[Tensor],
    packed: bool,
    params: Sequence[Tensor],
    h0: Tensor | None,
) -> tuple[list[Tensor], Tensor]:
    """Run a checked call.

    Args:
        inputs: [B, T, N] each (shared ones [B, T]); with `packed` the first is [B, T, G, N] and
            stands for all inputs that are not shared.
        params: in the compute dtype.
        h0: [states, B, N] in the compute dtype, or None.
    Returns:
        the outputs [B, T, N], and the states after the last step [states, B, N].
    """
    tensors = [*inputs, *params, *([] if h0 is None else [h0])]
    # forward-mode AD has no rule here: Recurrence says so, the operator alone would drop tangents
    forward_mode = forward_ad._current_level >= 0
    if forward_mode or (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
        apply: Any = Recurrence.apply
        results = apply(key, packed, len(inputs), len(params), *inputs, *params, h0)
    else:
        results = torch.ops.rnncc.forward(key, inputs, packed, params, h0, False)
    *y, h_last, _ = results
    return y, h_last
