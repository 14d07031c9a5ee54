"""Vectors: refusals of what a vector or a delay can't do, each with a fix."""

from __future__ import annotations

from pathlib import Path

import pytest

import rnncc
from rnncc.errors import CellError, StructureError
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
    "lists that are joined by +": (
        VECTOR,
        "return h[1:] + [x]",
        "vectors of the shapes [1] and [2] are combined",
        "one list of both is [*a, *b]",
    ),
    "two indices of a plain vector": (
        VECTOR,
        "return h + h[0, 1] + x",
        "a vector of shape [3] is indexed by (0, 1)",
        "h[0]",
    ),
    "a method of arrays": (
        VECTOR,
        "return h - (2 * h).mean() + x",
        "'.mean' is accessed on a vector.\nA vector has a len and elements",
        "sum(2 * h) / len(2 * h)",
    ),
    "softmax of a matrix": (
        "h: State(size=(3, 2)), x: Input",
        "return softmax(h) + x",
        "softmax is given a vector of shape [3, 2]",
        "[softmax(row) for row in h]",
    ),
    "the maximum of one vector": (
        VECTOR,
        "return h - maximum(h) + x",
        "maximum is given '[h_0, h_1, h_2]' alone",
        "maximum(*h) for the elements of a vector h",
    ),
    "Python's max of a vector": (
        VECTOR,
        "return h - max(h) + x",
        "Python decides on 'h_1 > h_0'",
        "maximum(*h)",
    ),
    "a chain of comparisons": (
        VECTOR,
        "return where(0 < h < 1, h, x)",
        "Python decides on '[h_0 > 0, h_1 > 0, h_2 > 0]'",
        "(0 < h) & (h < 1)",
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
    "the element of a vector of one": (
        "h: State(size=1), x: Input",
        "return tanh(h[0]) + x",
        "the next value of 'h' has one value, the state 1 value in a list",
        "return [...] with 1 value in a list",
    ),
    "a key that is the name of an element": (
        "h: State(size=2), x: Input",
        "return {'h': h + x, 'h_0': 2 * x}",
        "the returned key 'h_0' is the name of a value of 'h'",
        "rename it, for example 'h_0_'",
    ),
    "a start of another size": (
        "h: State(init=Param(size=2)), x: Input",
        "return h + x",
        "'h' has init=Param(size=2)",
        "State(size=2, init=Param)",
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
    "a delay that is indexed": (
        DELAY,
        "return h[3] + h.ago(4) + x",
        "'h', a state with delay=4, is indexed",
        "h.ago(3)",
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


# instead of a body, what its fix says
APPLIED = {
    "lists that are joined by +": "return [*h[1:], x + h[0]]",
    "two indices of a plain vector": "return h + h[0] + x",
    "a method of arrays": "return h - sum(2 * h) / len(2 * h) + x",
    "softmax of a matrix": "return vector([softmax(row) for row in h]) + x",
    "the maximum of one vector": "return h - maximum(*h) + x",
    "Python's max of a vector": "return h - maximum(*h) + x",
    "a chain of comparisons": "return where((0 < h) & (h < 1), h, x)",
    "the element of a vector of one": "return [tanh(h[0]) + x]",
    "a key that is the name of an element": "return {'h': h + x, 'h_0_': 2 * x}",
    "a delay that is indexed": "return h.ago(3) + h.ago(4) + x",
}


@pytest.mark.parametrize("case", APPLIED)
def test_the_fix_of_a_refusal_works(case: str, tmp_path: Path) -> None:
    rnncc.compile(cell_from(tmp_path, source_of(APPLIED[case], CASES[case][0])))


@pytest.mark.parametrize(
    ("signature", "body", "seen", "fix"),
    [
        ("h: State(size=65), x: Input", "h + x", "65 values of states", "size= of 'h'"),
        ("h: State(delay=64), x: Input", "h.ago(64) + x", "65 values of states", "delay= of 'h'"),
        (
            "h: State(size=33), x: Input, R: Matrix(block=2)",
            "R @ h + x",
            "groups of 2 channels (R: block=2) with 33 values of states give blocks of 66",
            "size= of 'h', which has 33",
        ),
    ],
)
def test_more_values_than_a_block_holds_are_refused(
    signature: str, body: str, seen: str, fix: str, tmp_path: Path
) -> None:
    with pytest.raises(StructureError) as caught:
        rnncc.compile(cell_from(tmp_path, source_of(f"return {body}", signature)))
    said, fixed = str(caught.value).split("Fix: ")
    assert seen in said
    assert fix in fixed


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
