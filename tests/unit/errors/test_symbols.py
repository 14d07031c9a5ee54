"""Symbols: refusals of operations on one, each word for word at its line, with its fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from rnncc.errors import CellError, RnnccError
from rnncc.lang import dsl, instead, symbols, trace
from rnncc.lang.foreign import TURNS
from tests.support.cells import BODY_LINE, cell_from, source_of
from tests.support.refusals import (
    BODY,
    Case,
    compile_case,
    message_of,
    missed,
)

WITH_MATRIX = "h: State, x: Input, R: Matrix(block=2)"
NUMBERLESS = "A cell's body runs once on symbols, which have no number yet."
OWN_FUNCTIONS = "use rnncc's own functions (from rnncc import tanh, exp, ...) on symbols"
BRANCH = "A cell's body runs once on symbols, so Python can't branch on their values."
USE_WHERE = "where(condition, a, b); combine conditions with &, | and ~"
ONE_VALUE = "A symbol is one value of one channel."
SIZED = "State(size=n), Input(size=n), Param(size=n) for n values of a channel"
BY_NAME = f"give each value its own argument, or {SIZED}"
NUMBER = "A constant inside a cell is a Python number; a value for each channel is a Param."
FLOAT = "float(...) for a single number, or an argument annotated Param"
CONDITION = "A comparison is a condition, not a value."
NO_CONDITION = "where(condition, 1.0, 0.0), or spike(u) where a gradient should pass"
MATRIX = "A Matrix mixes channels: R @ h, the matrix on the left."
FIRST = """
from rnncc.lang.trace import trace
kept = []
@cell
def first(h: State, q: Input):
    kept.extend([q, q > 0])
    return h + q
trace(first)
"""
FINITE = "Constants of a cell are finite numbers."


def numberless(
    seen: str,
    body: str,
    before: str = "",
    line: int = BODY_LINE,
    fix: str = OWN_FUNCTIONS,
) -> Case:
    return Case(f"{seen} is applied to a symbol", NUMBERLESS, fix, body, before=before, line=line)


def own(text: str, name: str) -> str:
    return f"{text}, with rnncc's own {name} (from rnncc import {name})"


def branch(seen: str, body: str, fix: str = USE_WHERE, line: int = BODY_LINE) -> Case:
    text = f"Python decides on '{seen}' (if, while, and, or, not)"
    return Case(text, BRANCH, fix, body, line=line)


def foreign(body: str, symbol: str = "q") -> Case:
    return Case(
        f"'{symbol}' is a symbol of another cell",
        "A cell computes with its own arguments, and is traced afresh each time.",
        "give the cell an argument of its own, and don't store symbols outside its body",
        body,
        before=FIRST,
    )


def operand(kind: str, body: str, before: str = "", fix: str = FLOAT) -> Case:
    return Case(f"an operand of type {kind}", NUMBER, fix, body, before=before)


def condition(body: str, line: int = BODY_LINE) -> Case:
    text = "the condition 'h > 0' is used as a number"
    return Case(text, CONDITION, NO_CONDITION, body, line=line)


def matrix(body: str) -> Case:
    fix = "R @ h, or annotate 'R' as Param for one value per channel"
    return Case("the Matrix 'R' is used without @", MATRIX, fix, body, WITH_MATRIX)


SYMBOLS = {
    # --- Python that needs a number ---
    "if": branch("h > 0", "if h > 0:\n    return x\nreturn a * h", "return where(h > 0, x, a * h)"),
    "while": branch("h > 0", "while h > 0:\n    pass\nreturn a * h + x"),
    "a conditional expression": branch(
        "a*h", "return x if a * h else h", "where(a * h != 0, x, h)"
    ),
    "and": branch("h > 0", "return where(h > 0 and x > 0, a, h)", "(h > 0) & (x > 0)"),
    "not": branch("h > 0", "return where(not h > 0, a, x)", "~(h > 0)"),
    "a chained comparison": branch("h > 0", "return where(0 < h < 1, a, x)", "(0 < h) & (h < 1)"),
    "assert": branch(
        "h > 0",
        "assert h > 0\nreturn a * h + x",
        "leave the assert out: a symbol has no value to check",
    ),
    "maximum of one value": Case(
        "maximum is given 'a*h' alone",
        "It takes two values or more.",
        "maximum(*h) for the elements of a vector h",
        "return maximum(a * h) + x",
    ),
    "max": branch("x > h", "return max(h, x) * a", "maximum(h, x)"),
    "float": numberless(
        "a function that needs a number (math.*, float)",
        "return float(h) * a",
        fix="h, without float",
    ),
    "int": numberless(
        "a function that needs a number (math.*, float)",
        "return int(h) * a",
        fix=own("trunc(h)", "trunc"),
    ),
    "math.tanh": numberless(
        "a function that needs a number (math.*, float)",
        "return math.tanh(h) * a + x",
        before="import math\n",
        fix=own("tanh(h)", "tanh"),
    ),
    "range": numberless(
        "a function that needs a number (math.*, float)",
        "return sum(range(h)) * a + x",
        fix=TURNS,
    ),
    "torch.tanh": numberless(
        "torch.tanh",
        "return torch.tanh(h) * a + x",
        "import torch\n",
        fix=own("tanh(h)", "tanh"),
    ),
    "np.tanh": numberless(
        "numpy.tanh",
        "return np.tanh(h) * a + x",
        "import numpy as np\n",
        fix=own("tanh(h)", "tanh"),
    ),
    "np.asarray": numberless(
        "NumPy",
        "return np.asarray(h) * a + x",
        "import numpy as np\n",
        fix="h, without asarray",
    ),
    "len": Case("'h' is iterated over", ONE_VALUE, BY_NAME, "return len(h) * a"),
    "assigning an element": Case(
        "an element of 'h' is assigned",
        "A symbol is one value of one channel, and isn't changed in place.",
        "assign to the name, without an index",
        "h[0] = x\nreturn a * h",
    ),
    "& of values": Case(
        "the value 'x' is taken for a condition",
        "&, | and ^ combine comparisons, and bind more tightly than they do.",
        "(h > 0) & (x > 1)",
        "return where(h > 0 & x > 1, a, h)",
    ),
    "& of values without a comparison": Case(
        "the value 'h' is taken for a condition",
        "&, | and ^ combine comparisons, and bind more tightly than they do.",
        "(h > 0) & (h < 1), each comparison in parentheses; ** for powers",
        "return h & x",
    ),
    "indexing": Case(
        "'a*h' is indexed", ONE_VALUE, f"leave the index out, or {SIZED}", "return (a * h)[0] + x"
    ),
    "unpacking": Case("'h' is iterated over", ONE_VALUE, BY_NAME, "u, v = h\nreturn u * a + x"),
    "an attribute": Case(
        "'.T' is accessed on a symbol",
        "A symbol has no attributes.",
        OWN_FUNCTIONS,
        "return h.T * a",
    ),
    "a method": Case(
        "'.exp' is accessed on a symbol",
        "A symbol has no attributes.",
        own("exp(h)", "exp"),
        "return h.exp() * a",
    ),
    # --- operands ---
    "a NumPy array": operand(
        "numpy.ndarray", "return np.array([1.0, 2.0]) * h + x * a", "import numpy as np\n"
    ),
    "a NumPy array on the right": operand(
        "numpy.ndarray", "return h * np.ones(2) + x * a", "import numpy as np\n"
    ),
    "an array on the left": operand(
        "numpy.ndarray", "return np.ones(2) / h + x * a", "import numpy as np\n"
    ),
    "an array that divides": operand(
        "numpy.ndarray", "return h / np.ones(2) + x * a", "import numpy as np\n"
    ),
    "a long double": operand(
        "numpy.longdouble", "return h * np.longdouble(0.1) + x * a", "import numpy as np\n"
    ),
    "a tensor on the left": operand(
        "torch.Tensor", "return torch.tensor(0.5) * h + x * a", "import torch\n"
    ),
    "a tensor": operand("torch.Tensor", "return h * torch.ones(2) + x * a", "import torch\n"),
    "a string": operand("str", "return h * 'two' + x * a"),
    "None": operand("NoneType", "return h * None + x * a"),
    "a bool": operand("bool", "return h * True + x * a"),
    "a complex": operand(
        "complex",
        "return h * 1j + x * a",
        fix=instead.OTHER_FIXES["complex"],
    ),
    "a tuple": operand("tuple", "return h + (1, 2) + x * a", fix=instead.OTHER_FIXES["tuple"]),
    "a list": operand("list", "return h + [1] + x * a", fix=instead.OTHER_FIXES["list"]),
    "a number that mixes": Case(
        "an operand of type int", NUMBER, FLOAT, "return R @ 2 + h * x", WITH_MATRIX
    ),
    "a returned string": operand("str", "return 'h'"),
    "a returned bool": operand("bool", "return {'h': a * h + x, 'y': True}"),
    "a function of a string": operand("str", "return exp('a') * h + x"),
    "infinity": Case(
        "the constant inf is not finite",
        FINITE,
        "a large finite number, such as 1e30",
        "return h * float('inf') + x * a",
    ),
    "NaN": Case(
        "the constant nan is not finite",
        FINITE,
        "a large finite number, such as 1e30",
        "return h * float('nan') + x * a",
    ),
    "division by zero": Case(
        "division by the constant 0", "", "divide by something else", "return h / 0.0 + x * a"
    ),
    # --- operators ---
    "@ without a matrix": Case(
        "the operator @ on 'h'",
        "The left side of @ must be a Matrix.",
        "R @ h with R: Matrix(block=k) mixes channels; a Param multiplies by *",
        "return h @ x * a",
    ),
    # --- conditions ---
    "a condition in a sum": condition("return (h > 0) + a * x"),
    "a condition in a product": condition("return a * x * (h > 0)"),
    "a named condition": condition("up = h > 0\nreturn up * a + x", BODY_LINE + 1),
    "a negative condition": condition("return -(h > 0) * a + x"),
    "the absolute of a condition": condition("return abs(h > 0) * a + x"),
    "a function of a condition": condition("return tanh(h > 0) * a + x"),
    "a choice of conditions": condition("return where(x > 0, h > 0, a)"),
    "a comparison of conditions": condition("return where((h > 0) == (x > 0), a, x)"),
    "a returned condition": condition("return {'h': a * h + x, 'y': h > 0}"),
    "where of a value": Case(
        "where is given 'h'",
        "Its first argument is a comparison.",
        "where(h > 0, a, b)",
        "return where(h, a, x)",
    ),
    "& before a comparison": Case(
        "the value 'x' is taken for a condition",
        "&, | and ^ combine comparisons, and bind more tightly than they do.",
        "(h > 0) & (x > 0)",
        "return where(h > 0 & x > 0, a, h)",
    ),
    "& of a value": Case(
        "'x' is combined with a condition",
        "&, | and ^ take comparisons on both sides.",
        "put each comparison in parentheses: (h > 0) & (h < 1)",
        "return where((h > 0) & x, a, h)",
    ),
    # --- matrices ---
    "a matrix in a product": matrix("return R * h + x"),
    "a matrix in a sum": matrix("return h + x + R"),
    "a function of a matrix": matrix("return tanh(R) + h * x"),
    "a product of matrices": matrix("return R @ R + h * x"),
    "a matrix of a condition": Case(
        "the condition 'h > 0' is used as a number",
        CONDITION,
        NO_CONDITION,
        "return R @ (h > 0) + x",
        WITH_MATRIX,
    ),
    "a returned matrix": matrix("return R"),
    # --- spike ---
    "an unknown surrogate": Case(
        "spike has no surrogate 'relu'",
        "The surrogates are fast_sigmoid, atan, sigmoid, triangle, or a function of u.",
        "surrogate='fast_sigmoid'",
        "return spike(h, surrogate='relu') * a + x",
    ),
    "a slope that is a symbol": Case(
        "spike's slope is a symbol",
        "The slope is a compile-time number.",
        "give the cell an argument with a numeric default: slope=25.0",
        "return spike(h, slope=a) + x",
    ),
    "overflow at compile time": Case(
        "exp(1000) is no finite number",
        FINITE,
        "check the arithmetic on constants in this line",
        "return exp(1000) * h + x",
    ),
    "no value at compile time": Case(
        "sqrt(-1) is no finite number",
        FINITE,
        "check the arithmetic on constants in this line",
        "return sqrt(-1) * h + a * x",
    ),
    "a whole number too large": Case(
        "the constant ~10**400 is not finite",
        FINITE,
        "a large finite number, such as 1e30",
        "return h * 10**400 + x",
    ),
    "a whole number that Python doesn't write": Case(
        "the constant ~10**5000 is not finite",
        FINITE,
        "a large finite number, such as 1e30",
        "return h * 10**5000 + x",
    ),
    "a symbol of another cell": foreign("return a * h + x + kept[0]"),
    "a condition of another cell": foreign("return where(kept[1], a * h, x)", "q > 0"),
    "a negated symbol of another cell": foreign("return a * h + x - -kept[0]"),
    "a refusal that is caught": branch(
        "h > 0",
        "try:\n    y = x if h > 0 else a\nexcept Exception:\n    y = x\nreturn y",
        "where(h > 0, x, a)",
        BODY_LINE + 1,
    ),
    "a refusal that becomes another exception": numberless(
        "a function that needs a number (math.*, float)",
        "try:\n    return float(h)\nexcept Exception:\n    raise ValueError('mine')",
        line=BODY_LINE + 1,
        fix="h, without float",
    ),
    "a shift by a symbol": numberless(
        "a function that needs a number (math.*, float)", "return shift(h, x) * a"
    ),
    "another cell": Case(
        "calls the cell 'other'",
        "A cell can't run inside another cell.",
        "make 'other' a plain Python function (without @cell) and call that",
        "return other(h, x)",
        before="@cell\ndef other(h: State, x: Input):\n    return h + x\n",
    ),
    "itself": Case(
        "calls the cell 'odd'",
        "A cell can't run inside another cell.",
        "make 'odd' a plain Python function (without @cell) and call that",
        "return odd(h, x, a)",
    ),
}


@pytest.mark.parametrize("case", SYMBOLS)
def test_unsupported_operations_are_refused_with_line_reason_and_fix(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert message_of(SYMBOLS[case], tmp_path, monkeypatch) == SYMBOLS[case].text()


def test_the_line_is_the_cells_own_even_when_a_helper_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = "def deep(v):\n    return deeper(v)\ndef deeper(v):\n    return 1 if v else 2\n"
    case = Case("", "", "", "u = a * h\nreturn (\n    u\n    + deep(x)\n)", before=helper)
    message = message_of(case, tmp_path, monkeypatch)
    assert message.startswith(f"odd.py:{BODY_LINE + 4 + 3}: cell 'odd': Python decides on 'x'")


def test_a_symbol_used_outside_its_cell_says_so(tmp_path: Path) -> None:
    kept = "kept = []\n"
    cell = cell_from(tmp_path, source_of("kept.append(h)\nreturn a * h + x", before=kept))
    trace.trace(cell)
    symbol = cell.function.__globals__["kept"][0]
    with pytest.raises(RuntimeError, match="used outside the trace of its cell: Python decides"):
        bool(symbol)


def test_every_place_that_reports_a_fault_has_a_case_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> None:
        for case in SYMBOLS.values():
            with pytest.raises(RnnccError):
                compile_case(case, tmp_path)
        with pytest.raises(CellError):
            cell_from(tmp_path, source_of(BODY))()

    assert (
        missed(
            (symbols, dsl),
            run,
            monkeypatch,
        )
        == []
    )
