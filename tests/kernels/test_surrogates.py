"""Gradients that aren't those of their values: one's own surrogate, forward_as, stop_gradient."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor
from torch.autograd import forward_ad

import rnncc
from rnncc import Input, Param, State, cell, exp, forward_as, sin, spike, stop_gradient, tanh, where
from rnncc import round as rounded
from rnncc.cli.main import main
from tests.support.tolerances import assert_close

EVERY_TARGET = True  # see conftest.py
Run = Callable[..., tuple[Tensor, ...]]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():  # forward mode: torch compiles decompositions of its own
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        yield


# --- a cell with all of them, and the same in plain PyTorch ----------------------------------


@cell
def learner(v: State(size=2), h: State, x: Input(size=2), a: Param(size=2), b: Param):
    u = a * v + x - 0.4
    s = spike(u, surrogate=lambda w: 1 / (1 + w * w))  # of a vector
    held = forward_as(rounded(3 * tanh(h)), gradient_of=sin(2 * h))
    smooth = b * stop_gradient(s[0]) * h
    nested = forward_as(spike(held, surrogate=lambda w: exp(-w)), gradient_of=smooth)
    chosen = where(h > 0.1, stop_gradient(h) * nested, held * b)
    w = s[0] * u[1] + forward_as(h, gradient_of=b * h)
    inner = spike(w, surrogate=lambda w: b - s[1] * w)  # with a slope that could be learned
    return {
        "v": u - 0.3 * s + 0.1 * stop_gradient(u),
        "h": 0.5 * h + 0.2 * chosen + 0.1 * inner,
        "y": s * x,
        "z": stop_gradient(nested) + inner * b + held * h,
    }


class Step(torch.autograd.Function):
    """[u > 0] with the derivative d."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, d: Tensor) -> Tensor:
        ctx.save_for_backward(d)
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (d,) = ctx.saved_tensors
        return gradients[0] * d, None


step: Callable[[Tensor, Tensor], Tensor] = Step.apply


def through(value: Tensor, smooth: Tensor) -> Tensor:
    return value.detach() + smooth - smooth.detach()


def by_hand(
    v: Tensor, h: Tensor, x: Tensor, a: Tensor, b: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    u = a * v + x - 0.4
    s = step(u, 1 / (1 + u * u))
    held = through(torch.round(3 * torch.tanh(h)), torch.sin(2 * h))
    nested = through((held > 0).to(h.dtype), b * s[..., 0].detach() * h)
    chosen = torch.where(h > 0.1, h.detach() * nested, held * b)
    w = s[..., 0] * u[..., 1] + through(h, b * h)
    inner = step(w, b - s[..., 1] * w)
    after = u - 0.3 * s + 0.1 * u.detach()
    z = nested.detach() + inner * b + held * h
    return after, 0.5 * h + 0.2 * chosen + 0.1 * inner, s * x, z


def by_loop(x: Tensor, a: Tensor, b: Tensor, v: Tensor, h: Tensor) -> tuple[Tensor, ...]:
    ys, zs = [], []
    for t in range(x.shape[1]):
        v, h, y, z = by_hand(v, h, x[:, t], a, b)
        ys.append(y)
        zs.append(z)
    return torch.stack(ys, 1), torch.stack(zs, 1), v, h


def by_kernel(run: Any, **options: Any) -> Run:
    def called(x: Tensor, a: Tensor, b: Tensor, v: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        (y, z), (v, h) = run(x, a, b, h0=(v, h), return_state=True, **options)
        return y, z, v, h

    return called


def arguments(dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = [(2, 12, 3, 2), (3, 2), (3,), (2, 3, 2), (2, 3)]
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]


def leaves(tensors: list[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    return [t.detach().to(dtype or t.dtype).clone().requires_grad_() for t in tensors]


def weighted(results: tuple[Tensor, ...]) -> Tensor:
    """A sum in which each result has a weight of its own."""
    total = torch.zeros((), dtype=results[0].dtype)
    for k, result in enumerate(results):
        places = torch.arange(result.numel(), dtype=result.dtype).reshape(result.shape)
        total = total + (torch.cos(places + k) * result).sum()
    return total


# --- the tests -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"solver": "sequential"}, {"solver": "segmented", "segment": 4}], ids=str
)
@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)], ids=str
)
def test_values_and_gradients_are_those_of_the_loop(
    dtype: torch.dtype, options: dict[str, Any], target: str
) -> None:
    given = arguments(dtype)
    ours, plain = leaves(given), leaves(given, torch.float64)
    got, expected = by_kernel(rnncc.compile(learner), **options)(*ours), by_loop(*plain)
    for name, a, e in zip("yzvh", got, expected, strict=True):
        assert_close(a, e, dtype, name)
    slopes = (torch.autograd.grad(weighted(r), of) for r, of in ((got, ours), (expected, plain)))
    for name, a, e in zip("xabvh", *slopes, strict=True):
        assert_close(a, e, dtype, f"gradient of {name}", gradient=True)


def second(run: Run) -> list[Tensor]:
    """The gradients of a sum of the squares of gradients."""
    at = leaves(arguments(torch.float64))
    first = torch.autograd.grad(weighted(run(*at)), at, create_graph=True)
    return list(torch.autograd.grad(sum(g.square().sum() for g in first), at))


def test_gradients_of_gradients_differentiate_the_surrogate(target: str) -> None:
    for a, e in zip(second(by_kernel(rnncc.compile(learner))), second(by_loop), strict=True):
        assert_close(a, e, torch.float64, "second derivative", gradient=True)


def test_a_derivative_in_a_direction_has_them_too(target: str) -> None:
    at = arguments(torch.float64)
    directions = [torch.sin(3 * t) for t in at]
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(*pair) for pair in zip(at, directions, strict=True)]
        results = by_kernel(rnncc.compile(learner))(*duals)
        got = [forward_ad.unpack_dual(y).tangent for y in results]
    at = leaves(at)  # of the loop by what is linear in its gradients
    results = by_loop(*at)
    upstream = [torch.zeros_like(y, requires_grad=True) for y in results]
    pulled = torch.autograd.grad(results, at, upstream, create_graph=True)
    along = sum((g * d).sum() for g, d in zip(pulled, directions, strict=True))
    for name, a, e in zip("yzvh", got, torch.autograd.grad(along, upstream), strict=True):
        assert a is not None
        assert_close(a, e, torch.float64, f"tangent of {name}", gradient=True)


@pytest.mark.slow
def test_a_package_with_its_tangent_cell_has_them(tmp_path: Path, target: str) -> None:
    where_to = tmp_path / "learner"
    command = ["compile", f"{__file__}:learner", "--tangent", "--out", str(tmp_path)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    spec = importlib.util.spec_from_file_location("learner", where_to / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for a, e in zip(second(by_kernel(module.learner)), second(by_loop), strict=True):
        assert_close(a, e, torch.float64, "second derivative", gradient=True)
