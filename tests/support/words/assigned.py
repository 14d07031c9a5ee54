"""Cells that assign again, have odd names or begin at learned values, and steps of PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rnncc import Input, Param, State, cell, constant, sigmoid, tanh, uniform

HALF = np.float64(0.5)


@cell
def substeps(h: State, x: Input, a: Param):
    for _ in range(4):
        h += 0.25 * (tanh(a * h + x) - h)
    return h


def substeps_step(h: Any, v: Any) -> Any:
    (h,) = h
    for _ in range(4):
        h = h + 0.25 * (torch.tanh(v.a * h + v.x) - h)
    return (h,), (h,)


@cell
def horner(h: State, x: Input, a: Param, b: Param):
    y = 0.1
    for c in (a, b, 0.5):
        y = y * tanh(h) + c
    y *= tanh(x)
    return y


def horner_step(h: Any, v: Any) -> Any:
    t = torch.tanh(h[0])
    new = (((0.1 * t + v.a) * t + v.b) * t + 0.5) * torch.tanh(v.x)
    return (new,), (new,)


@cell
def swapped(p: State, q: State, x: Input, a: Param):
    p, q = q, p
    p = sigmoid(a) * p + x
    q -= 0.3 * p
    return p, q


def swapped_step(h: Any, v: Any) -> Any:
    p = torch.sigmoid(v.a) * h[1] + v.x
    q = h[0] - 0.3 * p
    return (p, q), (q,)


@cell
def greek(h: State, x: Input, α: Param, β: Param):
    γ = sigmoid(α * h + x)
    return γ * h + (1 - γ) * tanh(β * x)


def greek_step(h: Any, v: Any) -> Any:
    gate = torch.sigmoid(v.α * h[0] + v.x)
    new = gate * h[0] + (1 - gate) * torch.tanh(v.β * v.x)
    return (new,), (new,)


@cell
def reserved(h: State, x: Input, long: Param):
    new = tanh(long * h + x)
    this = new * new
    default = 0.5 * this + new
    return default - 0.1 * h


def reserved_step(h: Any, v: Any) -> Any:
    t = torch.tanh(v.long * h[0] + v.x)
    new = 0.5 * t * t + t - 0.1 * h[0]
    return (new,), (new,)


@cell
def numbers_of_numpy(h: State, x: Input, a: Param):
    return HALF * h + np.float32(0.25) * tanh(a * h + x) - x / np.int64(4)


def numbers_of_numpy_step(h: Any, v: Any) -> Any:
    new = 0.5 * h[0] + 0.25 * torch.tanh(v.a * h[0] + v.x) - v.x / 4
    return (new,), (new,)


@cell
def learned_start(h: State(init=Param), x: Input, a: Param):
    return tanh(a * h + x)


def learned_start_step(h: Any, v: Any) -> Any:
    new = torch.tanh(v.a * h[0] + v.x)
    return (new,), (new,)


@cell
def shared_start(
    c: State(init=Param(shared=True, init=constant(0.3))), h: State(init=Param),
    x: Input, f: Param,
):  # fmt: skip
    c = sigmoid(f + x) * c + x
    return c, tanh(c) - 0.1 * h


def shared_start_step(h: Any, v: Any) -> Any:
    c = torch.sigmoid(v.f + v.x) * h[0] + v.x
    h = torch.tanh(c) - 0.1 * h[1]
    return (c, h), (h,)


@cell
def rk4(u: State, w: State, x: Input, mu: Param(init=uniform(0.2, 1))):
    """Van der Pol's oscillator by Runge and Kutta's method of order four."""
    k, du, dw = [], 0, 0
    for part in (0, 0.5, 0.5, 1):
        p, q = u + 0.1 * part * du, w + 0.1 * part * dw
        du, dw = q, mu * (1 - p * p) * q - p + x
        k.append((du, dw))
    u += 0.1 / 6 * (k[0][0] + 2 * k[1][0] + 2 * k[2][0] + k[3][0])
    w += 0.1 / 6 * (k[0][1] + 2 * k[1][1] + 2 * k[2][1] + k[3][1])
    return u, w


def rk4_step(h: Any, v: Any) -> Any:
    def slope(z: Any) -> Any:
        return torch.stack([z[1], v.mu * (1 - z[0] ** 2) * z[1] - z[0] + v.x])

    z = torch.stack(h)
    a = slope(z)
    b = slope(z + 0.05 * a)
    c = slope(z + 0.05 * b)
    d = slope(z + 0.1 * c)
    new = tuple(z + 0.1 / 6 * (a + 2 * b + 2 * c + d))
    return new, new[1:]


PAIRS = (
    (substeps, substeps_step),
    (horner, horner_step),
    (swapped, swapped_step),
    (greek, greek_step),
    (reserved, reserved_step),
    (numbers_of_numpy, numbers_of_numpy_step),
    (learned_start, learned_start_step),
    (shared_start, shared_start_step),
    (rk4, rk4_step),
)
