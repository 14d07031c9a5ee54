"""Filters, series and catchments, one value at a time, written from their papers."""

from __future__ import annotations

import math

import numpy as np

from tests.support.neurons import Values


def biquad_1998(states: list[float], x: Values) -> tuple[list[float], float]:
    """The cookbook's coefficients, divided by a_0, in the transposed direct form II."""
    s1, s2 = states
    b, a = low_pass(x["f"], x["r"])
    y = b[0] * x["x"] + s1
    return [b[1] * x["x"] - a[1] * y + s2, b[2] * x["x"] - a[2] * y], y


def low_pass(f: float, r: float) -> tuple[list[float], list[float]]:
    w0 = math.pi / (1 + math.exp(-f))
    alpha = math.sin(w0) / (2 * (0.5 + math.log1p(math.exp(r))))
    b = [(1 - math.cos(w0)) / 2, 1 - math.cos(w0), (1 - math.cos(w0)) / 2]
    a = [1 + alpha, -2 * math.cos(w0), 1 - alpha]
    return [v / a[0] for v in b], [v / a[0] for v in a]


def kalman_1960(states: list[float], x: Values) -> tuple[list[float], tuple[float, float]]:
    """Predict and correct, with matrices."""
    mean, P = np.array(states[:2]), np.array([states[2:4], states[3:5]])
    F, H = np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([1.0, 0.0])
    Q = np.diag([math.exp(x["log_level"]), math.exp(x["log_slope"])])
    mean, P = F @ mean, F @ P @ F.T + Q
    S = H @ P @ H + math.exp(x["log_noise"])
    error = x["z"] - H @ mean
    K = P @ H / S
    mean, P = mean + K * error, P - np.outer(K, K) * S
    density = math.exp(-(error**2) / (2 * S)) / math.sqrt(2 * math.pi * S)
    return [*mean, P[0, 0], P[0, 1], P[1, 1]], (mean[0], -math.log(density))


def egarch_1991(states: list[float], x: Values) -> tuple[list[float], float]:
    """With the variance itself: ln s' = omega + beta ln s + gamma z + alpha (|z| - E|z|)."""
    variance = math.exp(states[0])
    z = x["r"] / math.sqrt(variance)
    g = x["gamma"] * z + x["alpha"] * (math.fabs(z) - (2 / math.pi) ** 0.5)
    h = x["omega"] + x["beta"] * math.log(variance) + g
    return [h], h


def hbv_1976(states: list[float], x: Values) -> tuple[list[float], float]:
    """Bucket by bucket, by branches; what is above field capacity goes to the upper zone."""
    soil, upper, lower = states
    wetness = min(max(soil / x["FC"], 1e-6), 1.0)
    recharge = x["P"] * math.pow(wetness, x["beta"])
    soil += x["P"] - recharge
    if soil > x["FC"]:
        recharge += soil - x["FC"]
        soil = x["FC"]
    dry = soil < x["LP"] * x["FC"]
    evaporation = x["E"] * (soil / (x["LP"] * x["FC"]) if dry else 1.0)
    soil = max(soil - evaporation, 0.0)
    upper += recharge
    percolation = x["PERC"] if upper > x["PERC"] else upper
    upper -= percolation
    fast = x["k0"] * (upper - x["UZL"]) if upper > x["UZL"] else 0.0
    fast = min(fast + x["k1"] * upper, upper)
    lower += percolation
    base = x["k2"] * lower
    return [soil, upper - fast, lower - base], fast + base


def refractory_lif(
    states: list[float], x: Values, *, threshold: float = 1.0, rest: float = 3
) -> tuple[list[float], float]:
    v, wait = states
    if wait > 0:
        return [0.0, wait - 1], 0.0
    v = x["beta"] * v + x["I"]
    return ([0.0, rest], 1.0) if v > threshold else ([v, 0.0], 0.0)


def compressor_2012(
    states: list[float], x: Values, *, knee: float = 6.0
) -> tuple[list[float], float]:
    """The static curve with its soft knee, and the smooth branching detector."""
    (g,) = states
    level = 20 * math.log10(max(abs(x["x"]), 1e-5))
    T, R = x["threshold"], x["ratio"]
    if 2 * (level - T) < -knee:
        out = level
    elif 2 * abs(level - T) <= knee:
        out = level + (1 / R - 1) * (level - T + knee / 2) ** 2 / (2 * knee)
    else:
        out = T + (level - T) / R
    wanted = level - out
    alpha = math.exp(-1 / (x["attack"] if wanted > g else x["release"]))
    g = alpha * g + (1 - alpha) * wanted
    return [g], x["x"] * 10 ** (-g / 20)


def zoneout_gru_2016(states: list[float], x: Values) -> tuple[list[float], float]:
    """A whole step of a GRU first; then each value is its old one or its new one."""
    (h,) = states
    z = 1 / (1 + math.exp(-(x["xz"] + x["uz"] * h)))
    r = 1 / (1 + math.exp(-(x["xr"] + x["ur"] * h)))
    moved = (1 - z) * math.tanh(x["xc"] + x["uc"] * r * h) + z * h
    h = x["keep"] * h + (1 - x["keep"]) * moved
    return [h], h


def moog_2004(states: list[float], x: Values) -> tuple[list[float], float]:
    """Stage by stage in a loop; a stage's tanh is computed once and saved."""
    stage, saved, feedback, last = states[:4], states[4:7], states[7], states[8]
    old = [*saved, math.tanh(stage[3])]
    signal = math.tanh(x["x"] - 4 * x["r"] * feedback)
    for k in range(4):
        stage[k] += x["g"] * (signal - old[k])
        signal = math.tanh(stage[k])
    half = (stage[3] + last) / 2
    now = [math.tanh(v) for v in stage[:3]]
    return [*stage, *now, half, stage[3]], half


def mackey_glass_1977(
    states: list[float],
    x: Values,
    *,
    beta: float = 0.2,
    gamma: float = 0.1,
    dt: float = 1.0,
    tau: int = 17,
) -> tuple[list[float], float]:
    now, old = states[0], states[int(tau)]
    after = now + dt * (beta * old / (1 + old**10) - gamma * now) + x["u"]
    return [after, *states[:-1]], after
