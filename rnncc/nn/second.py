"""Second: a recurrence's derivative in a direction, and the gradients of its gradients.

Both run the tangent cell, beside the states that the cell itself came through.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor
from torch._functorch import pyfunctorch

from rnncc.errors import ArgumentError
from rnncc.ir.choices import read_choices
from rnncc.ir.spec import KernelSpec
from rnncc.nn.given import Given
from rnncc.nn.shift import Shift
from rnncc.runtime.kernel import COMPUTE, Kernel, kernel_of

Tangents = Sequence[Tensor | None]  # of inputs, params and h0, as `Given.tensors` begins


class Linearized(NamedTuple):
    """A run of the tangent cell.

    Attributes:
        given: the call of the cell, its inputs one by one in the dtype that it computes in.
        saved: what the backward of that call needs; None if the tangent cell reads no state.
        shift: from the states after each step to those before it.
        linear, linear_saved: the same of the tangent cell.
        results: the tangents: of the outputs, the states along the way and the last states.
    """

    given: Given
    saved: Tensor | None
    shift: Shift
    linear: Given
    linear_saved: Tensor
    results: list[Tensor]


def derivative(given: Given, dots: Tangents, states: bool) -> list[Tensor]:
    """The derivative of a call's results in a direction, as [*y, *z, h].

    Args:
        dots: the direction, None where it is 0.
        states: whether the results hold the states after each step.
    Raises:
        LoadError: the cell has no tangent cell at hand.
    """
    *rows, h = linearize(given, dots, states).results
    dtype = given.inputs[0].dtype
    return [*(row.to(dtype) for row in rows), h]


def refuse_nested() -> None:
    """Forward mode within forward mode, of which PyTorch gives functions of our kind no word.

    Raises:
        ArgumentError: two levels are active.
    """
    levels = pyfunctorch.retrieve_all_functorch_interpreters()
    if sum(isinstance(level, pyfunctorch.JvpInterpreter) for level in levels) > 1:
        raise ArgumentError(
            "jvp: got forward mode within forward mode (jvp of jvp, jacfwd of jacfwd), whose outer "
            "derivative PyTorch would leave out, expected one of them.\n"
            "Fix: reverse mode inside, as torch.func.hessian has it: jacfwd(jacrev(f)), or jvp of "
            "grad"
        )


def refuse_in_graph() -> NoReturn:
    """Forward mode that torch.compile traces: without fullgraph=True the call then runs outside.

    Raises:
        ArgumentError: always.
    """
    raise ArgumentError(
        "jvp: got forward mode (jvp, jacfwd, hessian) inside of torch.compile(fullgraph=True), "
        "expected it outside.\nFix: torch.compile inside, as in jvp(torch.compile(f), ...), or "
        "without fullgraph=True"
    )


def linearize(given: Given, dots: Tangents, states: bool) -> Linearized:
    """Run the tangent cell."""
    kernel = kernel_of(given.key)
    linear, spec = kernel.tangent, kernel.spec
    exact = COMPUTE[given.inputs[0].dtype]
    count, packed = len(given.inputs), given.packed
    inputs = [x.to(exact) for x in separate(spec, given.inputs, packed)]
    plain = given._replace(inputs=inputs, packed=False)
    shift = Shift.of(plain, spec, read_choices(given.choices).reverse)
    along = _filled(spec, inputs, separate(spec, dots[:count], packed))
    first = linear.spec.inputs[: len(linear.spec.inputs) - len(inputs)]
    names, saved = [i.name for i in first], None
    by_name = dict(zip([i.name for i in spec.inputs], inputs, strict=True))
    if any(name not in by_name for name in names):
        *rows, _, saved, _ = _run(plain, True)
        after = zip([s.name for s in spec.states], rows[len(spec.outputs) :], strict=True)
        for place, (name, z) in enumerate(after):
            if name in names:
                by_name[name] = shift.before(z, place)
    params = dict(zip([p.name for p in spec.params], given.params, strict=True))
    dparams = [
        torch.zeros_like(p) if dot is None else dot
        for p, dot in zip(given.params, dots[count:-1], strict=True)
    ]
    count = len(linear.spec.params) - len(dparams)
    call = plain._replace(
        key=linear.key,
        inputs=[*(by_name[name] for name in names), *along],
        params=[*(params[p.name] for p in linear.spec.params[:count]), *dparams],
        h0=dots[-1],
    )
    *rows, h, linear_saved, _ = _run(call, states)
    return Linearized(plain, saved, shift, call, linear_saved, [*rows, h])


def second(
    kernel: Kernel, found: Linearized, gradients: Sequence[Tensor | None], like: Given
) -> list[Tensor | None]:
    """The gradients of <gradients, derivative> with respect to inputs, params and h0.

    Args:
        gradients: of y, of z if the call returned it, and of h, None where they are 0.
        like: the call as it was given: its packing and dtypes are those of the results.
    """
    spec, linear, given = kernel.spec, kernel_of(found.linear.key).spec, found.given
    exact = given.inputs[0].dtype
    gradients = [g if g is None else g.to(exact) for g in gradients]
    count, states = len(linear.inputs) - len(given.inputs), len(gradients) > len(spec.outputs) + 1
    wanted = [i < count for i in range(len(linear.inputs))]
    found_there = _pull(found.linear, found.linear_saved, gradients, wanted, states)
    named = dict(zip([i.name for i in linear.inputs[:count]], found_there, strict=False))
    of_params = found_there[len(linear.inputs) :]
    named |= dict(zip([p.name for p in linear.params], of_params, strict=False))
    inputs = [named.get(i.name) for i in spec.inputs]
    params = [named.get(p.name) for p in spec.params]
    h0: Tensor | None = None
    if found.saved is not None:
        before = [named.get(s.name) for s in spec.states]
        dz = [None if g is None else found.shift.after(g) for g in before]
        upstream: list[Tensor | None] = [*[None] * len(spec.outputs), *dz, None]
        more = _pull(given, found.saved, upstream, [True] * len(inputs), True)
        n, m = len(inputs), len(params)
        inputs = [_sum(a, b) for a, b in zip(inputs, more[:n], strict=True)]
        params = [_sum(a, b) for a, b in zip(params, more[n : n + m], strict=True)]
        h0 = None if given.h0 is None else more[-1] + found.shift.initial(before, more[-1])
    dtype = like.inputs[0].dtype
    inputs = together(spec, given.inputs, inputs, like.packed)
    return [*(g if g is None else g.to(dtype) for g in inputs), *params, h0]


def _sum(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a + b


# --- calls of kernels, differentiable themselves ---------------------------------------------


def _run(given: Given, states: bool) -> tuple[Tensor, ...]:
    from rnncc.nn.autograd import Recurrence

    apply: Any = Recurrence.apply
    counts = (len(given.inputs), len(given.params))
    return apply(given.key, given.choices, False, states, counts, *given.tensors())  # type: ignore[no-any-return]


def _pull(
    given: Given,
    saved: Tensor,
    gradients: Sequence[Tensor | None],
    wanted: list[bool],
    states: bool,
) -> Sequence[Tensor]:
    from rnncc.nn.autograd import Gradient

    apply: Any = Gradient.apply
    counts = (len(given.inputs), len(given.params))
    head = (given.key, given.choices, given.packed, states, counts, wanted)
    return apply(*head, *given.tensors(), saved, *gradients)  # type: ignore[no-any-return]


# --- inputs that lie in one tensor -----------------------------------------------------------


def separate(spec: KernelSpec, inputs: Sequence[Any], packed: bool) -> list[Any]:
    """Each input of the cell by itself; with `packed` the first tensor holds all unshared ones."""
    if not packed:
        return list(inputs)
    whole, *shared = inputs
    count = sum(not i.shared for i in spec.inputs)
    own, rest = iter([None] * count if whole is None else whole.unbind(2)), iter(shared)
    return [next(rest if i.shared else own) for i in spec.inputs]


def together(
    spec: KernelSpec, inputs: Sequence[Tensor], found: Sequence[Tensor | None], packed: bool
) -> list[Tensor | None]:
    """The other way round, for gradients of the inputs."""
    if not packed:
        return list(found)
    filled = _filled(spec, inputs, found)
    own = [g for i, g in zip(spec.inputs, filled, strict=True) if not i.shared]
    shared = [g for i, g in zip(spec.inputs, found, strict=True) if i.shared]
    return [torch.stack(own, 2), *shared]


def _filled(
    spec: KernelSpec, inputs: Sequence[Tensor], dots: Sequence[Tensor | None]
) -> list[Tensor]:
    """With zeros, which take no memory, where there is nothing."""
    return [
        x.new_zeros(()).expand(x.shape) if dot is None else dot.to(x.dtype)
        for x, dot in zip(inputs, dots, strict=True)
    ]
