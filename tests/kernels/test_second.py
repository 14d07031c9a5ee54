"""Derivatives in a direction and gradients of gradients, held to autograd through plain loops."""

from __future__ import annotations

import importlib.util
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, func
from torch.autograd import forward_ad

import rnncc
from rnncc import Input, Param, State, cell, exprel, sigmoid
from rnncc.codegen.writer import write
from rnncc.errors import LoadError
from rnncc.export.torch_loop import plain_loop
from rnncc.runtime import kernel as kernels
from tests.support.runs import (
    SHIPPED,
    SMOOTH_SHIPPED,
    Call,
    _loop,
    fitting,
    random_call,
    solve,
    solve_all,
    step_of,
)
from tests.support.small import SMALL
from tests.support.tolerances import assert_close

ALL, SMOOTH = [*SHIPPED, *SMALL], [*SMOOTH_SHIPPED, *SMALL]
FEW = ["para_gru", "lstm", "crossed"]
PLACES = [*((name, "cpp") for name in ALL), *((name, "emulated") for name in FEW)]
each_cell_somewhere = pytest.mark.parametrize(("name", "target"), PLACES, indirect=["target"])
Run = Callable[..., list[Tensor]]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():  # forward mode: torch compiles decompositions of its own
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        yield


# --- a call by the kernel and by the loop ----------------------------------------------------


def runs_of(name: str, call: Call, **options: Any) -> tuple[Run, Run, list[Tensor]]:
    """The kernel and the loop as functions of tensors, and the tensors: arguments, then h0."""
    names, count = list(call.arguments), len(call.arguments)

    def by_kernel(*tensors: Tensor) -> list[Tensor]:
        given, h0 = dict(zip(names, tensors, strict=False)), tensors[count:] or None
        run: Any = solve_all if call.dz else solve
        return [t for row in run(name, given, h0, **call.sequences, **options) for t in row]

    def by_loop(*tensors: Tensor) -> list[Tensor]:
        given, h0 = dict(zip(names, tensors, strict=False)), tensors[count:] or None
        y, z, h = _loop(name, call, given, h0, step_of(name))
        return [*y, *z, *h]

    return by_kernel, by_loop, [*call.arguments.values(), *(call.h0 or ())]


def leaves_of(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.detach().clone().requires_grad_() for t in tensors]


def upstream_of(call: Call) -> list[Tensor]:
    return [*call.dy, *call.dz, *call.dh]


def twice(run: Run, tensors: Sequence[Tensor], upstream: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of a sum of gradients, weighted, with respect to all that it depends on."""
    leaves, given = leaves_of(tensors), leaves_of(upstream)
    loss = sum((y * g).sum() for y, g in zip(run(*leaves), given, strict=True))
    first = torch.autograd.grad(loss, leaves, create_graph=True, materialize_grads=True)
    penalty = weighted(first)
    if not penalty.requires_grad:
        return [torch.zeros_like(leaf) for leaf in (*leaves, *given)]
    return list(torch.autograd.grad(penalty, [*leaves, *given], materialize_grads=True))


def weights(like: Sequence[Tensor]) -> list[Tensor]:
    """A direction of these tensors: the same numbers in every dtype."""
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in like]
    return [d.to(torch.bfloat16).to(t.dtype) for d, t in zip(drawn, like, strict=True)]


def weighted(values: Sequence[Tensor]) -> Tensor:
    return sum((v * w).sum() for v, w in zip(values, weights(values), strict=True))  # type: ignore[return-value]


def assert_all_close(got: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for i, (a, e) in enumerate(zip(got, expected, strict=True)):
        assert_close(a.detach(), e.detach().double(), a.dtype, f"result {i}", gradient=True)


# --- gradients of gradients ------------------------------------------------------------------


@each_cell_somewhere
def test_gradients_of_gradients_are_those_of_the_loop(name: str, target: str) -> None:
    call = random_call(name, (2, 9, fitting(name, 3)), torch.float64)
    by_kernel, by_loop, tensors = runs_of(name, call)
    ups = upstream_of(call)
    assert_all_close(twice(by_kernel, tensors, ups), twice(by_loop, tensors, ups))


SEQUENCES: dict[str, dict[str, Any]] = {
    "whole": {},
    "padded": {"lengths": torch.tensor([7, 20])},
    "padded and reset": {"lengths": torch.tensor([0, 13]), "reset": torch.rand(2, 20) < 0.2},
    "joined": {"cu_seqlens": torch.tensor([0, 9, 9, 20])},
    "joined and reset": {
        "cu_seqlens": torch.tensor([0, 9, 9, 20]),
        "reset": torch.rand(1, 20) < 0.2,
    },
}


@pytest.mark.parametrize("start", [True, False], ids=["h0", "inits"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("kind", SEQUENCES)
@pytest.mark.parametrize("name", ["para_gru", "lstm"])
def test_they_are_for_all_forms_of_sequences(
    name: str, kind: str, reverse: bool, start: bool
) -> None:
    shape = (1 if "joined" in kind else 2, 20, 2)
    options: dict[str, Any] = {"states": True, "start": start, "reverse": reverse}
    call = random_call(name, shape, torch.float64, **options, **SEQUENCES[kind])
    by_kernel, by_loop, tensors = runs_of(name, call)
    ups = upstream_of(call)
    assert_all_close(twice(by_kernel, tensors, ups), twice(by_loop, tensors, ups))


@pytest.mark.parametrize(
    "choices",
    [
        {"solver": "segmented", "segment": 5, "checkpoint": 3},
        {"solver": "newton", "iterations": 20},
        {"solver": "sequential", "checkpoint": 2},
    ],
    ids=lambda choices: choices["solver"],
)
def test_they_are_by_all_solvers(choices: dict[str, Any]) -> None:
    call = random_call("para_gru", (2, 40, 3), torch.float64)
    by_kernel, by_loop, tensors = runs_of("para_gru", call, **choices)
    ups = upstream_of(call)
    assert_all_close(twice(by_kernel, tensors, ups), twice(by_loop, tensors, ups))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_are_in_every_precision(dtype: torch.dtype) -> None:
    call = random_call("para_gru", (2, 20, 3), dtype)
    by_kernel, by_loop, tensors = runs_of("para_gru", call)
    ups = upstream_of(call)
    got = twice(by_kernel, tensors, ups)
    expected = twice(by_loop, [t.double() for t in tensors], [u.double() for u in ups])
    assert [g.dtype for g in got] == [t.dtype for t in (*tensors, *ups)]
    assert_all_close(got, expected)


@pytest.mark.parametrize("name", SMOOTH)
def test_gradgradcheck_passes(name: str) -> None:
    call = random_call(name, (1, 3, fitting(name, 1)), torch.float64)
    by_kernel, _, tensors = runs_of(name, call)
    assert torch.autograd.gradgradcheck(by_kernel, leaves_of(tensors))


def test_a_third_derivative_is_that_of_the_loop() -> None:
    call = random_call("para_gru", (2, 5, 2), torch.float64)
    by_kernel, by_loop, tensors = runs_of("para_gru", call)

    def thrice(run: Run) -> list[Tensor]:
        leaves = leaves_of(tensors)
        found = run(*leaves)[0].pow(3).sum()
        for _ in range(2):
            again = torch.autograd.grad(found, leaves, create_graph=True)
            found = weighted(again)
        return list(torch.autograd.grad(found, leaves))

    assert_all_close(thrice(by_kernel), thrice(by_loop))


def test_the_derivative_of_exprel_has_one_near_zero_and_far() -> None:
    @cell
    def grown(h: State, x: Input, a: Param):
        return exprel(a * h + x)

    points = torch.tensor([-3.0, -0.5, -0.3, -1e-3, 0.0, 1e-5, 0.49, 0.5, 2.0, 5.0])
    x = points.double()[None, :, None].requires_grad_()
    y = rnncc.compile(grown)(x, torch.zeros(1, dtype=torch.float64))
    (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (found,) = torch.autograd.grad(first.sum(), x)
    s = torch.linspace(0, 1, 20001, dtype=torch.float64)  # the integral of s^2 exp(s x), by Simpson
    w = torch.full_like(s, 2 / 3)
    w[1::2], w[0], w[-1] = 4 / 3, 1 / 3, 1 / 3
    expected = (w * s**2 * torch.exp(s * points.double()[:, None])).sum(-1) / 20000
    assert torch.allclose(found.flatten(), expected, rtol=1e-12)


# --- derivatives in a direction --------------------------------------------------------------


@each_cell_somewhere
def test_a_derivative_in_a_direction_is_that_of_the_loop(name: str, target: str) -> None:
    call = random_call(name, (2, 9, fitting(name, 3)), torch.float64, states=True)
    by_kernel, by_loop, tensors = runs_of(name, call)
    directions = weights(tensors)
    assert_all_close(along(by_kernel, tensors, directions), along(by_loop, tensors, directions))


def along(run: Run, tensors: Sequence[Tensor], directions: Sequence[Tensor]) -> list[Tensor]:
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(*pair) for pair in zip(tensors, directions, strict=True)]
        found = [forward_ad.unpack_dual(y).tangent for y in run(*duals)]
    return [t for t in found if t is not None]


def test_a_direction_may_move_one_argument_alone() -> None:
    call = random_call("para_gru", (2, 9, 3), torch.float64)
    by_kernel, by_loop, tensors = runs_of("para_gru", call)
    for i, tensor in enumerate(tensors):

        def one(run: Run, i: int = i, tensor: Tensor = tensor) -> Tensor:
            def of(x: Tensor) -> Tensor:
                return run(*tensors[:i], x, *tensors[i + 1 :])[0]

            return func.jvp(of, (tensor,), tuple(weights([tensor])))[1]  # type: ignore[no-any-return]

        assert_all_close([one(by_kernel)], [one(by_loop)])


MIXED: dict[str, Callable[[Callable[..., Tensor], tuple[Tensor, ...]], Any]] = {
    "reverse over reverse": lambda f, at: func.grad(
        lambda *t: weighted(func.grad(f, every(at))(*t)), every(at)
    )(*at),
    "forward over reverse": lambda f, at: func.jvp(func.grad(f, every(at)), at, tuple(weights(at)))[
        1
    ],
    "reverse over forward": lambda f, at: func.grad(
        lambda *t: func.jvp(f, t, tuple(weights(at)))[1], every(at)
    )(*at),
    "hvp": lambda f, at: torch.autograd.functional.hvp(f, at, tuple(weights(at)))[1],
    "forward over a backward without a graph": lambda f, at: forward_over_backward(f, at),
}


def every(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(range(len(tensors)))


def forward_over_backward(f: Callable[..., Tensor], at: tuple[Tensor, ...]) -> list[Tensor]:
    with forward_ad.dual_level():
        pairs = zip(leaves_of(at), weights(at), strict=True)
        duals = [forward_ad.make_dual(*pair) for pair in pairs]
        found = torch.autograd.grad(f(*duals), duals)
        return [forward_ad.unpack_dual(g).tangent for g in found]


@pytest.mark.parametrize("kind", MIXED)
@pytest.mark.parametrize("name", FEW)
def test_hessian_vector_products_are_those_of_the_loop(name: str, kind: str) -> None:
    call = random_call(name, (2, 6, fitting(name, 2)), torch.float64)
    by_kernel, by_loop, tensors = runs_of(name, call)

    def loss(run: Run) -> Callable[..., Tensor]:
        return lambda *t: run(*t)[0].pow(3).sum()

    found = [MIXED[kind](loss(run), tuple(tensors)) for run in (by_kernel, by_loop)]
    assert_all_close(*found)


# --- through a layer -------------------------------------------------------------------------


@cell
def gate(h: State, xz: Input, xc: Input, a: Param):
    z = sigmoid(a * h + xz)
    return (1 - z) * h + z * xc


def layers() -> tuple[torch.nn.Module, Callable[..., Tensor]]:
    """A layer, and the same as plain PyTorch of its parameters by name."""
    c = rnncc.compile(gate)
    layer = c.layer(3, 4, dtype=torch.float64)

    def plain(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        weight, bias = parameters["projection.weight"], parameters["projection.bias"]
        xz, xc = torch.nn.functional.linear(x, weight, bias).chunk(2, -1)
        return plain_loop(c.stages.cell, {"xz": xz, "xc": xc, "a": parameters["a"]})[0][0]

    return layer, plain


def both(layer: torch.nn.Module, plain: Callable[..., Tensor]) -> list[Callable[..., Tensor]]:
    return [lambda p, x: func.functional_call(layer, p, (x,))[0], plain]


def test_a_gradient_penalty_trains_as_through_the_loop() -> None:
    layer, plain = layers()
    x = torch.randn(2, 8, 3, dtype=torch.float64)
    results = []
    for run in both(layer, plain):
        parameters = {n: p.detach().clone().requires_grad_() for n, p in layer.named_parameters()}
        leaf = x.clone().requires_grad_()
        y = run(parameters, leaf)
        (dx,) = torch.autograd.grad(y.sum(), leaf, create_graph=True)
        loss = y.square().mean() + (dx.norm(dim=-1) - 1).square().mean()
        results.append(torch.autograd.grad(loss, list(parameters.values())))
    assert_all_close(*results)


def test_an_inner_loop_of_training_can_be_differentiated() -> None:
    layer, plain = layers()
    x, wanted = torch.randn(2, 2, 8, 3, dtype=torch.float64).unbind(0)
    results = []
    for run in both(layer, plain):
        first = {n: p.detach().clone().requires_grad_() for n, p in layer.named_parameters()}
        parameters: dict[str, Tensor] = dict(first)
        for _ in range(3):
            inner = (run(parameters, x)[..., :3] - wanted).square().mean()
            found = torch.autograd.grad(inner, list(parameters.values()), create_graph=True)
            pairs = zip(parameters.items(), found, strict=True)
            parameters = {n: p - 0.5 * g for (n, p), g in pairs}
        outer = (run(parameters, wanted)[..., :3] - x).square().mean()
        results.append(torch.autograd.grad(outer, list(first.values())))
    assert_all_close(*results)


def test_the_tangent_cell_is_derived_at_its_first_use() -> None:
    c = rnncc.compile(gate)
    xz, xc = torch.randn(2, 1, 4, 2)
    leaf = torch.zeros(2, requires_grad=True)
    c(xz, xc, leaf).sum().backward()
    assert c._tangent is None
    (da,) = torch.autograd.grad(c(xz, xc, leaf).sum(), leaf, create_graph=True)
    da.sum().backward()


# --- from files ------------------------------------------------------------------------------


def imported(folder: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package of these files, as in a process that has compiled nothing."""
    write(files, folder)
    monkeypatch.setattr(kernels, "KERNELS", {})
    spec = importlib.util.spec_from_file_location(folder.name, folder / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_package_with_its_tangent_cell_has_second_derivatives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = rnncc.compile(gate).files_with_tangent()
    module = imported(tmp_path / "gate", files, monkeypatch)
    x, a = torch.randn(2, 1, 4, 2).double(), torch.zeros(2).double().requires_grad_()

    def first(a: Tensor) -> Tensor:
        y = module.gate(*x, a)
        return torch.autograd.grad(y.sin().sum(), a, create_graph=True)[0]

    assert torch.autograd.gradcheck(first, (a,))
    copied = pickle.loads(pickle.dumps(module._KERNEL))
    assert copied.tangent.key == module._KERNEL.tangent.key
    (second,) = torch.autograd.grad(first(a).sum(), a, create_graph=True)
    with pytest.raises(LoadError, match="'gate_tangent': a derivative in a direction"):
        second.sum().backward()


def test_a_package_whose_tangent_cell_was_changed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = rnncc.compile(gate).files_with_tangent()
    files["tangent/cell.h"] += "// another line\n"
    with pytest.raises(LoadError, match="tangent: its files don't belong together"):
        imported(tmp_path / "gate", files, monkeypatch)


def test_a_package_without_it_has_the_ways_out_that_its_refusal_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    c = rnncc.compile(gate)
    module = imported(tmp_path / "gate", c.files, monkeypatch)
    x, a = torch.randn(2, 1, 4, 2), torch.zeros(2, requires_grad=True)
    y = module.gate(*x, a)
    with pytest.raises(LoadError, match=r"rnncc\.compile\(the cell\).*rnncc compile --tangent"):
        torch.autograd.grad(torch.autograd.grad(y.sum(), a, create_graph=True)[0].sum(), a)
    y = rnncc.compile(gate)(*x, a)
    torch.autograd.grad(torch.autograd.grad(y.sum(), a, create_graph=True)[0].sum(), a)
    write(c.files_with_tangent(), tmp_path / "gate")
    write(c.files, tmp_path / "gate")
    assert not (tmp_path / "gate" / "tangent").exists()


def test_a_folder_with_other_things_in_its_tangent_is_left_alone(tmp_path: Path) -> None:
    files = rnncc.compile(gate).files_with_tangent()
    write(files, tmp_path / "gate")
    (tmp_path / "gate" / "tangent" / "notes.txt").write_text("mine")
    with pytest.raises(LoadError, match="holds other things than rnncc writes: tangent"):
        write(files, tmp_path / "gate")
