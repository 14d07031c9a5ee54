"""Vectors: refusals of what a vector or a delay can't do, each with a fix."""

from __future__ import annotations

from pathlib import Path

import pytest

import rnncc
from rnncc.errors import CellError
from rnncc.lang import sizes, vectors
from tests.support.cells import cell_from, source_of
from tests.support.refusals import missed

VECTOR = "h: State(size=3), x: Input"
DELAY = "h: State(delay=4), x: Input"
COUNT = "size is a whole number from 1 to 4096, or a tuple of them, or the name of a constant"

# signature, body, what the message says, what its fix says
CASES = {
    "no size": (
        "h: State(size=0), x: Input",
        "return h + x",
        f"'h' has size=0.\n{COUNT}",
        "size=4",
    ),
    "a delay that is no number": (
        "h: State(delay='tau'), x: Input",
        "return h + x",
        "'h' has delay='tau'.\ndelay is a whole number from 1 to 4096, or the name of a constant",
        "State(delay=4)",
    ),
    "an index outside": (
        VECTOR,
        "return [h[3], h[1], x]",
        "the index 3 of a vector of 3 values",
        "2 for the last, or a larger size=",
    ),
    "an index that is no number": (
        VECTOR,
        "return [h['a'], h[1], x]",
        "a vector is indexed by 'a'",
        "an int, such as h[0]",
    ),
    "an element that is assigned": (
        VECTOR,
        "h[0] = x\nreturn h",
        "an element of a vector is assigned",
        "[x, *h[1:]]",
    ),
    "a vector as one value": (
        VECTOR,
        "return h + mean(h) + x",
        "the vector [h_0, h_1, h_2] is used as one value",
        "an element, h[0], or sum(h)",
    ),
    "a decision on a vector": (VECTOR, "return h if h else x", "is used as one value", "sum(h)"),
    "vectors of two lengths": (
        VECTOR,
        "return h + h[:2] + x",
        "vectors of the shapes [2] and [3] are combined",
        "h[:n]",
    ),
    "rows of two lengths": (
        VECTOR,
        "return [[1, 2, 3], [1, 2], [1, 2, 3]] @ h + x",
        "a list has rows of different lengths",
        "lists of one length",
    ),
    "a product that doesn't fit": (
        VECTOR,
        "return [[1, 2], [3, 4]] @ h + x",
        "a vector of shape [2, 2] @ a vector of shape [3]",
        "of sizes that fit",
    ),
    "dot of two lengths": (
        VECTOR,
        "return h + dot(h, [1, 2]) * x",
        "dot is given a vector of shape [3] and a vector of shape [2]",
        "slices of one length",
    ),
    "vector of a symbol": (VECTOR, "return h + vector(x)", "vector is given x", "vector([a, b])"),
    "a next value of another size": (
        VECTOR,
        "return h[0] + x",
        "the next value of 'h' has one value, the state 3 values",
        "return [...] with 3 values",
    ),
    "a vector for a plain state": (
        "h: State, x: Input",
        "return (vector([h, x]),)",
        "the next value of 'h' has 2 values, the state one value",
        "State(size=2)",
    ),
    "an element that isn't used": (
        "h: State, x: Input(size=2)",
        "return h + x[0]",
        "'x[1]' is not used",
        "make 'x' smaller by its size=",
    ),
    "the past beyond the delay": (
        DELAY,
        "return h.ago(5) + x",
        "'h'.ago(5), where 'h' has delay=4",
        "State(delay=5)",
    ),
    "the future": (DELAY, "return h.ago(-1) + x", "'h'.ago(-1)", "h.ago(0), the state itself"),
    "steps that are a symbol": (DELAY, "return h.ago(x) + x", "'h'.ago(x)", "h.ago(1)"),
    "a delay that is too long": (
        DELAY,
        "return h.ago(2) + x",
        "'h' has delay=4, but 'h.ago(4)' is not used",
        "a delay= of the largest k",
    ),
    "the past of a plain state": (
        "h: State, x: Input",
        "return h.ago(1) + x",
        "'.ago' is accessed on a symbol",
        "State(delay=4), whose past is h.ago(k)",
    ),
}


def refuse(case: str, folder: Path) -> str:
    signature, body, _, _ = CASES[case]
    with pytest.raises(CellError) as caught:
        rnncc.compile(cell_from(folder, source_of(body, signature)))
    return str(caught.value)


@pytest.mark.parametrize("case", CASES)
def test_what_a_vector_cannot_do_is_refused_with_reason_and_fix(case: str, tmp_path: Path) -> None:
    text = refuse(case, tmp_path)
    seen, fix = text.split("Fix: ")
    assert CASES[case][2] in seen
    assert CASES[case][3] in fix


def test_every_refusal_of_vectors_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = missed(
        (vectors, sizes), lambda: [refuse(case, tmp_path) for case in CASES], monkeypatch
    )
    assert not found
