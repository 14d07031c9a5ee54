"""Random cells of the day, drawn by its date: `make fuzz SEED=20261127 CASE=3` repeats one."""

from __future__ import annotations

import datetime

import pytest

from tests.support.fuzz.case import report, run_case

CASES = 60
TODAY = f"{datetime.date.today():%Y%m%d}"


@pytest.mark.parametrize("case", range(CASES))
def test_a_random_cell_of_the_day_equals_a_plain_loop(case: int) -> None:
    outcome = run_case(f"{TODAY}/{case}")
    assert outcome.findings == [], report(outcome)
