"""Fit: constants of a model of maxima, found again from times that it predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from rnncc.bench.fit import fit

GUESS = [1.0, 10.0, 100.0]
COUNTS = [(4**i, 3**j, 1) for i in range(5) for j in range(5)]


def model(constants: Sequence[float]) -> list[float]:
    """The larger of two terms, and a third."""
    a, b, c = constants
    return [max(a * i, b * j) + c * k for i, j, k in COUNTS]


@pytest.mark.parametrize(
    "true", [(1.0, 10.0, 100.0), (2.5, 7.0, 30.0), (0.3, 30.0, 250.0)], ids=str
)
def test_constants_are_found_again(true: tuple[float, ...]) -> None:
    assert fit(model, model(true), GUESS) == pytest.approx(true, rel=0.01)


def test_noise_moves_the_constants_little() -> None:
    true = (2.5, 7.0, 30.0)
    times = [t * math.exp(0.03 * math.sin(7 * n)) for n, t in enumerate(model(true))]
    assert fit(model, times, GUESS) == pytest.approx(true, rel=0.05)


def test_a_few_wild_times_move_the_constants_little() -> None:
    true = (2.5, 7.0, 30.0)
    times = [t * (5 if n % 8 == 3 else 1) for n, t in enumerate(model(true))]
    assert fit(model, times, GUESS) == pytest.approx(true, rel=0.1)


def test_a_constant_on_which_no_time_depends_stays_at_its_guess() -> None:
    def without_c(constants: Sequence[float]) -> list[float]:
        return model((*constants[:2], 50.0))

    found = fit(without_c, model((2.5, 7.0, 50.0)), GUESS)
    assert found[2] == pytest.approx(GUESS[2], rel=0.01)
    assert found[:2] == pytest.approx((2.5, 7.0), rel=0.01)
