"""Gated cells, written from their papers."""

from __future__ import annotations

import math
from typing import Any

import numpy


def hopfield_step(
    states: Any, inputs: Any, weights: Any, *, tau: float = 1.0, dt: float = 0.1
) -> Any:
    """Hopfield 1984, equation 5, neuron by neuron, with R = 1, C = tau, and an Euler step."""
    (u,), (current,), (T,) = states, inputs, weights
    after = u.copy()
    for i in range(len(u)):
        slope = current[i] - u[i]
        for j in range(len(u)):
            slope += T[i, j] * math.tanh(u[j])
        after[i] += dt * (slope / tau)
    return [after], numpy.tanh(after)
