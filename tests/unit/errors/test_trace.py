"""A trace: refusals of exceptions, names, results, arguments, each word for word with its fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from rnncc.errors import CellError, RnnccError
from rnncc.lang import trace
from rnncc.lang.names import reserved, unreserved
from tests.support.cells import BODY_LINE, DEF_LINE, SIGNATURE, cell_from, source_of
from tests.support.refusals import (
    Case,
    bad_argument,
    compile_case,
    message_of,
    missed,
)

WITH_MATRIX = "h: State, x: Input, R: Matrix(block=2)"
BRANCH = "A cell's body runs once on symbols, so Python can't branch on their values."
USE_WHERE = "where(condition, a, b); combine conditions with &, | and ~"
CONDITION = "A comparison is a condition, not a value."
NO_CONDITION = "where(condition, 1.0, 0.0), or spike(u) where a gradient should pass"
MATRIX = "A Matrix mixes channels: R @ h, the matrix on the left."
FINITE = "Constants of a cell are finite numbers."
RAW = "The body runs once on symbols of rnncc."
RAW_FIX = "use rnncc's functions (from rnncc import tanh, where, ...) and Python numbers"
UNUSED = "Every argument takes part in the recurrence or in an output."


def branch(seen: str, body: str) -> Case:
    text = f"Python decides on '{seen}' (if, while, and, or, not)"
    return Case(text, BRANCH, USE_WHERE, body)


def condition(body: str, line: int = BODY_LINE) -> Case:
    text = "the condition 'h > 0' is used as a number"
    return Case(text, CONDITION, NO_CONDITION, body, line=line)


def matrix(body: str) -> Case:
    fix = "R @ h, or annotate 'R' as Param for one value per channel"
    return Case("the Matrix 'R' is used without @", MATRIX, fix, body, WITH_MATRIX)


def raw(seen: str, body: str, fix: str = RAW_FIX, before: str = "", line: int = BODY_LINE) -> Case:
    return Case(seen, RAW, fix, body, before=before, line=line)


TRACES = {
    "division by nothing": Case(
        "'h_next' is a*h + zoo*x",
        FINITE,
        "check the arithmetic on constants in this line",
        "return a * h + x / (h - h)",
    ),
    "overflow of constants": Case(
        "'h_next' is a*h + 2.02402253307311e+323*x",
        FINITE,
        "check the arithmetic on constants in this line",
        "return h * a + x / 5e-324",
    ),
    "a namedtuple of other fields": Case(
        "the state 'h' is never assigned",
        "The returned namedtuple has the fields v, z.",
        'return {"h": ..., ...} with the next value of every state',
        "return Pair(a * h, x)",
        before="from collections import namedtuple\nPair = namedtuple('Pair', 'v z')\n",
    ),
    # --- the author's own exceptions ---
    "an unknown function": raw(
        "NameError: name 'sech' is not defined",
        "u = a * h\nreturn sech(u) + x",
        "define the name, or import the function from rnncc",
        line=BODY_LINE + 1,
    ),
    "a missing argument": raw(
        "TypeError: tanh() missing 1 required positional argument: 'x'",
        "return tanh() * a",
        "tanh(x)",
    ),
    "an argument of another name": raw(
        "TypeError: spike() got an unexpected keyword argument 'alpha'",
        "return spike(h, alpha=a) + x",
        "spike(u, surrogate='fast_sigmoid', slope=25.0)",
    ),
    "an exception in a helper": raw(
        "ValueError: mine",
        "return bad(h) * a + x",
        before="def bad(v):\n    raise ValueError('mine')\n",
    ),
    "recursion without end": raw(
        "RecursionError: maximum recursion depth exceeded",
        "return deep(h) * a + x",
        before="def deep(v):\n    return deep(v) + 1\n",
    ),
    **{
        f"random numbers of {module}": Case(
            "the body draws random numbers",
            "It runs once on symbols, so that they would be the same in each step and call.",
            "an input that is given at each step, noise: Input(projected=False); "
            "constants are drawn outside of the cell",
            f"return a * h + x * {call}",
            before=f"import {module}\n",
        )
        for module, call in (
            ("random", "random.random()"),
            ("numpy", "numpy.random.rand()"),
            ("torch", "float(torch.randn(()))"),
        )
    },
    "no gradients": Case(
        "a part of the body is under torch.no_grad",
        "Gradients are derived from the expressions, not recorded by PyTorch.",
        "stop_gradient(e), for an expression e",
        "with torch.no_grad():\n    return a * h + x",
        line=BODY_LINE + 1,
        before="import torch\n",
    ),
    # --- the return ---
    "a set": Case(
        "it returns a set",
        "The next values are in the order of the states, and a set has no order.",
        "return a * h + x",
        "return {a * h + x}",
    ),
    "a generator": Case(
        "it is a generator (yield)",
        "A call of a cell is one step, and returns the next states.",
        "return a * h + x",
        "yield a * h + x",
    ),
    "a tuple within a tuple": Case(
        "it returns a tuple within a tuple, as (y, (h, c))",
        "A cell returns the next h, or a dict of them and of outputs.",
        'return {"h": a * h, "y": x}',
        "return x, (a * h,)",
    ),
    "a state never assigned": Case(
        "the state 'h' is never assigned",
        "The returned dict has the keys y.",
        'return {"h": ..., ...} with the next value of every state',
        "return {'y': a * h + x}",
    ),
    "an empty dict": Case(
        "the state 'h' is never assigned",
        "The returned dict has the keys none.",
        'return {"h": ..., ...} with the next value of every state',
        "u = a * h + x\nreturn {}",
        line=BODY_LINE + 1,
    ),
    "no return": Case(
        "it returns 0 values for 1 state",
        "The states are h, in this order.",
        "return h_new, or a dict where outputs are returned besides",
        "u = a * h + x",
    ),
    "too many values": Case(
        "it returns 2 values for 1 state",
        "The states are h, in this order.",
        "return h_new, or a dict where outputs are returned besides",
        "return a * h, x",
    ),
    "too few values": Case(
        "it returns 1 value for 2 states",
        "The states are h, g, in this order.",
        "return h_new, g_new, or a dict where outputs are returned besides",
        "return h * g + x",
        "h: State, g: State, x: Input",
    ),
    "a key that isn't a string": Case(
        "the returned dict has the key 3",
        "Keys are names of states or of outputs.",
        'return {"h": ..., "y": ...}',
        "return {'h': a * h + x, 3: x}",
    ),
    "a key with a space": Case(
        "the returned key 'y z' is no name",
        "Keys are names of states or of outputs.",
        'rename it, for example "y_z"',
        "return {'h': a * h + x, 'y z': x}",
    ),
    # --- arguments that the body leaves out ---
    "an unused argument": bad_argument(
        "the argument 'a' is not used", UNUSED, "use it or remove it", SIGNATURE, "return h + x"
    ),
    "an argument that cancels": bad_argument(
        "the argument 'a' is not used",
        UNUSED,
        "use it or remove it",
        SIGNATURE,
        "return h + x + a - a",
    ),
    "an argument that only a dropped let uses": bad_argument(
        "the argument 'a' is not used",
        UNUSED,
        "use it or remove it",
        SIGNATURE,
        "u = tanh(a)\nreturn h + x",
    ),
    "an unused element": bad_argument(
        "'a[1]' is not used",
        "Every element takes part in the recurrence or in an output.",
        "use it, or make 'a' smaller by its size=",
        "h: State, x: Input, a: Param(size=2)",
        "return a[0] * h + x",
    ),
}


@pytest.mark.parametrize("case", TRACES)
def test_a_body_that_cannot_be_traced_is_refused_with_line_reason_and_fix(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert message_of(TRACES[case], tmp_path, monkeypatch) == TRACES[case].text()


def test_all_unused_arguments_are_reported_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case("", "", "", "return h + x", "h: State, x: Input, a: Param, b: Param")
    message = message_of(case, tmp_path, monkeypatch)
    assert [f"'{name}' is not used" in message for name in "hxab"] == [False, False, True, True]


def test_a_path_outside_the_working_directory_is_shown_whole(tmp_path: Path) -> None:
    with pytest.raises(CellError) as caught:
        compile_case(Case("", "", "", "return h + x"), tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/odd.py:{DEF_LINE}: cell 'odd': ")


def test_every_place_that_reports_a_fault_has_a_case_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> None:
        for case in TRACES.values():
            with pytest.raises(RnnccError):
                compile_case(case, tmp_path)

    assert (
        missed(
            (trace,),
            run,
            monkeypatch,
        )
        == []
    )


@pytest.mark.parametrize(
    "name", ["double", "für", "ß", "_", "_u", "u__v", "RNNCC_u", "2nd", "tanh", "Δt", "λ", "状态"]
)
def test_the_name_that_a_fix_proposes_can_be_taken(name: str) -> None:
    assert reserved(name)
    assert not reserved(unreserved(name))


def test_noise_is_an_input_and_a_drawn_constant_stays(tmp_path: Path) -> None:
    signature = "h: State, x: Input, noise: Input(projected=False), a: Param"
    assert trace.trace(cell_from(tmp_path, source_of("return a * h + x + noise", signature))).next
    before = "import random\nDRAWN = random.random()\n"
    assert trace.trace(cell_from(tmp_path, source_of("return a * h + DRAWN * x", before=before)))
