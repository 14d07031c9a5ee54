"""Ops: one generic pair of torch.library operators for all cells, and the call of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from rnncc.errors import ConvergenceError
from rnncc.ir.abi import NO_STEP, Solver
from rnncc.ir.choices import AUTO, Choices, write_choices
from rnncc.nn import node, vmap
from rnncc.nn.autograd import differentiable
from rnncc.nn.checks import check_devices, check_gradients, parse, refuse_foreign
from rnncc.nn.given import COMMON, SIGNATURE, Given
from rnncc.nn.legacy_vmap import unwrapped
from rnncc.nn.refusal import refuse
from rnncc.nn.rows import backward_rows, empty, forward_rows
from rnncc.nn.second import refuse_in_graph
from rnncc.nn.short import Way, forward_way, needs_gradient, run, seen_way
from rnncc.nn.solution import Solution, solution_by, solution_of
from rnncc.nn.status import read_status, write_status
from rnncc.runtime.backend import DEFAULTS, Backend
from rnncc.runtime.call import Call, plan_call, shapes_of
from rnncc.runtime.kernel import COMPUTE, Kernel
from rnncc.runtime.sequences import ALL_WHOLE, Sequences

_transformed: Callable[[], bool] = torch._C._are_functorch_transforms_active


def solve(
    kernel: Kernel,
    inputs: Sequence[Tensor],
    packed: bool,
    params: Sequence[Tensor],
    h0: Tensor | None,
    choices: Choices = AUTO,
    sequences: Sequences = ALL_WHOLE,
    states: bool = False,
    last: bool = True,
    status: bool = True,
) -> Solution:
    """Run a checked call.

    Args:
        inputs: [B, T, N] each (shared ones [B, T]); with `packed` the first is [B, T, G, N] and
            stands for all inputs that are not shared.
        params: in the compute dtype.
        h0: [states, S, N] in the compute dtype, or None.
        states: also return the states after each step.
        last, status: if not, h or the status isn't wanted, and may be empty.
    Raises:
        ConvergenceError: the solver is "newton" and did not converge.
    """
    if not isinstance(states, bool):
        raise refuse("return_states", repr(states), "True or False", "return_states=True")
    compiling = torch.compiler.is_compiling()
    text = write_choices(choices) if compiling else choices.text
    starts, lengths, reset = sequences.starts, sequences.lengths, sequences.reset
    given = Given(kernel.key, text, inputs, packed, params, h0, starts, lengths, reset)
    if compiling:
        if forward_ad._current_level >= 0:
            refuse_in_graph()
        *rows, h, _, how = torch.ops.rnncc.solve.default(*given, states)
        return solution_of(kernel, rows, h, how)
    tensors = given.own()
    save = needs_gradient(tensors)
    found = forward_way(given, tensors, states, last, save, status)
    if found is not None:
        results = node.solve(given, states, found) if save else run(found)
        return solution_by(found[0], kernel, results)
    if save or forward_ad._current_level >= 0 or _transformed():
        *rows, h, _, how = differentiable(given, states)
    else:
        *rows, h, _, how = torch.ops.rnncc.forward.default(*given, states, False)
    return solution_of(kernel, rows, h, how)


def solve_seen(
    kernel: Kernel, tensors: Sequence[Any], count: int, choices: Choices, states: bool, last: bool
) -> tuple[Way, list[Tensor]] | None:
    """As `solve`, of arguments that weren't checked; None if no such call was solved before.

    Args:
        tensors: inputs, of which there are `count`, params, and h0 if it is given.
    Returns:
        the way, and what it leads to, of which `solution_by` makes the solution.
    """
    key, text = kernel.key, choices.text
    found = seen_way(key, text, tensors, count, states, last)
    if found is None:
        return None
    if not found[0].save:
        return found[0], run(found)
    end = count + len(kernel.spec.params)
    given = Given(key, text, tensors[:count], False, tensors[count:end], *tensors[end:])
    return found[0], node.solve(given, states, found)


def jacobian(
    kernel: Kernel, inputs: Sequence[Tensor], params: Sequence[Tensor], h0: Tensor | None
) -> Tensor:
    """d h_t / d h_(t-1) along the sequence, see `Backend.jacobian`; not differentiable."""
    result: Tensor = torch.ops.rnncc.jacobian.default(kernel.key, inputs, params, h0)
    return result


# --- the operators ---------------------------------------------------------------------------

LIBRARY = torch.library.Library("rnncc", "DEF")
LIBRARY.define(f"forward({SIGNATURE}, bool states, bool save) -> Tensor[]")
LIBRARY.define(
    f"backward({SIGNATURE}, Tensor saved, Tensor?[] dy, Tensor?[] dz, Tensor? dh_last,"
    " bool[] wanted) -> Tensor[]"
)
LIBRARY.define(f"solve({SIGNATURE}, bool states) -> Tensor[]")
LIBRARY.define("jacobian(str key, Tensor[] inputs, Tensor[] params, Tensor? h0) -> Tensor")


def _forward(*arguments: Any) -> list[Tensor]:
    (given, kernel, backend), (states, save) = parse(arguments), arguments[COMMON:]
    if given.lengths is not None:
        given = given.with_own_lengths(backend)
    results = _results(given, kernel, backend, states, save)
    *rows, h_last, saved, status = results
    if not h_last.numel():
        write_status(
            status.zero_(), sweeps=1, converged=1, sequential_from=NO_STEP, solver=Solver.SEQUENTIAL
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
    return _results(*parse(arguments), *arguments[COMMON:])


def _results(
    given: Given, kernel: Kernel, backend: Backend, states: bool, save: bool
) -> list[Tensor]:
    """[*outputs, *states, h_last, saved, status]."""
    rows = forward_rows(given, kernel.spec, backend, states, save)
    return empty(rows, given.inputs[0], backend)


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
    given, kernel, backend = parse(arguments)
    if given.lengths is not None:
        given = given.with_own_lengths(backend)
    saved, dy, dz, dh_last, wanted = arguments[COMMON:]
    # PyTorch does so itself, but not in lists of which some may lack
    dy, dz = ([None if g is None else g.resolve_neg() for g in rows] for rows in (dy, dz))
    count = len(given.inputs)
    results = _gradients(given, kernel, backend, saved, dy, dz, dh_last, wanted)
    dx, dparams, dh0 = results[:count], results[count:-1], results[-1]
    call = given.plan(kernel, backend)
    if 0 in call.shape:  # no step or no sequence: nothing flows but h0 -> h_last
        for gradient in results:
            gradient.zero_()
        if dh_last is not None:
            dh0.copy_(dh_last)
        return results
    dh_last = None if dh_last is None else dh_last.contiguous()
    into = [g if w else None for g, w in zip(dx, wanted, strict=True)]
    backend.backward(call, saved.contiguous(), dy, dz, dh_last, into, dparams, dh0)
    return results


def _allocate_backward(*arguments: Any) -> list[Tensor]:
    """The results of the backward, not yet filled."""
    return _gradients(*parse(arguments), *arguments[COMMON:])


def _gradients(
    given: Given,
    kernel: Kernel,
    backend: Backend,
    saved: Tensor,
    dy: Sequence[Tensor | None],
    dz: Sequence[Tensor | None],
    dh_last: Tensor | None,
    wanted: Sequence[bool],
) -> list[Tensor]:
    """[*dx, *dparams, dh0]: an input whose gradient is not wanted gets an empty one."""
    shapes = given.shapes(kernel.spec, backend)
    check_gradients(given, kernel.spec, shapes, saved, dy, dz, dh_last, wanted)
    return empty(backward_rows(given, kernel.spec, backend, wanted), given.inputs[0], backend)


def _jacobian(
    key: str, inputs: Sequence[Tensor], params: Sequence[Tensor], h0: Tensor | None
) -> Tensor:
    given, kernel, backend = parse((key, ONE_PASS, inputs, False, params, h0, None, None, None))
    return backend.jacobian(given.plan(kernel, backend))


def _allocate_jacobian(
    key: str, inputs: Sequence[Tensor], params: Sequence[Tensor], h0: Tensor | None
) -> Tensor:
    _, kernel, _ = parse((key, ONE_PASS, inputs, False, params, h0, None, None, None))
    shapes, spec, x = shapes_of(kernel.spec, inputs, params, 1, h0=h0), kernel.spec, inputs[0]
    rows, steps, channels = shapes.y
    shape = (steps, rows, channels // spec.group, spec.size, spec.size)
    return x.new_empty(shape, dtype=COMPUTE[x.dtype]).transpose(0, 1)


ONE_PASS = write_choices(Choices(solver="sequential"))


def _solve(*arguments: Any) -> list[Tensor]:
    """The forward, as torch.compile records it: whole, with its gradient and all transforms."""
    return _forward(*arguments, False)


def _allocate_solve(*arguments: Any) -> list[Tensor]:
    return _allocate_forward(*arguments, False)


def _as_called() -> Any:
    """The state of the dispatcher in which torch.func calls its functions.

    It hands an operator on with the transform's own keys alone, where autograd.Function isn't told.
    """
    keys = torch._C.DispatchKey
    front, back = keys.FuncTorchDynamicLayerFrontMode, keys.FuncTorchDynamicLayerBackMode
    include = torch._C._dispatch_tls_local_include_set()
    include = include | torch._C.DispatchKeySet(front) | torch._C.DispatchKeySet(back)
    exclude = torch._C._dispatch_tls_local_exclude_set()
    return torch._C._ForceDispatchKeyGuard(include, exclude - torch._C.DispatchKeySet(front))


def _solve_differentiable(*arguments: Any) -> Any:
    given, states = Given(*arguments[:COMMON]), arguments[COMMON]
    if _transformed():
        with _as_called():
            return differentiable(given, states)
    if needs_gradient(given.own()):
        return differentiable(given, states)
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.rnncc.solve.default(*arguments)


OPERATORS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "solve": (_solve, _allocate_solve),
    "forward": (_forward, _allocate_forward),
    "backward": (_backward, _allocate_backward),
    "jacobian": (_jacobian, _allocate_jacobian),
}


def _register(name: str, run: Callable[..., Any], allocate: Callable[..., Any]) -> None:
    """PyTorch takes the kernel for CPUs only if no tensor lies elsewhere."""
    schema = getattr(torch.ops.rnncc, name).default._schema
    names = [argument.name for argument in schema.arguments]

    def on_one_device(function: Callable[..., Any]) -> Callable[..., Any]:
        def checked(*values: Any) -> Any:
            check_devices(_tensors(names, values))
            return function(*values)

        return checked

    for device in DEFAULTS:
        function = run if device == "cpu" else on_one_device(run)
        LIBRARY.impl(name, function, device.upper())
    for key in ("CompositeExplicitAutograd", "AutogradNestedTensor"):
        LIBRARY.impl(name, lambda *values: refuse_foreign(_tensors(names, values)), key)
    torch.library.register_fake(f"rnncc::{name}", on_one_device(allocate), lib=LIBRARY)
    torch.library.register_vmap(f"rnncc::{name}", VMAP[name], lib=LIBRARY)
    LIBRARY.impl(name, unwrapped(VMAP[name]), "Batched")


def _tensors(names: Sequence[str], values: Sequence[Any]) -> Iterator[tuple[str, Tensor]]:
    """All tensors among the arguments of an operator, by the name of the argument."""
    for name, value in zip(names, values, strict=False):
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, (list, tuple)):
            for i, item in enumerate(value):
                if isinstance(item, Tensor):
                    yield f"{name}[{i}]", item


def _forward_vmap(info: Any, dims: Any, *arguments: Any) -> vmap.Results:
    def run(given: Given) -> Any:
        return torch.ops.rnncc.forward.default(*given, *arguments[COMMON:])

    size, given = info.batch_size, Given(*arguments[:COMMON])
    return vmap.forward(run, size, given, Given(*dims[:COMMON]))


def _solve_vmap(info: Any, dims: Any, *arguments: Any) -> vmap.Results:
    def run(given: Given) -> Any:
        return torch.ops.rnncc.solve.default(*given, arguments[COMMON])

    return vmap.forward(run, info.batch_size, Given(*arguments[:COMMON]), Given(*dims[:COMMON]))


def _backward_vmap(info: Any, dims: Any, *arguments: Any) -> vmap.Results:
    *upstream, wanted = arguments[COMMON:]
    given, above = Given(*arguments[:COMMON]), vmap.Upstream(*upstream)
    alone = (Given(*dims[:COMMON]), vmap.Upstream(*dims[COMMON:-1]))

    def run(given: Given, above: vmap.Upstream) -> Any:
        return torch.ops.rnncc.backward.default(*given, *above, wanted)

    return vmap.backward(run, info.batch_size, given, above, alone, wanted)


def _jacobian_vmap(info: Any, dims: Any, *arguments: Any) -> tuple[Tensor, int]:
    run = torch.ops.rnncc.jacobian.default
    return vmap.one_by_one(run, info.batch_size, dims, arguments), 0


VMAP = {
    "solve": _solve_vmap,
    "forward": _forward_vmap,
    "backward": _backward_vmap,
    "jacobian": _jacobian_vmap,
}


for _name, _functions in OPERATORS.items():
    _register(_name, *_functions)
LIBRARY.impl("solve", _solve_differentiable, "Autograd")
