"""Cells in continuous time, written from their papers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Values = dict[str, Array]


def sigma(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def co_rnn(
    v: Values,
    z: Array,
    y: Array,
    *,
    dt: float = 0.042,
    gamma: float = 2.7,
    epsilon: float = 4.7,
) -> tuple[Array, ...]:
    acceleration = np.tanh(v["w"] * y + v["w_z"] * z + v["x"]) - gamma * y - epsilon * z
    return z + dt * acceleration, y + dt * (z + dt * acceleration)


def lem(v: Values, z: Array, y: Array, *, dt: float = 1.0) -> tuple[Array, ...]:
    dt_n, dt_bar = dt * sigma(v["w1"] * y + v["x1"]), dt * sigma(v["w2"] * y + v["x2"])
    z = (1 - dt_n) * z + dt_n * np.tanh(v["wz"] * y + v["xz"])
    return z, (1 - dt_bar) * y + dt_bar * np.tanh(v["wy"] * z + v["xy"])


def unicornn(
    v: Values, z: Array, y: Array, *, dt: float = 0.19, alpha: float = 30.65
) -> tuple[Array, ...]:
    z = z - dt * sigma(v["c"]) * (np.tanh(v["w"] * y + v["x"]) + alpha * y)
    return z, y + dt * sigma(v["c"]) * z


def antisymmetric_rnn(
    v: Values, *pair: Array, epsilon: float = 0.1, gamma: float = 0.01
) -> tuple[Array, ...]:
    """With dense matrices: all u, then all v, are one state of 2 N channels."""
    n = pair[0].shape[-1]
    W = np.zeros((2 * n, 2 * n))
    W[:n, n:] = np.diag(v["a"] + 0.3)
    W[n:, :n] = np.diag(np.full(n, 0.3))  # the symmetric part of W doesn't count
    M = W - W.T - gamma * np.eye(2 * n)
    h = np.concatenate(pair, -1)
    h = h + epsilon * np.tanh(h @ M.T + np.concatenate([v["xu"], v["xv"]], -1))
    return h[:, :n], h[:, n:]


def phased_lstm(v: Values, c: Array, h: Array, *, alpha: float = 0.001) -> tuple[Array, ...]:
    """The gate as in the authors' code, by the time within the cycle."""
    tau = np.abs(v["tau"])
    within = np.mod(v["t"] - v["s"], tau)
    middle, end = np.abs(v["r_on"]) * tau / 2, np.abs(v["r_on"]) * tau
    falling = np.where(within <= end, (end - within) / middle, alpha * within / tau)
    k = np.where(within <= middle, within / middle, falling)
    i, f = (sigma(v["x" + g] + v["r" + g] * h + v["p" + g] * c) for g in "if")
    c_tilde = f * c + i * np.tanh(v["xz"] + v["rz"] * h)
    h_tilde = sigma(v["xo"] + v["ro"] * h + v["po"] * c_tilde) * np.tanh(c_tilde)
    return c + k * (c_tilde - c), h + k * (h_tilde - h)


def phase(v: Values, theta: Array, *, dt: float = 0.1) -> tuple[Array, ...]:
    pull = np.sin(v["psi"]) * np.cos(theta) - np.cos(v["psi"]) * np.sin(theta)
    return (theta + dt * v["omega"] + dt * v["K"] * pull,)


def van_der_pol(v: Values, x: Array, w: Array, *, dt: float = 0.05) -> tuple[Array, ...]:
    """With the restoring force apart: over a step it changes x by dt^2 (I - x)."""
    force = v["I"] - x
    slope = v["mu"] * (x - x**3 / 3) - w
    return x + dt * slope + dt**2 * force, w - dt * force


def stuart_landau(v: Values, re: Array, im: Array, *, dt: float = 0.1) -> tuple[Array, ...]:
    z = re + 1j * im
    grown = z + dt * (v["mu"] - np.abs(z) ** 2) * z
    z = np.exp(1j * v["omega"] * dt) * grown + dt * v["I"]
    return z.real, z.imag


def fitzhugh_nagumo(
    v: Values,
    u: Array,
    w: Array,
    *,
    a: float = 0.7,
    b: float = 0.8,
    tau: float = 12.5,
    drive: float = 0.5,
    dt: float = 0.1,
) -> tuple[Array, ...]:
    """With the recovery's rate phi = 0.08 instead of its time constant."""
    phi = 1 / tau
    du, dw = u - u**3 / 3 - w + v["I"] + drive, phi * (u + a - b * w)
    return u + dt * du, w + dt * dw
