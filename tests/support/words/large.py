"""Cells so large that a C++ compiler gets each function but once, and steps of PyTorch."""

from __future__ import annotations

from typing import Any

import torch

from rnncc import Input, Param, State, cell, exp, exprel, logsumexp, sigmoid, uniform


@cell
def crf(a: State(size=8), e: Input(size=8), A: Param(size=(8, 8))):
    """The forward recursion of a linear-chain CRF of eight labels (Lafferty et al. 2001)."""
    a = [e[j] + logsumexp([a[i] + A[i, j] for i in range(8)]) for j in range(8)]
    return {"a": a, "y": logsumexp(a)}


def crf_step(h: Any, v: Any) -> Any:
    new = v.e + (h[0].unsqueeze(-1) + v.A).logsumexp(-2)
    return (new,), (new.logsumexp(-1),)


def slopes(v: Any, m: Any, h: Any, n: Any, x: Any) -> Any:
    """Of the potential in units of 100 mV around -65 mV, and of the gates, per ms."""
    v = 100 * v
    alpha = 1 / exprel(2.5 - v / 10), 0.07 * exp(-v / 20), 0.1 / exprel(1 - v / 10)
    beta = 4 * exp(-v / 18), sigmoid(v / 10 - 3), 0.125 * exp(-v / 80)
    dv = x - 120 * m**3 * h * (v - 115) - 36 * n**4 * (v + 12) - 0.3 * (v - 10.6)
    gates = (a * (1 - g) - b * g for g, a, b in zip((m, h, n), alpha, beta, strict=True))
    return 0.01 * dv, *gates


@cell
def rk4_neuron(
    v: State, m: State(init=0.05), h: State(init=0.6), n: State(init=0.32),
    x: Input(typical=uniform(0, 20)),
):  # fmt: skip
    """Hodgkin and Huxley's neuron (1952) by Runge and Kutta's method of order four."""
    now = [v, m, h, n]
    a = slopes(*now, x)
    b = slopes(*(s + 0.005 * k for s, k in zip(now, a, strict=True)), x)
    c = slopes(*(s + 0.005 * k for s, k in zip(now, b, strict=True)), x)
    d = slopes(*(s + 0.01 * k for s, k in zip(now, c, strict=True)), x)
    every = zip(now, a, b, c, d, strict=True)
    return [s + 0.01 / 6 * (a + 2 * b + 2 * c + d) for s, a, b, c, d in every]


def rk4_neuron_step(h: Any, v: Any) -> Any:
    def slope(z: Any) -> Any:
        u, gates = 100 * z[0], z[1:]
        alpha = [1 / phi(2.5 - u / 10), 0.07 * torch.exp(-u / 20), 0.1 / phi(1 - u / 10)]
        beta = [4 * torch.exp(-u / 18), torch.sigmoid(u / 10 - 3), 0.125 * torch.exp(-u / 80)]
        flow = torch.stack(alpha) * (1 - gates) - torch.stack(beta) * gates
        m, h, n = gates
        du = v.x - 120 * m**3 * h * (u - 115) - 36 * n**4 * (u + 12) - 0.3 * (u - 10.6)
        return torch.cat([0.01 * du.unsqueeze(0), flow])

    z = torch.stack(h)
    a = slope(z)
    b = slope(z + 0.005 * a)
    c = slope(z + 0.005 * b)
    d = slope(z + 0.01 * c)
    new = tuple(z + 0.01 / 6 * (a + 2 * b + 2 * c + d))
    return new, (new[-1],)


def phi(x: Any) -> Any:
    return torch.expm1(x) / x


PAIRS = ((crf, crf_step), (rk4_neuron, rk4_neuron_step))
