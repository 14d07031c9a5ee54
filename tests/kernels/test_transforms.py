"""vmap, jacrev and the like are held to loops over members, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp

from tests.support.runs import SMOOTH_SHIPPED, compiled, fitting, listed, random_call, solve_all
from tests.support.small import SMALL

M, B, T = 3, 2, 9
SMOOTH = [*SMOOTH_SHIPPED, *SMALL]
Arguments = dict[str, Tensor]


def members(name: str, batch: int = B, **options: Any) -> tuple[Arguments, Tensor]:
    """Arguments and initial states of M calls, stacked in dimension 0."""
    shape = (batch, T, fitting(name, 2))
    calls = [random_call(name, shape, torch.float64, seed=s, **options) for s in range(M)]
    starts = [torch.stack(listed(call.h0)) for call in calls]
    names = calls[0].arguments
    return {n: torch.stack([c.arguments[n] for c in calls]) for n in names}, torch.stack(starts)


def run(name: str, arguments: Arguments, h0: Tensor, **options: Any) -> tuple[Tensor, ...]:
    y, z, h = solve_all(name, arguments, h0.unbind(0), **options)
    return (*y, *z, *h)


def loop(function: Callable[..., Any], *trees: Any) -> Any:
    """`function` of each member, stacked."""
    each = []
    for m in range(M):
        own = [{n: t[m] for n, t in v.items()} if isinstance(v, dict) else v[m] for v in trees]
        each.append(function(*own))
    return torch.utils._pytree.tree_map(lambda *values: torch.stack(values), *each)


def assert_same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("own", ["inputs", "params", "all"])
@pytest.mark.parametrize("name", SMOOTH)
def test_members_are_as_calls_of_their_own(name: str, own: str) -> None:
    arguments, h0 = members(name)
    cell = compiled(name).stages.cell
    mine = {a.name for part in ((cell.inputs, cell.params)) for a in part}
    mine = (
        {a.name for a in (cell.inputs if own == "inputs" else cell.params)}
        if own != "all"
        else mine
    )
    if not mine:
        pytest.skip("the cell has none of them")
    shared = {n: t[0] for n, t in arguments.items() if n not in mine}
    batched = {n: t for n, t in arguments.items() if n in mine}

    def results(batched: Arguments, h0: Tensor) -> tuple[Tensor, ...]:
        return run(name, {**shared, **batched}, h0)

    def loss(batched: Arguments, h0: Tensor, shared: Arguments) -> Tensor:
        found = run(name, {**shared, **batched}, h0)
        return sum(((i + 1) * v.sin()).sum() for i, v in enumerate(found))  # type: ignore[return-value]

    assert_same(torch.vmap(results)(batched, h0), loop(results, batched, h0))
    assert_same(torch.vmap(results, (0, None))(batched, h0[0]),
                loop(lambda b: results(b, h0[0]), batched))  # fmt: skip
    # gradients of each member, of its own arguments and of those that all share
    per_member = grad(loss, argnums=(0, 1, 2))
    expected = loop(lambda b, h: per_member(b, h, shared), batched, h0)
    assert_same(torch.vmap(per_member, (0, 0, None))(batched, h0, shared), expected)

    def total(batched: Arguments, h0: Tensor, shared: Arguments) -> Tensor:
        return torch.vmap(loss, (0, 0, None))(batched, h0, shared).sum()

    summed = (expected[0], expected[1], {n: t.sum(0) for n, t in expected[2].items()})
    assert_same(grad(total, argnums=(0, 1, 2))(batched, h0, shared), summed)


SEQUENCES: dict[str, dict[str, Any]] = {
    "lengths": {"lengths": torch.tensor([[4, 9], [0, 2], [9, 9]])},
    "reset": {"reset": torch.rand(M, B, T, generator=torch.Generator().manual_seed(0)) < 0.3},
    "joined": {"cu_seqlens": torch.tensor([[0, 4, 9], [0, 0, 9], [0, 7, 9]])},
}


@pytest.mark.parametrize("own", ["x", "params", "sequences", "all"])
@pytest.mark.parametrize("kind", SEQUENCES)
def test_members_may_have_sequences_of_their_own(kind: str, own: str) -> None:
    ((option, values),) = SEQUENCES[kind].items()
    joined = option == "cu_seqlens"
    arguments, _ = members("para_gru", 1 if joined else B)
    h0 = torch.rand(M, 1, B, 2, dtype=torch.float64)
    inputs = {"xz", "xr", "xc"}
    mine = {"x": inputs, "params": arguments.keys() - inputs, "sequences": set()}.get(
        own, set(arguments)
    )
    shared = {n: t[0] for n, t in arguments.items() if n not in mine}
    batched = {n: t for n, t in arguments.items() if n in mine}
    values = values if own in ("sequences", "all") else values[:1].expand_as(values)

    def loss(batched: Arguments, h0: Tensor, values: Tensor, shared: Arguments) -> Tensor:
        found = run("para_gru", {**shared, **batched}, h0, **{option: values})
        return sum((i + v.sin()).sum() for i, v in enumerate(found))  # type: ignore[return-value]

    per_member = grad(loss, argnums=(0, 1, 3))
    dim = 0 if own in ("sequences", "all") else None
    found = torch.vmap(per_member, (0, 0, dim, None))(
        batched, h0, values if dim == 0 else values[0], shared
    )
    assert_same(found, loop(lambda b, h, v: per_member(b, h, v, shared), batched, h0, values))


@pytest.mark.parametrize("name", SMOOTH)
def test_jacrev_is_the_jacobian_row_by_row(name: str) -> None:
    arguments, h0 = members(name, 1)
    first = {n: t[0][..., :4, :] if t.dim() == 4 else t[0] for n, t in arguments.items()}
    cut = {i.name for i in compiled(name).stages.cell.inputs if i.shared}
    first = {n: t[..., :4] if n in cut else t for n, t in first.items()}

    def function(arguments: Arguments) -> Tensor:
        return run(name, arguments, h0[0])[0].flatten()

    y, pull = vjp(function, first)
    rows = [pull(row)[0] for row in torch.eye(len(y), dtype=y.dtype)]
    expected = {n: torch.stack([row[n] for row in rows]) for n in first}
    assert_same(jacrev(function)(first), expected)
    assert_same(jacrev(function, chunk_size=3)(first), expected)
    names = list(first)
    vectorized = torch.autograd.functional.jacobian(
        lambda *values: function(dict(zip(names, values, strict=True))),
        tuple(first.values()),
        vectorize=True,
    )
    assert_same(dict(zip(names, vectorized, strict=True)), expected)


def test_vmaps_nest() -> None:
    arguments, h0 = members("para_gru")
    xs = {n: arguments[n] for n in ("xz", "xr", "xc")}
    params = {n: t for n, t in arguments.items() if n not in xs}

    def loss(xs: Arguments, params: Arguments) -> Tensor:
        return sum(v.sin().sum() for v in run("para_gru", {**xs, **params}, h0[0]))  # type: ignore[return-value]

    for function in (loss, grad(loss, argnums=(0, 1))):
        inner = torch.vmap(function, (0, None))
        found = torch.vmap(inner, (None, 0))(xs, params)
        expected = loop(lambda p, f=function: loop(lambda x: f(x, p), xs), params)
        assert_same(found, expected)


def test_an_ensemble_of_layers_trains_as_its_members() -> None:
    layers = [compiled("para_gru").layer(3, 4, dtype=torch.float64) for _ in range(M)]
    x = torch.randn(B, T, 3, dtype=torch.float64)
    params, buffers = stack_module_state(layers)  # type: ignore[arg-type]
    base = copy.deepcopy(layers[0]).to("meta")

    def loss(params: Arguments, buffers: Arguments, x: Tensor) -> Tensor:
        return functional_call(base, (params, buffers), (x,))[0].sin().sum()

    found = torch.vmap(grad(loss), (0, 0, None))(params, buffers, x)
    torch.vmap(loss, (0, 0, None))(params, buffers, x).sum().backward()
    for m, layer in enumerate(layers):
        layer(x)[0].sin().sum().backward()
        for name, p in layer.named_parameters():
            assert_same(found[name][m], p.grad)
            assert_same(params[name].grad[m], p.grad)


def test_gradients_of_each_sample_are_those_of_a_loop() -> None:
    layer = compiled("para_gru").layer(3, 4, dtype=torch.float64)
    params = {n: p.detach() for n, p in layer.named_parameters()}
    x = torch.randn(M, T, 3, dtype=torch.float64)

    def loss(params: Arguments, x: Tensor) -> Tensor:
        return functional_call(layer, params, (x[None],))[0].sin().sum()

    found = torch.vmap(grad(loss), (None, 0))(params, x)
    assert_same(found, loop(lambda x: grad(loss)(params, x), x))
    assert "sweep" in repr(layer.last_solve)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.parametrize("name", SMOOTH)
def test_jacfwd_and_hessian_agree_with_reverse_mode(name: str) -> None:
    arguments, h0 = members(name, 1)
    inputs = [i.name for i in compiled(name).stages.cell.inputs]
    first = {n: t[0][:, :3] if n in inputs else t[0] for n, t in arguments.items()}
    moved = inputs[0]

    def function(x: Tensor) -> Tensor:
        return run(name, {**first, moved: x}, h0[0])[0].sin()

    x = first[moved]
    assert_same(jacfwd(function)(x), jacrev(function)(x))
    backward_twice = torch.autograd.functional.hessian(lambda x: function(x).sum(), x)
    assert_same(hessian(lambda x: function(x).sum())(x), backward_twice)
    vectorized = torch.autograd.functional.hessian(lambda x: function(x).sum(), x, vectorize=True)
    assert_same(vectorized, backward_twice)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_members_have_tangents_of_their_own() -> None:
    arguments, h0 = members("para_gru")
    tangents = {n: t.cos() for n, t in arguments.items()}

    def tangent(arguments: Arguments, tangents: Arguments) -> Any:
        return jvp(lambda a: run("para_gru", a, h0[0]), (arguments,), (tangents,))

    found = torch.vmap(tangent)(arguments, tangents)
    assert_same(found, loop(tangent, arguments, tangents))


def test_the_step_jacobians_of_members_are_those_of_a_loop() -> None:
    arguments, _ = members("para_gru")

    def function(arguments: Arguments) -> Tensor:
        return compiled("para_gru").jacobians(**arguments)

    assert_same(torch.vmap(function)(arguments), loop(function, arguments))
