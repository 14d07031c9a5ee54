"""Functional: the recurrence of a compiled cell as a function of tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from rnncc.errors import ArgumentError
from rnncc.ir.choices import Choices, F, options_of, show_instead_of_rest, takes_choices
from rnncc.ir.program import LARGEST_JACOBIAN
from rnncc.ir.spec import KernelSpec
from rnncc.nn import ops
from rnncc.nn.arguments import prepare, unpack
from rnncc.nn.short import stacked
from rnncc.nn.solution import solution_by
from rnncc.nn.status import Solve
from rnncc.runtime.kernel import Kernel, kernel_of


@takes_choices
def run(
    kernel: Kernel,
    args: Sequence[Any],
    kwargs: dict[str, Any] | None = None,
    /,
    *,
    h0: Any = None,
    return_state: bool = False,
    return_states: bool = False,
    lengths: Any = None,
    cu_seqlens: Any = None,
    reset: Tensor | None = None,
    observe: Callable[[Solve], None] | None = None,
    **choices: Any,
) -> Any:
    """Solve the recurrence of a compiled cell.

    Args:
        args, kwargs: inputs [..., T, N] (shared ones [..., T]; 1 broadcasts; any strides) of one
            dtype, and params [N] ([1] if shared, matrices [N / k, k, k]), in the cell's order or by
            name.
        h0: the states before the first step, [..., N] each; a tuple for several. Differentiable.
        return_state: also return the states after the last step, in float32 for half inputs.
        return_states: also return the states after each step, [..., T, N] in the inputs' dtype.
        lengths: [...] ints, the steps of each sequence of a padded batch. Outputs after the end are
            0, and the last state is the one there.
        cu_seqlens: [S + 1] ints, the boundaries of S sequences that lie one after another in inputs
            [total, N] or [1, total, N]; the states are [S, N].
        reset: [..., T] bool: before these steps the state is reset to h0.
        observe: called with a `status.Solve`, which says how the call was solved.
        choices: solver, segment, iterations, tol, on_failure, checkpoint and reverse, see
            `choices.Choices`.
    Returns:
        the output [..., T, N] in the inputs' dtype (a tuple for several); with `return_states` and
        `return_state` a tuple of it, the states along the way, and the last states.
    Raises:
        ArgumentError: a shape, dtype, device or option that doesn't fit; it names the argument.
        ConvergenceError: the solver was "newton" and did not converge.
    """
    chosen = Choices.of(choices, OPTIONS)
    if observe is not None and not callable(observe):
        raise ArgumentError(
            f"observe: got {type(observe).__name__}, expected a function of a Solve.\n"
            "Fix: observe=print"
        )
    if lengths is None and cu_seqlens is None and reset is None and observe is None:
        found = _as_seen(kernel, args, kwargs, h0, chosen, return_states, bool(return_state))
        if found is not None:
            return found
    given = prepare(kernel.spec, args, kwargs or {}, h0, lengths, cu_seqlens, reset, OPTIONS)
    tensors = (given.inputs, False, given.params, given.h0)
    wanted = (return_states, bool(return_state), observe is not None)
    solution = ops.solve(kernel, *tensors, chosen, given.sequences, *wanted)
    if observe is not None:
        observe(Solve(solution.status))
    return unpack(kernel.spec, solution, given.leading, given.state_leading, return_state)


OPTIONS = options_of(run)
ONE: tuple[int, ...] = (1,)  # leading dimension, of whatever size


def _as_seen(
    kernel: Kernel,
    args: Sequence[Any],
    kwargs: dict[str, Any] | None,
    h0: Any,
    choices: Choices,
    states: Any,
    last: bool,
) -> Any:
    """The results where a call of this form has passed all checks; else None."""
    count, names = NEVER if torch.compiler.is_compiling() else _in_order(kernel.key)
    if kwargs:
        args = _by_place(args, kwargs, names)
    if len(args) != len(names) or not count or type(states) is not bool:
        return None
    if h0 is not None:
        initial = stacked(h0)
        if initial is None:
            return None
        args = (*args, initial)
    found = ops.solve_seen(kernel, args, count, choices, states, last)
    if found is None:
        return None
    way, results = found
    if len(results) == 1:
        return results[0]
    return unpack(kernel.spec, solution_by(way, kernel, results), ONE, ONE, last)


def _by_place(args: Sequence[Any], kwargs: dict[str, Any], names: Sequence[str]) -> Sequence[Any]:
    """All arguments in order; none if the names aren't just those of the rest."""
    rest = names[len(args) :]
    if len(kwargs) != len(rest):
        return ()
    try:
        return (*args, *map(kwargs.__getitem__, rest))
    except KeyError:
        return ()


@lru_cache(maxsize=1000)
def _in_order(key: str) -> tuple[int, tuple[str, ...]]:
    """How many arguments of a cell are inputs, the first, and the names of all.

    No inputs where arguments become others on their way to an operator, or where they don't say how
    many channels there are.
    """
    spec = kernel_of(key).spec
    names = (*(i.name for i in spec.inputs), *(p.name for p in spec.params))
    simple = names == tuple(spec.arguments) and not spec.vectors and not spec.starts
    own = simple and not all(i.shared for i in spec.inputs)
    return (len(spec.inputs), names) if own else NEVER


NEVER: tuple[int, tuple[str, ...]] = (0, ())


def jacobians(
    kernel: Kernel, args: Sequence[Any], kwargs: dict[str, Any] | None = None, *, h0: Any = None
) -> Tensor:
    """The step Jacobians d h_t / d h_(t-1) along the sequence, from the emitted code.

    Args:
        args, kwargs, h0: as in `run`.
    Returns:
        [..., T, N / group, D, D] with D = group * states, not differentiable.
    Raises:
        ArgumentError: the cell's Jacobian has more entries than are emitted.
    """
    _check_jacobian(kernel.spec)
    given = prepare(kernel.spec, args, kwargs or {}, h0)
    with torch.no_grad():
        result = ops.jacobian(kernel, given.inputs, given.params, given.h0)
    return result.reshape(*given.leading, *result.shape[1:])


def _check_jacobian(spec: KernelSpec) -> None:
    if not spec.has_jacobian:
        raise ArgumentError(
            f"jacobians: the Jacobian of '{spec.name}' has more than {LARGEST_JACOBIAN} entries "
            "that aren't zero, and isn't emitted.\n"
            "Fix: torch.func.jacrev(lambda h: c(..., h0=h, return_state=True)[-1])(h0), "
            "step by step"
        )


def takes_options(function: F) -> F:
    """Shows the options of `run` in the signature of a function that passes `**rest` on to it."""
    parameters = inspect.signature(run).parameters.values()
    only = inspect.Parameter.KEYWORD_ONLY
    return show_instead_of_rest(function, [p for p in parameters if p.kind is only])
