"""A few cases of `make fuzz`, always the same; tests/library/test_random.py has the day's."""

from __future__ import annotations

import pytest

from tests.support.fuzz.case import report, run_case

SEED = "692"  # whose cases have every dtype, mix channels, and are emulated once
CASES = 8


@pytest.mark.parametrize("case", range(CASES))
def test_a_random_cell_equals_a_plain_loop(case: int) -> None:
    outcome = run_case(f"{SEED}/{case}")
    assert outcome.findings == [], report(outcome)
