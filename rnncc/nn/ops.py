"""Ops: one generic pair of torch.library operators for all cells, and their autograd."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from rnncc.errors import ConvergenceError
from rnncc.ir.abi import NO_STEP, Solver
from rnncc.ir.choices import AUTO, Choices, read_choices, text_of, write_choices
from rnncc.ir.spec import KernelSpec
from rnncc.nn.sequences import check_values
from rnncc.nn.status import read_status, write_status
from rnncc.runtime.args import STATUS_SIZE
from rnncc.runtime.backend import DEFAULTS, Backend, backend_of
from rnncc.runtime.call import Call, Shapes, plan_call, shapes_of
from rnncc.runtime.kernel import COMPUTE, Kernel, kernel_of
from rnncc.runtime.sequences import ALL_WHOLE, Sequences


class Solution(NamedTuple):
    """The results of a call.

    Attributes:
        y: the outputs, [B, T, N] each.
        z: the states after each step, [B, T, N] each, if they were asked for.
        h: the states after the last step, [states, S, N].
        status: float64, the struct Status of ir/abi.py; see `Solve`.
    """

    y: list[Tensor]
    z: list[Tensor]
    h: Tensor
    status: Tensor


def solve(
    kernel: Kernel,
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
    text = write_choices(choices) if torch.compiler.is_compiling() else text_of(choices)
    starts, lengths, reset = sequences.starts, sequences.lengths, sequences.reset
    given = Given(kernel.key, text, inputs, packed, params, h0, starts, lengths, reset)
    # forward-mode AD has no rule here: Recurrence says so, the operator alone would drop tangents
    if forward_ad._current_level >= 0 or given.needs_gradient():
        apply: Any = Recurrence.apply
        counts = (len(inputs), len(params))
        results = apply(kernel.key, text, packed, states, counts, *given.tensors())
    else:
        results = torch.ops.rnncc.forward.default(*given, states, False)
    *rows, h, _, status = results
    count = len(kernel.spec.outputs)
    return Solution(rows[:count], rows[count:], h, status)


def jacobian(
    kernel: Kernel, inputs: Sequence[Tensor], params: Sequence[Tensor], h0: Tensor | None
) -> Tensor:
    """d h_t / d h_(t-1) along the sequence, see `Backend.jacobian`."""
    backend = backend_of(inputs[0].device)
    return backend.jacobian(plan_call(backend, kernel, ONE_PASS, inputs, False, params, h0))


ONE_PASS = Choices(solver="sequential")

# --- the operators ---------------------------------------------------------------------------


class Given(NamedTuple):
    """The arguments that both operators begin with, as torch.library takes them."""

    key: str
    choices: str
    inputs: Sequence[Tensor]
    packed: bool
    params: Sequence[Tensor]
    h0: Tensor | None
    starts: Tensor | None
    lengths: Tensor | None
    reset: Tensor | None

    def tensors(self) -> tuple[Tensor | None, ...]:
        """All in one row; `of_tensors` takes them back."""
        return (*self.inputs, *self.params, self.h0, self.starts, self.lengths, self.reset)

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

    def needs_gradient(self) -> bool:
        if not torch.is_grad_enabled():
            return False
        tensors = (*self.inputs, *self.params, *(() if self.h0 is None else (self.h0,)))
        return any(t.requires_grad for t in tensors)

    def shapes(self, spec: KernelSpec, backend: Backend) -> Shapes:
        steps_saved = backend.steps_saved(spec, read_choices(self.choices))
        return shapes_of(spec, self.inputs, self.params, steps_saved, self.starts)

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
SIGNATURE = (
    "str key, str choices, Tensor[] inputs, bool packed, Tensor[] params, Tensor? h0,"
    " Tensor? starts, Tensor? lengths, Tensor? reset"
)
LIBRARY = torch.library.Library("rnncc", "DEF")
LIBRARY.define(f"forward({SIGNATURE}, bool states, bool save) -> Tensor[]")
LIBRARY.define(
    f"backward({SIGNATURE}, Tensor saved, Tensor?[] dy, Tensor?[] dz, Tensor? dh_last,"
    " bool[] wanted) -> Tensor[]"
)


def _forward(*arguments: Any) -> list[Tensor]:
    given, (states, save) = Given(*arguments[:COMMON]), arguments[COMMON:]
    kernel, x = kernel_of(given.key), given.inputs[0]
    backend = backend_of(x.device)
    results = _results(given, kernel, backend, states, save)
    *rows, h_last, saved, status = results
    if given.lengths is not None and backend.host_reads:
        check_values(given.starts, given.lengths, x.shape[1])
    if not h_last.numel():
        write_status(
            status, sweeps=1, converged=1, sequential_from=NO_STEP, solver=Solver.SEQUENTIAL
        )
        for row in rows:
            row.zero_()
        return results
    call = given.plan(kernel, backend)
    if save and given.lengths is not None:
        saved.zero_()  # parts stay unused; zeros keep results deterministic
    count = len(kernel.spec.outputs)
    filled = (rows[:count], rows[count:], h_last, saved if save else None, status)
    backend.forward(call, *filled)
    if call.plan.solver == "newton" and not read_status(status)["converged"]:
        _failed(backend, call, filled)
    return results


# y, z, h_last, saved and status, as a backend fills them
Filled = tuple[list[Tensor], list[Tensor], Tensor, Tensor | None, Tensor]


def _allocate_forward(*arguments: Any) -> list[Tensor]:
    """The results of the forward, not yet filled."""
    given = Given(*arguments[:COMMON])
    backend = backend_of(given.inputs[0].device)
    return _results(given, kernel_of(given.key), backend, *arguments[COMMON:])


def _results(
    given: Given, kernel: Kernel, backend: Backend, states: bool, save: bool
) -> list[Tensor]:
    """[*outputs, *states, h_last, saved, status]."""
    x, spec, empty = given.inputs[0], kernel.spec, backend.empty
    shapes, compute = given.shapes(spec, backend), COMPUTE[x.dtype]
    rows = len(spec.outputs) + (len(spec.states) if states else 0)
    return [
        *[empty(x, shapes.y) for _ in range(rows)],
        empty(x, shapes.h, dtype=compute),
        empty(x, shapes.saved if save else (0,), dtype=compute),
        x.new_zeros(STATUS_SIZE, dtype=torch.float64),
    ]


def _failed(backend: Backend, call: Call, filled: Filled) -> None:
    """Newton has not converged: raise, warn, or rerun by one pass over time."""
    y, z, h_last, saved, status = filled
    choices = call.choices
    if choices.on_failure == "sequential":
        instead = replace(choices, solver="sequential", iterations=None, tol=None, on_failure=None)
        given = (call.inputs, call.packed, call.params, call.h0, call.sequences)
        one_pass = plan_call(backend, call.kernel, instead, *given)
        backend.forward(one_pass, y, z, h_last, saved, torch.zeros_like(status))
        write_status(status, mismatch=0, converged=1, sequential_from=0)
        return
    seen = read_status(status)
    message = (
        f"solver: newton on '{call.kernel.spec.name}' has not converged within "
        f"{int(seen['sweeps']) - 1} iterations: residual {seen['mismatch']:.2g}, expected at most "
        f"{call.plan.tolerance:.2g}.\n"
        "Fix: solver='auto', which doesn't depend on convergence; or iterations=, tol=, "
        "on_failure='sequential'"
    )
    if choices.on_failure == "warn":
        warnings.warn(message, stacklevel=2)
    else:
        raise ConvergenceError(message)


def _backward(*arguments: Any) -> list[Tensor]:
    given = Given(*arguments[:COMMON])
    saved, dy, dz, dh_last, wanted = arguments[COMMON:]
    backend, count = backend_of(given.inputs[0].device), len(given.inputs)
    results = _allocate_backward(*arguments)
    dx, dparams, dh0 = results[:count], results[count:-1], results[-1]
    call = given.plan(kernel_of(given.key), backend)
    if 0 in call.shape:  # no step or no sequence: nothing flows but h0 -> h_last
        for gradient in results:
            gradient.zero_()
        if dh_last is not None:
            dh0.copy_(dh_last)
        return results
    dh_last = None if dh_last is None else dh_last.contiguous()
    into = [g if w else None for g, w in zip(dx, wanted, strict=True)]
    backend.backward(call, saved, dy, dz, dh_last, into, dparams, dh0)
    return results


def _allocate_backward(*arguments: Any) -> list[Tensor]:
    """[*dx, *dparams, dh0]: an input whose gradient is not wanted gets an empty one."""
    given = Given(*arguments[:COMMON])
    saved, *_, wanted = arguments[COMMON:]
    backend = backend_of(given.inputs[0].device)
    return [
        *(
            backend.empty(x, x.shape if w else (0,))
            for x, w in zip(given.inputs, wanted, strict=True)
        ),
        *(p.new_empty(p.shape) for p in given.params),
        saved.new_empty(given.shapes(kernel_of(given.key).spec, backend).h),
    ]


for _device in DEFAULTS:
    LIBRARY.impl("forward", _forward, _device.upper())
    LIBRARY.impl("backward", _backward, _device.upper())
torch.library.register_fake("rnncc::forward", _allocate_forward, lib=LIBRARY)
torch.library.register_fake("rnncc::backward", _allocate_backward, lib=LIBRARY)

# --- autograd --------------------------------------------------------------------------------


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
        ctx.mark_non_differentiable(saved, status)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        *tensors, saved = ctx.saved_tensors
        given = Given.of_tensors(ctx.key, ctx.choices, ctx.packed, ctx.counts, tensors)
        inputs = given.inputs
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
        dh0 = None if given.h0 is None else dh0
        return None, None, None, None, None, *dx, *dparams, dh0, None, None, None


class FirstOrder(torch.autograd.Function):
    """Passes gradients through, and raises if they are differentiated a second time."""

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
            "second backward) are not supported.\n"
            "Fix: a plain PyTorch module with the same parameters, rnncc show NAME --stage torch"
        )
