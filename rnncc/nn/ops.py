"""Ops: one generic pair of torch.library operators for all cells, and their autograd."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from rnncc.errors import ConvergenceError
from rnncc.ir.abi import NO_STEP
from rnncc.nn.sequences import check_values
from rnncc.planner.choices import AUTO, SOLVERS, Choices
from rnncc.runtime.args import STATUS_SIZE
from rnncc.runtime.call import Call, Shapes, shapes_of, target_of
from rnncc.runtime.cpu import launch
from rnncc.runtime.cpu.allocator import empty
from rnncc.runtime.cuda import launch as launch_cuda
from rnncc.runtime.kernel import COMPUTE, Kernel, kernel_of
from rnncc.runtime.sequences import ALL_WHOLE, Sequences

SIGNATURE = (
    "str key, str choices, Tensor[] inputs, bool packed, Tensor[] params, Tensor? h0,"
    " Tensor? starts, Tensor? lengths, Tensor? reset"
)
TARGETS: dict[str, Any] = {"cpp": launch, "cuda": launch_cuda}  # what runs the kernels of a target
LIBRARY = torch.library.Library("rnncc", "DEF")
LIBRARY.define(f"forward({SIGNATURE}, bool states, bool save) -> Tensor[]")
LIBRARY.define(
    f"backward({SIGNATURE}, Tensor saved, Tensor?[] dy, Tensor?[] dz, Tensor? dh_last,"
    " bool[] wanted) -> Tensor[]"
)


class Solution(NamedTuple):
    """What comes out of a call.

    Attributes:
        y: the outputs, [B, T, N] each.
        z: the states after each step, [B, T, N] each, if they were asked for.
        h: the states after the last step, [states, S, N].
        status: [6], float64: sweeps, largest mismatch, converged, the step from which one pass over
            time did the rest or -1, the solver's place in SOLVERS, and the steps of a segment.
    """

    y: list[Tensor]
    z: list[Tensor]
    h: Tensor
    status: Tensor


def _shapes(
    key: str,
    choices: str,
    inputs: Sequence[Tensor],
    params: Sequence[Tensor],
    starts: Tensor | None,
) -> Shapes:
    spec = kernel_of(key).spec
    return shapes_of(spec, inputs, params, Choices.read(choices), Sequences(starts))


def _allocate_forward(
    key: str,
    choices: str,
    inputs: Sequence[Tensor],
    packed: bool,
    params: Sequence[Tensor],
    h0: Tensor | None,
    starts: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    states: bool,
    save: bool,
) -> list[Tensor]:
    """[*outputs, *states, h_last, saved, status]: what the forward returns, not yet filled."""
    spec = kernel_of(key).spec
    shapes = _shapes(key, choices, inputs, params, starts)
    x = inputs[0]
    compute = COMPUTE[x.dtype]
    return [
        *(empty(x, shapes.y) for _ in spec.outputs),
        *(empty(x, shapes.y) for _ in spec.states if states),
        empty(x, shapes.h, dtype=compute),
        empty(x, shapes.saved if save else (0,), dtype=compute),
        x.new_zeros(STATUS_SIZE, dtype=torch.float64),
    ]


def _forward(
    key: str,
    choices: str,
    inputs: Sequence[Tensor],
    packed: bool,
    params: Sequence[Tensor],
    h0: Tensor | None,
    starts: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    states: bool,
    save: bool,
) -> list[Tensor]:
    given = (key, choices, inputs, packed, params, h0, starts, lengths, reset)
    results = _allocate_forward(*given, states, save)
    *rows, h_last, saved, status = results
    target = target_of(inputs[0])
    if lengths is not None and target == "cpp":  # on a GPU, to look at them would be to wait
        check_values(starts, lengths, inputs[0].shape[1])
    if not h_last.numel():
        for place, value in enumerate(_one_pass(SOLVERS.index("sequential"), 0).tolist()):
            status[place].fill_(value)
        for row in rows:
            row.zero_()
        return results
    call = _call(*given)
    if target == "cpp":
        status.copy_(_one_pass(SOLVERS.index(call.plan.solver), call.plan.forward.tiling.segment))
    if save and lengths is not None:
        saved.zero_()  # some of it stays unused, and no result holds anything by chance
    count = len(call.kernel.spec.outputs)
    filled = (rows[:count], rows[count:], h_last, saved if save else None, status)
    TARGETS[target].forward(call, *filled)
    if call.plan.solver == "newton" and not status[2]:
        _failed(call, filled)
    return results


@cache
def _one_pass(solver: int, segment: int) -> Tensor:
    """The status where the kernel has nothing to say of segments."""
    return torch.tensor([1.0, 0.0, 1.0, NO_STEP, solver, segment], dtype=torch.float64)


def _call(
    key: str,
    choices: str,
    inputs: Sequence[Tensor],
    packed: bool,
    params: Sequence[Tensor],
    h0: Tensor | None,
    starts: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
) -> Call:
    return Call(
        kernel_of(key),
        Choices.read(choices),
        inputs,
        packed,
        [p.contiguous() for p in params],
        None if h0 is None else h0.contiguous(),
        Sequences(starts, lengths, reset),
    )


def _failed(call: Call, filled: tuple[Any, ...]) -> None:
    """Newton has not converged: raise, warn, or solve it again by one pass over time."""
    status, choices = filled[-1], call.choices
    iterations, residual = int(status[0]) - 1, float(status[1])
    if choices.on_failure == "sequential":
        again = replace(choices, solver="sequential", iterations=None, tol=None, on_failure=None)
        rest = torch.zeros_like(status)
        TARGETS[call.target].forward(call.solved_by(again), *filled[:-1], rest)
        status[1], status[2], status[3] = 0, 1, 0
        return
    message = (
        f"solver: newton on '{call.kernel.spec.name}' has not converged within {iterations} "
        f"iterations: residual {residual:.2g}, expected at most {call.plan.tolerance:.2g}.\n"
        "Fix: solver='auto', which is exact; or iterations=, tol=, on_failure='sequential'"
    )
    if choices.on_failure == "warn":
        warnings.warn(message, stacklevel=2)
    else:
        raise ConvergenceError(message)


def _allocate_backward(
    key: str,
    choices: str,
    inputs: Sequence[Tensor],
    packed: bool,
    params: Sequence[Tensor],
    h0: Tensor | None,
    starts: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    saved: Tensor,
    dy: Sequence[Tensor | None],
    dz: Sequence[Tensor | None],
    dh_last: Tensor | None,
    wanted: Sequence[bool],
) -> list[Tensor]:
    """[*dx, *dparams, dh0]: an input whose gradient is not wanted gets an empty one."""
    return [
        *(empty(x, x.shape if w else (0,)) for x, w in zip(inputs, wanted, strict=True)),
        *(p.new_empty(p.shape) for p in params),
        saved.new_empty(_shapes(key, choices, inputs, params, starts).h),
    ]


def _backward(
    key: str,
    choices: str,
    inputs: Sequence[Tensor],
    packed: bool,
    params: Sequence[Tensor],
    h0: Tensor | None,
    starts: Tensor | None,
    lengths: Tensor | None,
    reset: Tensor | None,
    saved: Tensor,
    dy: Sequence[Tensor | None],
    dz: Sequence[Tensor | None],
    dh_last: Tensor | None,
    wanted: Sequence[bool],
) -> list[Tensor]:
    given = (key, choices, inputs, packed, params, h0, starts, lengths, reset)
    results = _allocate_backward(*given, saved, dy, dz, dh_last, wanted)
    dx, dparams, dh0 = results[: len(inputs)], results[len(inputs) : -1], results[-1]
    call = _call(*given)
    if 0 in call.shape:  # no step or no sequence: nothing flows but h0 -> h_last
        for gradient in results:
            gradient.zero_()
        if dh_last is not None:
            dh0.copy_(dh_last)
        return results
    TARGETS[call.target].backward(
        call,
        saved,
        dy,
        dz,
        None if dh_last is None else dh_last.contiguous(),
        [g if w else None for g, w in zip(dx, wanted, strict=True)],
        dparams,
        dh0,
    )
    return results


for _device in ("CPU", "CUDA"):
    LIBRARY.impl("forward", _forward, _device)
    LIBRARY.impl("backward", _backward, _device)
torch.library.register_fake("rnncc::forward", _allocate_forward, lib=LIBRARY)
torch.library.register_fake("rnncc::backward", _allocate_backward, lib=LIBRARY)


class Recurrence(torch.autograd.Function):
    """The recurrence with its gradient; arguments: what is fixed, counts, then all tensors."""

    @staticmethod
    def forward(
        key: str, choices: str, packed: bool, states: bool, counts: Any, *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        given = _unflatten(key, choices, packed, counts, tensors)
        return tuple(torch.ops.rnncc.forward.default(*given, states, True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.key, ctx.choices, ctx.packed, ctx.states, ctx.counts, *tensors = inputs
        *_, saved, status = output
        ctx.save_for_backward(*tensors, saved)
        ctx.mark_non_differentiable(saved, status)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        *tensors, saved = ctx.saved_tensors
        given = _unflatten(ctx.key, ctx.choices, ctx.packed, ctx.counts, tensors)
        inputs = given[2]
        wanted = list(ctx.needs_input_grad[5 : 5 + len(inputs)])
        *rows, dh_last, _, _ = gradients
        count = len(kernel_of(ctx.key).spec.outputs)
        with torch.no_grad():
            results = torch.ops.rnncc.backward.default(
                *given, saved, rows[:count], rows[count:], dh_last, wanted
            )
        if torch.is_grad_enabled():  # create_graph=True
            apply: Any = FirstOrder.apply
            sources = [t for t in (*tensors, *gradients) if t is not None]
            results = apply(len(results), *results, *sources)
        dx = [g if w else None for g, w in zip(results, wanted, strict=False)]
        dparams, dh0 = results[len(inputs) : -1], results[-1]
        dh0 = None if given[5] is None else dh0
        return None, None, None, None, None, *dx, *dparams, dh0, None, None, None


def _unflatten(
    key: str, choices: str, packed: bool, counts: tuple[int, int], tensors: Sequence[Any]
) -> tuple[Any, ...]:
    """The operators' arguments from one flat list: inputs, params, h0, starts, lengths, reset."""
    n, m = counts
    return key, choices, list(tensors[:n]), packed, list(tensors[n : n + m]), *tensors[n + m :]


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


def jacobian(call: Call) -> Tensor:
    """d h_t / d h_(t-1) along the sequence, see `launch.jacobian`."""
    return TARGETS[call.target].jacobian(call)  # type: ignore[no-any-return]


def warmup(kernel: Kernel, dtype: torch.dtype, device: torch.device) -> None:
    """Build and load the kernels for a dtype and device."""
    target = target_of(torch.empty(0, device=device))
    TARGETS[target].warmup(kernel, dtype, device)


def solve(
    key: str,
    inputs: Sequence[Tensor],
    packed: bool,
    params: Sequence[Tensor],
    h0: Tensor | None,
    choices: Choices = AUTO,
    sequences: Sequences = ALL_WHOLE,
    states: bool = False,
) -> Solution:
    """Run a checked call.

    Args:
        inputs: [B, T, N] each (shared ones [B, T]); with `packed` the first is [B, T, G, N] and
            stands for all inputs that are not shared.
        params: in the compute dtype.
        h0: [states, S, N] in the compute dtype, or None.
        states: also return the states after each step.
    Raises:
        ConvergenceError: the solver is "newton" and did not converge.
    """
    extra = (sequences.starts, sequences.lengths, sequences.reset)
    text = choices.text()
    tensors = [*inputs, *params, *([] if h0 is None else [h0])]
    # forward-mode AD has no rule here: Recurrence says so, the operator alone would drop tangents
    forward_mode = forward_ad._current_level >= 0
    if forward_mode or (torch.is_grad_enabled() and any(t.requires_grad for t in tensors)):
        apply: Any = Recurrence.apply
        counts = (len(inputs), len(params))
        results = apply(key, text, packed, states, counts, *inputs, *params, h0, *extra)
    else:
        results = torch.ops.rnncc.forward.default(
            key, text, inputs, packed, params, h0, *extra, states, False
        )
    *rows, h, _, status = results
    count = len(kernel_of(key).spec.outputs)
    return Solution(list(rows[:count]), list(rows[count:]), h, status)
