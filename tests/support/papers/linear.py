"""Linear recurrences, written from their papers; and how cells are compared with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any]
Values = dict[str, Array]
Step = Callable[..., tuple[tuple[Array, ...], tuple[Array, ...]]]
BATCH, STEPS, CHANNELS = 2, 50, 4


def looped(step: Step, values: Values, start: list[Array]) -> tuple[list[Array], list[Array]]:
    """By a step (values at it, *states) -> (states, outputs)."""
    outputs, along = [], []
    states = tuple(start)
    for t in range(STEPS):
        now = {
            key: v[:, t] if v.ndim == 3 else v[:, t, None] if v.ndim == 2 else v
            for key, v in values.items()
        }
        states, y = step(now, *states)
        outputs.append(y)
        along.append(states)
    stacked = ([np.stack(c, 1) for c in zip(*rows, strict=True)] for rows in (outputs, along))
    return next(stacked), next(stacked)


def assert_same(got: Any, expected: Any) -> None:
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)


def sigma(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def hgrn(v: Values, re: Array, im: Array, *, lower_bound: float = 0.0) -> Any:
    keep = lower_bound * sigma(-v["xf"]) + sigma(v["xf"])
    c = v["xc_re"] * sigma(v["xc_re"]) + 1j * v["xc_im"] * sigma(v["xc_im"])
    h = keep * np.exp(1j * v["theta"]) * (re + 1j * im) + (1 - keep) * c
    return (h.real, h.imag), (h.real, h.imag)


def rg_lru(v: Values, h: Array, *, c: float = 8.0) -> Any:
    a = sigma(v["Lambda"]) ** (c * sigma(v["xr"]))
    h = a * h + np.sqrt(1 - a**2) * (sigma(v["xi"]) * v["x"])
    return (h,), (h,)


def lmu_matrices(theta: float) -> tuple[Array, Array]:
    """A, B of the paper in continuous time, held over one step by a matrix exponential."""
    A, B = np.zeros((6, 6)), np.zeros((6, 1))
    for i in range(6):
        B[i] = (2 * i + 1) * (-1) ** i
        for j in range(6):
            A[i, j] = (2 * i + 1) * (-1 if i < j else (-1) ** (i - j + 1))
    whole = np.block([[A, B], [np.zeros((1, 7))]]) / theta
    held = torch.linalg.matrix_exp(torch.tensor(whole)).numpy()
    return held[:6, :6], held[:6, 6]


def lmu(v: Values, *m: Array, theta: float = 64.0) -> Any:
    A, B = lmu_matrices(theta)
    new = np.einsum("ij,jbn->ibn", A, np.stack(m)) + np.einsum("i,bn->ibn", B, v["u"])
    y = np.einsum("in,ibn->bn", np.stack([v[f"c{i}"] for i in range(6)]), new)
    return tuple(new), (y,)
