"""Cells that forget slowly, and small or unlike states: segments are as exact as one pass."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import rnncc
from rnncc import Input, Param, State, cell, cos, log, sin, sqrt, tanh
from rnncc.cells import lru, min_gru, para_gru
from rnncc.nn.status import Solve

CHANNELS = 4
WORSE = 3.0  # times the error of one pass
UNITS = 2.0**-29  # of float64 to float32


@cell
def spring(x: State, v: State, f: Input, k: Param, c: Param, dt=0.01):
    v1 = v + dt * (f - k * x - c * v)
    return {"x": x + dt * v1, "v": v1, "y": x + dt * v1}


@cell
def pendulum(x: State, v: State, f: Input, k: Param, c: Param, dt=0.01):
    v1 = v + dt * (f - k * sin(x) - c * v)
    return {"x": x + dt * v1, "v": v1, "y": x + dt * v1}


@cell
def biquad(s1: State, s2: State, x: Input, a1: Param, a2: Param):
    y = 0.01 * x + s1
    return {"s1": 0.02 * x - a1 * y + s2, "s2": 0.01 * x - a2 * y, "y": y}


@cell
def varying_biquad(s1: State, s2: State, x: Input, a1: Input, a2: Input):
    y = 0.01 * x + s1
    return {"s1": 0.02 * x - a1 * y + s2, "s2": 0.01 * x - a2 * y, "y": y}


@cell
def oscillator(p: State, q: State, x: Input, w: Param, r: Param):
    c, s = r * cos(w), r * sin(w)
    return {"p": c * p - s * q + x, "q": s * p + c * q, "y": q}


@cell
def leaky(h: State, x: Input, a: Param):
    return a * h + x


@cell
def saturating(h: State, x: Input, a: Param):
    return tanh(a * h + x)


@cell
def fading(h: State(init=1.0), x: Input, a: Param):
    h_new = tanh(a * h) + x
    return {"h": h_new, "y": log(h_new)}


@cell
def rooted(s: State, q: State, x: Input):
    q_new = 0.5 * q + x
    return {"s": tanh(0.95 * s), "q": q_new, "y": sqrt(q_new)}


def noise(steps: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, steps, CHANNELS, generator=generator, dtype=torch.float64)


def all_channels(*values: float) -> list[Tensor]:
    return [torch.full((CHANNELS,), value, dtype=torch.float64) for value in values]


def low_pass(hertz: Tensor, quality: float) -> tuple[Tensor, Tensor]:
    """The poles' coefficients, at 44.1 kHz."""
    w = 2 * math.pi * hertz / 44100
    alpha = torch.sin(w) / (2 * quality)
    return -2 * torch.cos(w) / (1 + alpha), (1 - alpha) / (1 + alpha)


def swept(steps: int) -> list[Tensor]:
    hertz = 200 * 2 ** torch.sin(torch.arange(steps, dtype=torch.float64) / 900)
    a1, a2 = (a.reshape(1, steps, 1).expand(1, steps, CHANNELS) for a in low_pass(hertz, 2.0))
    return [noise(steps), a1, a2]


def steady_low_pass(hertz: float, quality: float) -> list[Tensor]:
    found = low_pass(torch.tensor(hertz, dtype=torch.float64), quality)
    return all_channels(*map(float, found))


def gates(steps: int, bias: float, inputs: int) -> list[Tensor]:
    return [noise(steps) + bias, *(noise(steps, seed) for seed in range(1, inputs))]


UNLIKE = torch.tensor([1e-8, 1e8, 1.0, 1e-3], dtype=torch.float64)
Made = Callable[[int], list[Tensor]]
SLOW: dict[str, tuple[Any, Made]] = {
    "spring": (spring, lambda t: [noise(t), *all_channels(1.0, 0.01)]),
    "pendulum": (pendulum, lambda t: [noise(t), *all_channels(1.0, 0.05)]),
    "low-pass of 1 kHz": (biquad, lambda t: [noise(t), *steady_low_pass(1000, 0.7)]),
    "low-pass of 50 Hz": (biquad, lambda t: [noise(t), *steady_low_pass(50, 0.7)]),
    "low-pass of 30 Hz, Q = 5": (biquad, lambda t: [noise(t), *steady_low_pass(30, 5.0)]),
    "low-pass that is swept": (varying_biquad, swept),
    "oscillator": (oscillator, lambda t: [noise(t), *all_channels(0.1, 0.9999)]),
    "oscillator of 4 steps": (oscillator, lambda t: [noise(t), *all_channels(math.pi / 2, 0.9999)]),
    "leaky integrator": (leaky, lambda t: [noise(t) + 0.1, *all_channels(0.9999)]),
    "lru": (lru, lambda t: [noise(t), noise(t, 1), *all_channels(-11.5129, math.log(0.3))]),
    "gru": (para_gru, lambda t: [*gates(t, -6.0, 3), *all_channels(0.5, 0.5, 0.5)]),
    "min_gru": (min_gru, lambda t: gates(t, -6.0, 2)),
    "small": (saturating, lambda t: [1e-6 * noise(t), *all_channels(0.95)]),
    "unlike channels": (leaky, lambda t: [UNLIKE * noise(t), *all_channels(0.99)]),
}


@functools.cache
def made(name: str) -> Any:
    found = SLOW[name][0]
    return rnncc.compile(found)


def results(
    name: str, arguments: list[Tensor], dtype: torch.dtype, **choices: Any
) -> tuple[list[Tensor], Solve]:
    """The outputs and all gradients, and how they were solved."""
    leaves = [a.detach().to(dtype, copy=True).requires_grad_() for a in arguments]
    solves: list[Solve] = []
    y = made(name)(*leaves, observe=solves.append, **choices)
    weights = noise(y.shape[1], seed=9).float()
    (y * weights.to(dtype)).sum().backward()
    return [y.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)], solves[0]


def errors(got: list[Tensor], exact: list[Tensor]) -> list[float]:
    """Of each, relative to its channel's own size, the root of the mean square over channels."""
    found = []
    for g, e in zip(got, exact, strict=True):
        difference = (g.double() - e.double()).abs().reshape(-1, CHANNELS).amax(0)
        size = e.double().abs().reshape(-1, CHANNELS).amax(0)
        found.append(float((difference / size).square().mean().sqrt()))
    return found


def rounded(name: str, steps: int) -> list[Tensor]:
    return [a.float().double() for a in SLOW[name][1](steps)]


def assert_as_exact(name: str, steps: int, **choices: Any) -> Solve:
    """The error of float64 is too small to be measured: it is that of float32, in its units."""
    arguments = rounded(name, steps)
    exact, _ = results(name, arguments, torch.float64, solver="sequential")
    one_pass, _ = results(name, arguments, torch.float32, solver="sequential")
    got, solve = results(name, arguments, torch.float32, **choices)
    wide, _ = results(name, arguments, torch.float64, **choices)
    unit, expected = 2.0**-23, errors(one_pass, exact)
    outputs = expected[:1], errors(got, exact)[:1], errors(wide, exact)[:1]
    gradients = expected[1:], errors(got, exact)[1:], errors(wide, exact)[1:]
    for of_pass, narrow, of_wide in (outputs, gradients):
        limit = WORSE * max(unit, *of_pass)
        assert max(narrow) <= limit, f"{name} {solve}: {narrow}, in one pass {of_pass}"
        # from one pass: the errors of both
        assert max(of_wide) <= (limit + limit / WORSE) * UNITS, f"{name} {solve}: {of_wide}"
    return solve


@pytest.mark.parametrize("name", SLOW)
def test_segments_are_as_exact_as_one_pass(name: str) -> None:
    assert_as_exact(name, 4096, solver="segmented", segment=256)


@pytest.mark.parametrize("name", ["spring", "low-pass of 50 Hz", "gru", "small"])
def test_so_are_short_ones(name: str) -> None:
    assert_as_exact(name, 600, solver="segmented", segment=16)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [16384, 131072])
@pytest.mark.parametrize("name", SLOW)
def test_so_is_auto(name: str, steps: int) -> None:
    assert_as_exact(name, steps)


def test_a_slow_affine_cell_takes_a_sweep_that_corrects_the_scan() -> None:
    _, solve = results("spring", rounded("spring", 4096), torch.float32, **SEGMENTED)
    assert solve.sweeps in (3, 4)
    assert solve.sequential_from is None


def test_where_states_are_forgotten_one_sweep_is_enough() -> None:
    arguments = [noise(4096, seed) for seed in range(3)] + all_channels(0.5, 0.5, 0.5)
    for dtype in (torch.float32, torch.float64):
        _, solve = results("gru", arguments, dtype, **SEGMENTED)
        assert solve.sweeps == 1


SEGMENTED: dict[str, Any] = {"solver": "segmented", "segment": 256}


# --- sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e6, 1e30])
def test_units_change_nothing_but_the_size(size: float) -> None:
    """A power of two scales without rounding, so that even the bits agree."""
    scale = 2.0 ** round(math.log2(size))
    x, a = noise(2048).float(), all_channels(0.999)[0].float()
    compiled = made("leaky integrator")
    expected = compiled(x, a, **SEGMENTED)
    assert torch.equal(compiled(x * scale, a, **SEGMENTED), expected * scale)


def test_a_state_that_fades_keeps_its_digits() -> None:
    x, a = torch.full((1, 4096, 1), 1e-12), torch.tensor([0.995])
    compiled = rnncc.compile(fading)
    one_pass = compiled(x, a, solver="sequential")
    segments = compiled(x, a, solver="segmented", segment=64)
    assert (one_pass - segments).abs().max() <= 2e-5  # of -20: two units in the last place of y


@pytest.mark.parametrize("value", [-1.0, 0.0, math.nan])
def test_a_gradient_that_is_not_finite_cuts_off_no_other_state(value: float) -> None:
    compiled = rnncc.compile(rooted)
    x = torch.full((1, 200, 1), value, dtype=torch.float64)
    found = []
    for choices in ({"solver": "sequential"}, {"solver": "segmented", "segment": 8}):
        s = torch.full((1, 1), 0.5, dtype=torch.float64, requires_grad=True)
        q = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
        y, (last, _) = compiled(x, h0=(s, q), return_state=True, **choices)
        (y.sum() + last.sum()).backward()
        assert s.grad is not None
        found.append(s.grad.item())
    assert found[0] != 0
    assert found[1] == pytest.approx(found[0], rel=1e-12)


def test_a_large_gradient_between_two_borders_passes_them() -> None:
    """The steps after a border show nothing of it."""
    x, a = noise(2048).requires_grad_(), all_channels(0.75)[0]
    weights = torch.full_like(x, 1e-8).detach()
    weights[:, 512 + 200] = 1e12
    expected = []
    for choices in ({"solver": "sequential"}, SEGMENTED):
        (made("leaky integrator")(x, a, **choices) * weights).sum().backward()
        assert x.grad is not None
        expected.append(x.grad[:, :512].clone())
        x.grad = None
    assert torch.allclose(expected[1], expected[0], rtol=1e-10, atol=0)
