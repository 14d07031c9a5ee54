"""Fit: a model with positive constants, and times -> the constants that explain them best.

Levenberg and Marquardt's method on the logarithms of predictions over times: a model of maxima is
not linear in its constants, and times span orders of magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Model = Callable[[Sequence[float]], Sequence[float]]  # constants -> predicted times

OUTLIER = 0.15  # deviations beyond it, relative, count by their size and not by its square
PRIOR = 0.02  # the pull towards the first guess, which decides what no time depends on
SMALL = 1e-3  # of a change by which derivatives are taken, relative
GOOD = 0.03  # a deviation with which other beginnings need not be tried
ITERATIONS = 30
MOST_DAMPING = 1e6


def fit(model: Model, times: Sequence[float], guess: Sequence[float]) -> list[float]:
    """The constants near which the model's predictions deviate least from the times, in proportion.

    Args:
        guess: the first constants, all above 0; those found may lie far away from them.
    """
    problem = _Problem(model, [math.log(time) for time in times], list(guess))
    ends: list[Tensor] = []
    for beginning in problem.beginnings():
        ends.append(problem.descend(beginning))
        if problem.loss(ends[-1]) < len(times) * GOOD**2:
            break
    return problem.constants(min(ends, key=problem.loss))


@dataclass(frozen=True)
class _Problem:
    """Points are the logarithms of constants over those of the guess."""

    model: Model
    times: list[float]
    guess: list[float]

    def beginnings(self) -> list[Tensor]:
        """The guess, and all of its constants twice and half as large."""
        zero = torch.zeros(len(self.guess), dtype=torch.float64)
        return [zero, zero + math.log(2.0), zero - math.log(2.0)]

    def constants(self, point: Tensor) -> list[float]:
        return [g * math.exp(p) for g, p in zip(self.guess, point.tolist(), strict=True)]

    def deviations(self, point: Tensor) -> Tensor:
        found = self.model(self.constants(point))
        logs = [math.log(p) - t for p, t in zip(found, self.times, strict=True)]
        return torch.tensor(logs, dtype=torch.float64)

    def loss(self, point: Tensor) -> float:
        """Huber's, and the prior."""
        size = self.deviations(point).abs()
        beyond = OUTLIER * (2 * size - OUTLIER)
        huber = torch.where(size > OUTLIER, beyond, size**2).sum()
        return float(huber + PRIOR**2 * (point**2).sum())

    def descend(self, point: Tensor) -> Tensor:
        loss, damping = self.loss(point), 1e-2
        for _ in range(ITERATIONS):
            rows, aims = self.linear(point)
            better = False
            while not better and damping < MOST_DAMPING:
                step = _damped(rows, aims, damping)
                found = self.loss(point + step)
                better = found < loss
                damping *= 0.3 if better else 4.0
            if not better:
                break
            gained, loss, point = loss - found, found, point + step
            if gained < 1e-4 * loss:
                break
        return point

    def linear(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """The derivatives of weighted deviations, and the deviations with the sign turned."""
        here = self.deviations(point)
        columns = []
        for k in range(len(point)):
            there = point.clone()
            there[k] += SMALL
            columns.append((self.deviations(there) - here) / SMALL)
        weights = (OUTLIER / here.abs().clamp(min=OUTLIER)).sqrt()
        prior = PRIOR * torch.eye(len(point), dtype=torch.float64)
        rows = torch.cat([torch.stack(columns, 1) * weights[:, None], prior])
        return rows, -torch.cat([here * weights, PRIOR * point])


def _damped(rows: Tensor, aims: Tensor, damping: float) -> Tensor:
    normal = rows.T @ rows
    damped = normal + damping * torch.diag(normal.diagonal())
    step: Tensor = torch.linalg.solve(damped, rows.T @ aims)
    return step.clamp(-1.0, 1.0)
