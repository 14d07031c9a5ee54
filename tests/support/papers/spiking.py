"""Spiking cells, written from their papers."""

from __future__ import annotations

from math import exp

from tests.support.neurons import (
    Values,
)


def alif_2018(
    states: list[float],
    x: Values,
    *,
    b0: float = 0.01,
    beta: float = 1.8,
    tau_m: float = 20.0,
    tau_a: float = 700.0,
    dt: float = 1.0,
) -> tuple[list[float], float]:
    """In the order of the authors' program: adaptation, threshold, membrane, spike."""
    v, b, z = states
    b = b + (1 - exp(-dt / tau_a)) * (z - b)
    threshold = b0 + beta * b
    v = x["I"] + exp(-dt / tau_m) * (v - x["I"]) - (threshold if z else 0)
    z = 1.0 if v > threshold else 0.0
    return [v, b, z], z


def se_adlif_2024(
    states: list[float], x: Values, *, theta: float = 1.0, q: float = 120.0, dt: float = 1.0
) -> tuple[list[float], float]:
    u, w = states
    tau_u = 25 * x["m_u"] + 5 * (1 - x["m_u"])
    tau_w = 300 * x["m_w"] + 60 * (1 - x["m_w"])
    u = x["I"] - w + exp(-dt / tau_u) * (u - x["I"] + w)
    z = 1.0 if u > theta else 0.0
    u = 0.0 if z else u
    return [u, w + (1 - exp(-dt / tau_w)) * (q * (x["a"] * u + x["b"] * z) - w)], z


def tc_lif_2024(
    states: list[float], x: Values, *, gamma: float = 0.5, theta: float = 1.0
) -> tuple[list[float], float]:
    """With the betas of the paper, the first negative; resets as in the authors' program."""
    dendrite, soma = states
    beta_1, beta_2 = -1 / (1 + exp(-x["c_1"])), 1 / (1 + exp(-x["c_2"]))
    dendrite = dendrite + beta_1 * soma + x["I"]
    soma = soma + beta_2 * dendrite
    s = 1.0 if soma >= theta else 0.0
    return [dendrite - gamma * s, soma - theta * s], s


def adex_2005(
    states: list[float],
    x: Values,
    *,
    C: float = 281.0,
    g_L: float = 30.0,
    E_L: float = -70.6,
    V_T: float = -50.4,
    Delta_T: float = 2.0,
    a: float = 4.0,
    tau_w: float = 144.0,
    b: float = 80.5,
    V_r: float = -70.6,
    V_peak: float = -40.4,
    dt: float = 0.1,
) -> tuple[list[float], float]:
    """Divided by the leak: times in ms, the rest in mV."""
    v, w = states
    tau_m, upstroke = C / g_L, Delta_T * exp((v - V_T) / Delta_T)
    v_new = v + dt / tau_m * (E_L - v + upstroke + (x["I"] - w) / g_L)
    w = w + dt / tau_w * (a * (v - E_L) - w)
    return ([V_r, w + b], 1.0) if v_new > V_peak else ([v_new, w], 0.0)
