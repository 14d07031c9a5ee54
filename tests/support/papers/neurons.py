"""Neurons, written from their papers."""

from __future__ import annotations

from math import cosh, exp, expm1
from typing import Any

import numpy as np

from tests.support.neurons import Array, Values


def hodgkin_huxley_1952(
    states: list[float],
    x: Values,
    *,
    C: float = 1.0,
    g_Na: float = 120.0,
    g_K: float = 36.0,
    g_L: float = 0.3,
    E_Na: float = 50.0,
    E_K: float = -77.0,
    E_L: float = -54.387,
    dt: float = 0.025,
) -> tuple[list[float], float]:
    """In the signs of 1952: V is what the membrane lies below its rest, inward current negative."""
    v, m, h, n = states
    V = -(v + 65)
    alpha = {
        "m": 0.1 * (V + 25) / expm1((V + 25) / 10),
        "h": 0.07 * exp(V / 20),
        "n": 0.01 * (V + 10) / expm1((V + 10) / 10),
    }
    beta = {"m": 4 * exp(V / 18), "h": 1 / (exp((V + 30) / 10) + 1), "n": 0.125 * exp(V / 80)}
    gates = []
    for name, gate in (("m", m), ("h", h), ("n", n)):
        total = alpha[name] + beta[name]
        aim = alpha[name] / total
        gates.append(aim - (aim - gate) * exp(-dt * total))
    conductances = g_Na * gates[0] ** 3 * gates[1], g_K * gates[2] ** 4, g_L
    total = sum(conductances)
    pull = sum(-g * (E + 65) for g, E in zip(conductances, (E_Na, E_K, E_L), strict=True))
    aim = (pull - x["I"]) / total
    V = aim - (aim - V) * exp(-dt / (C / total))
    return [-V - 65, *gates], -V - 65


def morris_lecar_rates(
    v: float,
    w: float,
    current: float,
    *,
    C: float = 20.0,
    g_Ca: float = 4.4,
    g_K: float = 8.0,
    g_L: float = 2.0,
    E_Ca: float = 120.0,
    E_K: float = -84.0,
    E_L: float = -60.0,
    V_1: float = -1.2,
    V_2: float = 18.0,
    V_3: float = 2.0,
    V_4: float = 30.0,
    phi: float = 0.04,
) -> tuple[float, float]:
    """Of v and w, with tau_w as the paper's 1 / cosh, in exponentials."""
    opening = 1 / (1 + exp(-2 * (v - V_1) / V_2))
    aim = 1 / (1 + exp(-2 * (v - V_3) / V_4))
    tau = 1 / cosh((v - V_3) / V_4 / 2)
    ionic = g_Ca * opening * (v - E_Ca) + g_K * w * (v - E_K) + g_L * (v - E_L)
    return (current - ionic) / C, phi * (aim - w) / tau


def morris_lecar_1981(
    states: list[float], x: Values, *, dt: float = 0.1, **constants: float
) -> tuple[list[float], float]:
    v, w = states
    dv, dw = morris_lecar_rates(v, w, x["I"], **constants)
    return [v + dt * dv, w + dt * dw], v + dt * dv


def hindmarsh_rose_1984(
    states: list[float],
    values: Values,
    *,
    a: float = 1.0,
    b: float = 3.0,
    c: float = 1.0,
    d: float = 5.0,
    r: float = 0.001,
    s: float = 4.0,
    x_1: float = -1.6,
    dt: float = 0.02,
) -> tuple[list[float], float]:
    x, y, z = states
    x = x + dt * (y + x * x * (b - a * x) + values["I"] - z)
    y = y + dt * ((c - y) - d * x * x)
    z = z + dt * r * (s * x - s * x_1 - z)
    return [x, y, z], x


def wilson_cowan_rates(
    s: Array,
    P: Any,
    Q: Any,
    *,
    c_1: float = 16.0,
    c_2: float = 12.0,
    c_3: float = 15.0,
    c_4: float = 3.0,
    a_e: float = 1.3,
    theta_e: float = 4.0,
    a_i: float = 2.0,
    theta_i: float = 3.7,
    r_e: float = 1.0,
    r_i: float = 1.0,
    tau: float = 8.0,
) -> Array:
    """Of the shares E and I, in 1/ms."""

    def response(x: Any, a: float, theta: float) -> Any:
        return 1 / (1 + np.exp(-a * (x - theta))) - 1 / (1 + np.exp(a * theta))

    e, i = s
    free_e = 1 - 1 / (1 + exp(a_e * theta_e)) - r_e * e
    free_i = 1 - 1 / (1 + exp(a_i * theta_i)) - r_i * i
    to_e = free_e * response(c_1 * e - c_2 * i + P, a_e, theta_e)
    to_i = free_i * response(c_3 * e - c_4 * i + Q, a_i, theta_i)
    return np.stack([to_e - e, to_i - i]) / tau


def wilson_cowan_1972(
    states: list[float], x: Values, *, dt: float = 0.25, **constants: float
) -> tuple[list[float], float]:
    s = np.array(states)
    euler = s + dt * wilson_cowan_rates(s, x["P"], x["Q"], **constants)
    s = (s + euler + dt * wilson_cowan_rates(euler, x["P"], x["Q"], **constants)) / 2
    return s.tolist(), s[0]
