"""Choices: the options of each solver, their values, and their text and back."""

from __future__ import annotations

import inspect
import itertools
from dataclasses import asdict, fields
from typing import Any

import pytest
import torch

from rnncc import ArgumentError
from rnncc.ir.choices import (
    AUTO,
    KINDS,
    ON_FAILURE,
    RULES,
    SOLVERS,
    Choices,
    takes_choices,
    write_choices,
)
from rnncc.lang.names import OPTIONS
from rnncc.nn.functional import run, takes_options
from tests.support.runs import compiled, random_call

GOOD: dict[str, Any] = {
    "segment": 7,
    "iterations": 3,
    "tol": 1e-6,
    "on_failure": "warn",
    "checkpoint": 4,
}
FIRST_ABLE = {
    "segment": "segmented",
    "iterations": "segmented",
    "tol": "segmented",
    "on_failure": "newton",
    "checkpoint": "auto",
}
PAIRS = list(itertools.product(SOLVERS, GOOD))


# --- which solver honours which option -------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "option"), [(s, o) for s, o in PAIRS if s in RULES[o].solvers], ids=str
)
def test_an_option_that_the_solver_uses_is_taken(solver: str, option: str) -> None:
    choices = Choices(solver, **{option: GOOD[option]})
    assert getattr(choices, option) == GOOD[option]


@pytest.mark.parametrize(
    ("solver", "option"), [(s, o) for s, o in PAIRS if s not in RULES[o].solvers], ids=str
)
def test_an_option_that_the_solver_does_not_use_is_refused(solver: str, option: str) -> None:
    with pytest.raises(ArgumentError) as refusal:
        Choices(solver, **{option: GOOD[option]})
    assert str(refusal.value) == (
        f"{option}: got {GOOD[option]!r}, but the solver '{solver}' does not use it.\n"
        f"Fix: leave it out, or solver='{FIRST_ABLE[option]}'"
    )


def test_every_option_is_honoured_by_some_solver_and_each_solver_is_listed() -> None:
    assert {f.name for f in fields(Choices)} - {"solver", "reverse"} == set(GOOD)
    used = {solver for option in GOOD for solver in RULES[option].solvers}
    assert used == set(SOLVERS)


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_takes_reverse_and_checkpoint(solver: str) -> None:
    assert Choices(solver, reverse=True, checkpoint=3).reverse


# --- values ----------------------------------------------------------------------------------

POSITIVE = [0, -3, 2.0, True, "16", 2**63]
RANGE = "expected an int from 1 to 2147483648"
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"solver": "fast"}, "solver: got 'fast', expected one of auto, sequential, segmented, newton"),
    ({"solver": None}, "solver: got None, expected one of auto, sequential, segmented, newton"),
    *(({"solver": "segmented", "segment": v}, f"segment: got {v!r}, {RANGE}")
      for v in POSITIVE),
    *(({"solver": "newton", "iterations": v}, f"iterations: got {v!r}, {RANGE}")
      for v in POSITIVE),
    *(({"checkpoint": v}, f"checkpoint: got {v!r}, {RANGE}") for v in POSITIVE),
    *(({"solver": "newton", "tol": v}, f"tol: got {v!r}, expected a number from 0 to 1")
      for v in (-1e-9, 1.5, 10**400, float("inf"), float("nan"), "1e-6", True)),
    *(({"solver": "newton", "on_failure": v},
       f"on_failure: got {v!r}, expected one of raise, warn, sequential")
      for v in ("ignore", True, 0)),
    *(({"reverse": v}, f"reverse: got {v!r}, expected True or False") for v in (None, 1, "yes")),
]  # fmt: skip


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=str)
def test_a_value_that_does_not_fit_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError) as refusal:
        Choices(**given)
    seen, _, fix = str(refusal.value).partition(".\nFix: ")
    assert seen == message
    assert fix


@pytest.mark.parametrize("on_failure", ON_FAILURE)
@pytest.mark.parametrize("tol", [0, 0.0, 1, 1e-12])
def test_a_value_that_fits_is_kept(tol: float, on_failure: str) -> None:
    choices = Choices("newton", iterations=1, tol=tol, on_failure=on_failure)
    assert (choices.iterations, choices.tol, choices.on_failure) == (1, tol, on_failure)


def test_the_functional_form_refuses_in_the_same_words() -> None:
    call = random_call("para_gru", (1, 5, 4), torch.float32)
    with pytest.raises(ArgumentError, match="segment: got 4, but the solver 'auto' does not"):
        compiled("para_gru")(**call.arguments, segment=4)
    with pytest.raises(ArgumentError, match="segment: got 0, expected an int from 1 to 2147483648"):
        compiled("para_gru")(**call.arguments, solver="segmented", segment=0)


# --- as text ---------------------------------------------------------------------------------

WRITTEN = {
    AUTO: "solver=auto",
    Choices("sequential", reverse=True): "solver=sequential reverse=True",
    Choices("segmented", segment=7, tol=0): "solver=segmented segment=7 tol=0.0",
    Choices("newton", iterations=12, tol=3e-7, on_failure="sequential", checkpoint=5): (
        "solver=newton iterations=12 tol=3e-07 on_failure=sequential checkpoint=5"
    ),
}


@pytest.mark.parametrize(("choices", "text"), WRITTEN.items(), ids=str)
def test_choices_are_text_and_read_back_as_they_were(choices: Choices, text: str) -> None:
    assert write_choices(choices) == choices.text == text
    assert Choices.read(text) == choices
    assert type(Choices.read(text).reverse) is bool


def test_every_number_is_read_back_to_the_bit() -> None:
    for tol in (0.1, 1 / 3, 5e-324, 1.0, 2.0**-52):
        choices = Choices("segmented", tol=tol)
        assert Choices.read(write_choices(choices)).tol == tol


def test_the_text_knows_every_option() -> None:
    assert tuple(KINDS) == tuple(f.name for f in fields(Choices))


# --- in signatures ---------------------------------------------------------------------------


def test_a_function_shows_the_options_that_it_takes() -> None:
    @takes_choices
    def function(x: int, *, reverse: bool = False, **choices: Any) -> None: ...

    parameters = inspect.signature(function).parameters
    assert list(parameters) == ["x", "reverse", *(n for n in RULES if n != "reverse")]
    assert {n: parameters[n].default for n in RULES} == asdict(AUTO)
    assert parameters["segment"].annotation == "int | None"


def test_a_function_shows_the_options_of_a_call_that_it_hands_on() -> None:
    @takes_options
    def function(x: int, *, lengths: Any = None, **options: Any) -> None: ...

    parameters = inspect.signature(function).parameters
    others = {n for n, p in inspect.signature(run).parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert {*parameters} == {"x", *others}
    assert others > set(RULES)


def test_an_option_that_there_is_not_is_refused() -> None:
    with pytest.raises(
        ArgumentError, match="odd: no option has this name, expected one of input_size"
    ):
        compiled("para_gru").layer(3, 4, odd=1)
    with pytest.raises(ArgumentError, match=r"Fix: segment=\.\.\."):
        compiled("para_gru").layer(3, 4, segments=1)


def test_names_of_a_cell_leave_every_option_of_a_call_free() -> None:
    parameters = inspect.signature(run).parameters.values()
    assert {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} == OPTIONS
