"""Layers under the transforms of torch.func, held to differences, loops over members and eager."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import (
    functional_call,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    stack_module_state,
)
from torch.utils._pytree import tree_leaves, tree_map

import rnncc
from rnncc import Input, Param, State, cell, dot, tanh, uniform
from rnncc.errors import ArgumentError

M = 3
Function = Callable[..., Any]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():  # of torch's own making: in forward mode, and by dynamo
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor")
        yield


@cell
def rich(
    h: State(size=2, init=Param(init=uniform(-1, 1))),
    d: State(delay=2, init=0.3),
    e: Input(size=2),
    x: Input,
    w: Param(size=2),
):
    h = tanh(w * h + e)
    d_new = 0.5 * d.ago(2) + x * sum(h)
    return {"h": h, "d": d_new, "y": dot(w, h) + d_new * d_new}


@functools.cache
def compiled(of: Any) -> rnncc.CompiledCell:
    return rnncc.compile(of)


class Case(NamedTuple):
    """A layer, the shapes of what it is given by place, and what it is given by name."""

    layer: Callable[..., nn.Module]
    shapes: list[tuple[int, ...]]
    options: dict[str, Any] = {}  # noqa: RUF012


RESET = torch.tensor([[False, True], [False, False]])
CASES: dict[str, Case] = {
    "a vector, a delay and a learned start": Case(
        lambda **o: compiled(rich).layer(2, 1, **o), [(1, 3, 2)], {"return_states": True}
    ),
    "resets to a learned start": Case(
        lambda **o: compiled(rich).layer(2, 1, **o),
        [(2, 2, 2)],
        {"reset": RESET, "lengths": torch.tensor([2, 1])},
    ),
    "joined sequences": Case(
        lambda **o: compiled(rich).layer(2, 1, **o),
        [(1, 4, 2)],
        {"cu_seqlens": torch.tensor([0, 2, 2, 4])},
    ),
    "no projection": Case(
        lambda **o: compiled(rich).layer(1, projection=None, **o), [(1, 3, 1, 2), (3, 1)]
    ),
    "two layers, both ways": Case(
        lambda **o: compiled("para_gru").layer(1, 1, num_layers=2, bidirectional=True, **o),
        [(1, 2, 1)],
        {"lengths": torch.tensor([1])},
    ),
    "two layers, time first, dropout": Case(
        lambda **o: (
            compiled("para_gru")
            .layer(1, 2, num_layers=2, batch_first=False, dropout=0.5, **o)
            .eval()
        ),
        [(2, 2, 1)],
    ),
    "reversed": Case(
        lambda **o: compiled("para_gru").layer(1, 2, reverse=True, **o),
        [(2, 2, 1)],
        {"reset": RESET},
    ),
}
LARGE = "two layers, both ways"  # by differences for each of its many weights
MARKED = [pytest.param(c, marks=pytest.mark.slow) if c == LARGE else c for c in CASES]
each_case = pytest.mark.parametrize("case", MARKED)


def function_of(case: str) -> tuple[Function, list[Tensor]]:
    """Results as a function of all parameters and what is given, and a point."""
    make, shapes, options = CASES[case]
    layer = make(dtype=torch.float64)
    names = [name for name, _ in layer.named_parameters()]

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        parameters = dict(zip(names, tensors, strict=False))
        found = functional_call(layer, parameters, tensors[len(names) :], options)
        return tuple(tree_leaves(found))

    given = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    return function, [p.detach().clone().requires_grad_() for p in (*layer.parameters(), *given)]


@each_case
def test_all_first_derivatives_are_those_of_differences(case: str) -> None:
    function, point = function_of(case)
    batched = {"check_batched_grad": True, "check_batched_forward_grad": True}
    assert gradcheck(function, point, check_forward_ad=True, **batched)


@each_case
def test_all_second_derivatives_are_those_of_differences(case: str) -> None:
    function, point = function_of(case)
    assert gradgradcheck(function, point, check_fwd_over_rev=True, check_batched_grad=True)


@each_case
def test_members_are_as_calls_of_their_own(case: str) -> None:
    function, point = function_of(case)
    every = tuple(range(len(point)))

    def gradients(*tensors: Tensor) -> tuple[Tensor, ...]:
        return grad(lambda *t: sum(v.sin().sum() for v in function(*t)), every)(*tensors)

    values = [t.detach() for t in point]
    members = [torch.stack([t, 0.5 * t, t.sin()]) for t in values]
    for own in (every, every[:1], every[:-1], every[-1:]):
        mixed = [members[i] if i in own else t for i, t in enumerate(values)]
        for f in (function, gradients):
            found = torch.vmap(f, tuple(0 if i in own else None for i in every))(*mixed)
            each = [f(*(t[m] if i in own else t for i, t in enumerate(mixed))) for m in range(M)]
            assert_same(found, tuple(torch.stack(column) for column in zip(*each, strict=True)))


@each_case
def test_jacobians_forward_and_backward_agree(case: str) -> None:
    function, point = function_of(case)
    every = tuple(range(len(point)))
    assert_same(jacfwd(function, every)(*point), jacrev(function, every)(*point))


def assert_same(found: Any, expected: Any, digits: float = 1e-9) -> None:
    torch.testing.assert_close(found, expected, rtol=digits, atol=digits / 10)


# --- second derivatives that are zero --------------------------------------------------------


@cell
def added(h: State, x: Input, u: Input(shared=True), a: Param):
    return {"h": 0.5 * h + x, "y": h + u * a}


@pytest.mark.parametrize("start", [None, torch.zeros(1, 2, dtype=torch.float64)], ids=["", "h0"])
def test_a_sum_of_outputs_has_a_hessian(start: Tensor | None) -> None:
    x, u, a = (torch.randn(s, dtype=torch.float64) for s in ((1, 3, 2), (1, 3), (2,)))

    def loss(x: Tensor, u: Tensor, a: Tensor) -> Tensor:
        return compiled(added)(x, u, a, h0=start).sum()

    every = (0, 1, 2)
    expected = torch.autograd.functional.hessian(loss, (x, u, a))
    assert_same(jacfwd(jacrev(loss, every), every)(x, u, a), expected)
    assert_same(jacrev(jacfwd(loss, every), every)(x, u, a), expected)
    assert expected[1][2].any()


def test_a_sum_of_a_layers_outputs_has_a_hessian() -> None:
    layer = compiled("para_gru").layer(2, 3, dtype=torch.float64)
    x = torch.randn(1, 3, 2, dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        return layer(x)[0].sum()

    assert_same(hessian(loss)(x), torch.autograd.functional.hessian(loss, x))


def test_forward_mode_within_forward_mode_has_the_ways_out_that_its_refusal_names() -> None:
    layer = compiled("para_gru").layer(1, 2, dtype=torch.float64)
    x = torch.randn(1, 3, 1, dtype=torch.float64)

    def f(x: Tensor) -> Tensor:
        return layer(x)[0].sin()

    with pytest.raises(ArgumentError, match=r"Fix: reverse mode inside.*jacfwd\(jacrev\(f\)\)"):
        jacfwd(jacfwd(f))(x)
    with pytest.raises(ArgumentError, match=r"or jvp of grad$"):
        jvp(lambda x: jvp(f, (x,), (x,))[1], (x,), (x,))
    whole = jacfwd(jacrev(f))(x)
    assert_same(whole, jacrev(jacrev(f))(x))
    along = torch.einsum("btnijkxyz,ijk,xyz->", whole, x, x)
    _, moved = jvp(grad(lambda x: f(x).sum()), (x,), (x,))
    assert_same((moved * x).sum(), along)


# --- in every precision ----------------------------------------------------------------------


def derivatives_of(layer: nn.Module, x: Tensor) -> dict[str, Any]:
    params = {n: p.detach() for n, p in layer.named_parameters()}

    def run(params: Any, x: Tensor) -> Tensor:
        return functional_call(layer, params, (x,))[0]  # type: ignore[no-any-return]

    def loss(params: Any, x: Tensor) -> Tensor:
        return run(params, x).sum()

    return {
        "members": torch.vmap(run, (None, 0))(params, x),
        "gradients": torch.vmap(grad(loss, (0, 1)), (None, 0))(params, x),
        "tangent": jvp(run, (params, x[0]), (params, x[0]))[1],
        "tangents": torch.vmap(lambda x: jvp(run, (params, x), (params, x))[1])(x),
        "jacobian": jacrev(run, 1)(params, x[0]),
        "hessian": hessian(loss, 1)(params, x[0]),
        "penalty": grad(lambda p, x: grad(loss, 1)(p, x).square().sum())(params, x[0]),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_transforms_are_in_every_precision(dtype: torch.dtype) -> None:
    exact = compiled("para_gru").layer(2, 3, dtype=torch.float64)
    layer = copy.deepcopy(exact).to(dtype)
    exact.load_state_dict(layer.state_dict())
    x = torch.randn(M, 1, 5, 2).to(dtype)
    found, expected = derivatives_of(layer, x), derivatives_of(exact, x.double())
    assert {t.dtype for t in tree_leaves(found)} == {dtype}
    digits = 1e-4 if dtype == torch.float32 else 0.05
    for name, value in found.items():
        for a, b in zip(tree_leaves(value), tree_leaves(expected[name]), strict=True):
            assert (a - b).abs().max() <= digits * b.abs().max(), name


# --- beside torch.compile --------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = compiled("para_gru").layer(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0].sin()  # type: ignore[no-any-return]


def loss_of(net: nn.Module, params: Any, x: Tensor) -> Tensor:
    return functional_call(net, params, (x,)).sum()  # type: ignore[no-any-return]


def penalty(net: nn.Module, params: Any, x: Tensor) -> Tensor:
    return sum(g.square().sum() for g in grad(functools.partial(loss_of, net))(params, x).values())  # type: ignore[return-value]


IN_A_GRAPH: dict[str, Callable[[nn.Module, Any, Tensor], Any]] = {
    "grad": lambda net, p, x: grad(functools.partial(loss_of, net))(p, x),
    "per sample": lambda net, p, x: torch.vmap(grad(functools.partial(loss_of, net)), (None, 0))(
        p, x[:, None]
    ),
    "vmap": lambda net, p, x: torch.vmap(lambda x: net(x))(x[:, None]),
    "jacrev": lambda net, p, x: jacrev(net)(x[:1]),
    "a gradient penalty": lambda net, p, x: grad(functools.partial(penalty, net))(p, x),
}
OUTSIDE = {
    "jvp": lambda net, p, x: jvp(net, (x,), (x,)),
    "hessian": lambda net, p, x: hessian(lambda x: net(x).sum())(x[:1]),
}


def parts() -> tuple[nn.Module, Any, Tensor]:
    net = Net()
    return net, {n: p.detach() for n, p in net.named_parameters()}, torch.randn(2, 4, 2)


@pytest.mark.parametrize("kind", IN_A_GRAPH)
def test_a_transform_within_a_compiled_function_gives_what_it_gives_outside(
    kind: str, fresh_dynamo: None
) -> None:
    function, given = IN_A_GRAPH[kind], parts()
    traced = torch.compile(function, backend="aot_eager", fullgraph=True)
    assert_same(traced(*given), function(*given), 1e-5)


@pytest.mark.parametrize("kind", OUTSIDE)
def test_forward_mode_runs_outside_of_a_graph_and_is_refused_in_a_full_one(
    kind: str, fresh_dynamo: None
) -> None:
    function, given = OUTSIDE[kind], parts()
    expected = function(*given)
    assert_same(torch.compile(function, backend="aot_eager")(*given), expected, 1e-5)
    torch._dynamo.reset()
    with pytest.raises(Exception, match=r"got forward mode .*Fix: torch\.compile inside"):
        torch.compile(function, backend="aot_eager", fullgraph=True)(*given)
    torch._dynamo.reset()
    net, *rest = given
    assert_same(function(torch.compile(net, backend="aot_eager"), *rest), expected, 1e-5)


@pytest.mark.parametrize("kind", IN_A_GRAPH)
def test_transforms_of_a_compiled_layer_give_what_they_give_of_the_layer(
    kind: str, fresh_dynamo: None
) -> None:
    net, params, x = parts()
    expected = IN_A_GRAPH[kind](net, params, x)
    there = {f"_orig_mod.{n}": p for n, p in params.items()}
    found = IN_A_GRAPH[kind](torch.compile(net, backend="aot_eager"), there, x)
    values = [tree_leaves(v) for v in (found, expected)]
    assert_same(*values, 1e-5)


def test_an_ensemble_trains_in_a_graph(fresh_dynamo: None) -> None:
    nets = [Net() for _ in range(M)]
    params, buffers = stack_module_state(nets)  # type: ignore[arg-type]
    base, x = copy.deepcopy(nets[0]).to("meta"), torch.randn(2, 4, 2)

    def ensemble(params: Any) -> Tensor:
        return torch.vmap(lambda p: functional_call(base, (p, buffers), (x,)))(params)  # type: ignore[no-any-return]

    def gradients(function: Function) -> Sequence[Tensor]:
        return torch.autograd.grad(function(params).square().sum(), list(params.values()))

    traced = torch.compile(ensemble, backend="aot_eager", fullgraph=True)
    assert_same(gradients(traced), gradients(ensemble), 1e-5)
    assert tree_map(lambda p: p.shape[0], params) == dict.fromkeys(params, M)
