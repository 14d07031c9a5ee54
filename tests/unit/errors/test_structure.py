"""Channels that couple: every refusal word for word, with a witness and a fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from rnncc.calculus import structure
from rnncc.errors import RnnccError
from tests.support.cells import BODY_LINE, DEF_LINE, SIGNATURE
from tests.support.refusals import (
    Case,
    compile_case,
    message_of,
    missed,
)

ALONE = "A fused solver needs each channel, or each group of k channels, to stand alone."
WAYS_OUT = (
    "mix within groups with Matrix(block=k), k * states <= 64, "
    "or mix outside the cell (a Linear before or after it)"
)
ONE_THREAD = "One thread of a fused solver takes a block, so channels x states must be <= 64."
SMALLER = "a smaller block, one block for all, or fewer states"


def coupled(seen: str, body: str, signature: str = SIGNATURE, line: int = BODY_LINE) -> Case:
    return Case(f"channels couple: {seen}", ALONE, WAYS_OUT, body, signature, line=line)


STRUCTURE = {
    "a dense matrix": coupled(
        "d h[0] / d h[1] = R[0, 1]*(1 - u[0]**2)",
        "u = tanh(R @ h)\nreturn u + x",
        "h: State, x: Input, R: Matrix",
    ),
    "a shift": coupled("d h[1] / d h[0] = a[1]*x[1]", "return a * x * shift(h, 1)"),
    "a shift back": coupled("d h[0] / d h[1] = a[0]*x[0]", "return a * x * shift(h, -1)"),
    "a mean": coupled("d h[0] / d h[1] = a[0]*x[0]/3", "return a * x * mean(h)"),
    "a mean in a let": coupled(
        "d h[0] / d h[1] = a[0]/3",
        "u = mean(h)  # over channels\nreturn a * u + x",
    ),
    "a shift of an input": coupled("h_next = a*h + shift(x, 1)", "return a * h + shift(x, 1)"),
    "a far shift": coupled("h_next = a*h*x + shift(h, 90)", "return shift(h, 90) + a * h * x"),
    "a dense matrix of an input": coupled(
        "u = (R @ x)", "u = R @ x\nreturn h + u", "h: State, x: Input, R: Matrix"
    ),
    "a block too large": Case(
        "groups of 80 channels (R: block=80) with 1 state give blocks of 80",
        ONE_THREAD,
        SMALLER,
        "u = a * h\nreturn R @ u + x",
        "h: State, x: Input, a: Param, R: Matrix(block=80)",
        line=BODY_LINE + 1,
    ),
    "blocks that don't fit each other": Case(
        "groups of 35 channels (R: block=5, Q: block=7) with 2 states give blocks of 70",
        ONE_THREAD,
        SMALLER,
        "return R @ h + x, Q @ g",
        "h: State, g: State, x: Input, R: Matrix(block=5), Q: Matrix(block=7)",
    ),
    "too many states": Case(
        "65 states give blocks of 65",
        ONE_THREAD,
        "fewer states",
        f"return {', '.join(f's{i}' for i in range(1, 65))}, s0 + x",
        ", ".join([*(f"s{i}: State" for i in range(65)), "x: Input"]),
        line=DEF_LINE,
    ),
}  # fmt: skip  # fmt: skip


@pytest.mark.parametrize("case", STRUCTURE)
def test_channels_that_couple_are_refused_with_a_witness(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert message_of(STRUCTURE[case], tmp_path, monkeypatch) == STRUCTURE[case].text()


def test_every_place_that_reports_a_fault_has_a_case_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> None:
        for case in STRUCTURE.values():
            with pytest.raises(RnnccError):
                compile_case(case, tmp_path)

    assert missed((structure,), run, monkeypatch) == []
