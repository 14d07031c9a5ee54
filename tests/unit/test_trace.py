"""Trace: names, lines and comments are the author's; Python around the symbols runs as Python."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest
import torch

from rnncc.calculus.lower import group_size, lower
from rnncc.errors import CellError
from rnncc.export.torch_loop import plain_loop
from rnncc.ir.init import Init
from rnncc.lang.dsl import Input, Param, State, cell, tanh
from rnncc.lang.loader import cells_of, find, shipped
from rnncc.lang.trace import trace
from tests.support.cells import (
    BODY_LINE,
    DEF_LINE,
    SIGNATURE,
    cell_from,
    random_values,
    run_loop,
    source_of,
    traced,
)
from tests.support.runs import SHIPPED

CELLS = [path.stem for path in shipped()]
STATES = "a: State, b: State, x: Input"


def assert_traced_faithfully(folder: Path, body: str, signature: str, before: str = "") -> None:
    """The traced lets, run as the plain loop, give what the function itself gives on tensors."""
    written = cell_from(folder, source_of(body, signature, before))
    ir = trace(written)
    values, start = random_values(ir, (2, 3, 2 * group_size(ir)))
    outputs, states = run_loop(written, ir, values, start)
    plain_outputs, plain_states = plain_loop(ir, values, start)
    for got, expected in zip([*plain_outputs, *plain_states], [*outputs, *states], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-13)


# --- names, lines, comments ------------------------------------------------------------------


def test_local_names_lines_and_comments_are_kept(tmp_path: Path) -> None:
    body = """
        z = sigmoid(a * h)  # update gate
        # a comment on a line of its own
        c = tanh(
            z * x
        )
        return z * c + h  # blend
    """
    ir = traced(tmp_path, body)
    assert [(let.name, let.line, let.note) for let in ir.lets] == [
        ("z", BODY_LINE, "update gate"),
        ("c", BODY_LINE + 2, ""),
        ("h_next", BODY_LINE + 5, "blend"),
    ]


def test_a_comment_is_kept_as_it_is(tmp_path: Path) -> None:
    """codegen.escape makes it fit where it is emitted."""
    ir = traced(tmp_path, "z = a * h  # closes */ and continues \\\nreturn z + x  # plain")
    assert [let.note for let in ir.lets] == ["closes */ and continues \\", "plain"]


def test_a_hash_in_a_string_is_not_a_comment(tmp_path: Path) -> None:
    ir = traced(tmp_path, "z = {'#': a * h}['#']\nreturn z + x")
    assert [let.note for let in ir.lets] == ["", ""]


def test_the_docstring_is_the_functions_or_else_the_modules(tmp_path: Path) -> None:
    body = source_of("return a * h + x")
    assert trace(cell_from(tmp_path, '"""Of the file."""\n' + body, "one.py")).doc == "Of the file."
    own = source_of('"""Of the function.\n\n    Source: me.\n    """\nreturn a * h + x')
    assert trace(cell_from(tmp_path, own, "two.py")).doc == "Of the function.\n\nSource: me."
    assert trace(cell_from(tmp_path, body, "three.py")).doc == ""


def test_arguments_keep_the_signatures_order(tmp_path: Path) -> None:
    ir = traced(tmp_path, "return x * p + h * w + g, h * q", "x: Input, h: State, p: Param, "
                "g: State, w: Param, q: Input")  # fmt: skip
    assert [a.name for a in ir.arguments] == ["x", "h", "p", "g", "w", "q"]
    assert [a.name for a in ir.states] == ["h", "g"]


def test_file_and_line_are_those_of_the_cell(tmp_path: Path) -> None:
    ir = traced(tmp_path, "return a * h + x")
    assert (Path(ir.file).name, ir.line) == ("odd.py", DEF_LINE)


# --- Python around the symbols ---------------------------------------------------------------

HELPERS = """import math

k = 0.25

def mix(p, q):
    t = tanh(p)
    return t * q

def square(v):
    w = v * v
    return w

def bowl(v):
    w = square(v) + 1
    return w

def swapped(x, h):
    a = x * 2
    return a - h
"""
FAITHFUL = {
    "a helper is inlined": "return mix(h, x) * a",
    "a helper of a helper": "return bowl(h) * a + x",
    "a helper called twice": "u = square(h)\nv = square(x)\nreturn u * v * a",
    "a helper with the names of arguments": "return swapped(h, x) + a",
    "a module constant": "return k * h * a + x",
    "a lambda": "f = lambda q: q * a\nreturn f(h) + f(x)",
    "a nested function": "def f(q):\n    return q * a\nreturn f(h) * f(x)",
    "a default that captures": "def f(q, w=a):\n    return q * w\nreturn f(h) + x",
    "a comprehension": "us = [h * k for k in (1, 2, 3)]\nreturn us[0] * a + us[2] * x",
    "a generator": "return sum(q * a for q in (h, x))",
    "a loop over a list": (
        "s = [h]\nfor _ in range(3):\n    s.append(s[-1] * a + x)\nreturn s[-1]"
    ),
    "a loop over arguments": (
        "s = []\nfor q in (h, x, a):\n    s.append(tanh(q))\nreturn s[0] * s[1] + s[2]"
    ),
    "a loop with a number": "n = 2\nfor k in range(3):\n    n = n * 2\nreturn h * n * a + x",
    "tuple unpacking": "(u, v), w = (h * a, x * 2), a + 1\nreturn u + v * w",
    "swapping by tuple": "u, v = h * a, x\nreturn u - v",
    "a walrus": "return (u := h * a) * u + x",
    "two assignments on a line": "u = h * a; v = u * x\nreturn v + u",
    "a chained assignment": "u = v = h * a\nreturn u * v + x",
    "an annotation of a local": "u: float = h * a\nreturn u * x",
    "a multi-line expression": "u = tanh(\n    h * a\n    + x  # inside\n)\nreturn u * u",
    "an alias of an argument": "u = h\nv = u * a\nw = u\nreturn v + w * x",
    "an alias of a let": "u = h * a\nv = u\nreturn v * u + x",
    "two lets with one value": "u = h * a\nv = h * a\nreturn u * v + x",
    "a let that is a negation": "u = -h\nreturn u * a + x",
    "a let that changes nothing": "u = h * 1 + 0\nreturn u * a + x",
    "a number bound to a name": "u = 3\nv = u * h * a\nu = 4\nreturn v * u + x",
    "a Python if on a number": "u = a * h if 2 > 1 else x\nreturn u * x",
    "a condition with a name": "up = (x > 0) & (h < a)\nreturn where(~up, h * a, x)",
    "try and with": "try:\n    u = h * a\nfinally:\n    w = x * 2\nreturn u + w",
    "a deleted let": "u = h * a\nv = u * x\ndel u\nreturn v",
    "a dict of parts": "d = {'u': a * h, 'v': x}\nreturn d['u'] * d['v']",
    "math.pi": "return h * a * math.pi + x",
    "names of derivatives": "dz_dh = a * h\nz = tanh(dz_dh)\ng_z = z * x\nreturn g_z",
    "a name like a part of another": "z_0 = a * h\nz = tanh(exp(z_0 * 0.1) * x)\nreturn z * z_0",
    "powers": "return (-x)**3 * a + x**2 * h - 1 / (h**2 + 1)",
    "differences": "return -(h - x) - (a - (h * 2 - x)) - -x",
    "quotients": "return h / (x * x + 1) / ((a * a + 1) / (h * h + 2))",
    "nested where with numbers": "return where(h > 0, where(x > h, 1, a), where(x < 0, -h, 0.5))",
    "the old state in the output": "return {'h': a * h + x, 'y': h}",
    "an input as output": "return {'h': a * h + x, 'y': x, 'z': a}",
    "the same output twice": "u = a * h + x\nreturn {'h': u, 'y': u, 'z': u}",
    "a state that stays": "return {'h': h, 'y': h * a + x}",
    "a state that forgets": "return {'h': x * a, 'y': h * 2}",
    "outputs before the state": "return {'y': a * x, 'h': h + x}",
}


@pytest.mark.parametrize("case", FAITHFUL)
def test_the_trace_computes_the_same_as_the_function(case: str, tmp_path: Path) -> None:
    assert_traced_faithfully(tmp_path, FAITHFUL[case], SIGNATURE, HELPERS)


@pytest.mark.parametrize(
    "body",
    [
        "return b, a + x",
        "return a, b * x",
        "return {'b': a * x, 'a': b}",
        "u = a * x + b\nreturn {'a': u, 'b': tanh(u), 'y': u}",
        "return x, a * b",
        "c = a\nreturn b * x, c",
    ],
)
def test_states_that_are_swapped_unchanged_or_shared_are_traced_right(
    body: str, tmp_path: Path
) -> None:
    assert_traced_faithfully(tmp_path, body, STATES)


SEVERAL = "h: State(size=3), d: State(delay=2), e: Input(size=3), x: Input, A: Param(size=(3, 3))"


@pytest.mark.parametrize(
    "body",
    [
        "y = tanh(A @ h + e)\nreturn {'h': y, 'd': x + d.ago(2) * sum(y), 's': y[:0:-1]}",
        "p = softmax(h)\nreturn {'h': where(p > 0.3, e, A.T @ p), 'd': dot(p, h) + d.ago(2) * x}",
        "h += e\nm = maximum(*h) + A[0] @ h\nreturn [*(A @ h)[1:], m], d + x * d.ago(1) + d.ago(2)",
        "return h @ A * [1, 2, 3] + logsumexp(e), -d.ago(2) + x",
        "a, b, c = 2 ** (h % 1.5) - e\nreturn (c, a, b), minimum(x, *abs(A[0])) * A[1] @ A[2] + "
        "d.ago(2)",
        "v = x % (1.5 + h * h) + 7 % (2 + e * e)\n"
        "return x // (3 + v) - A @ v, x * 2 ** h[0] + d.ago(2)",
        "z = [clip(v, -1, w) for v, w in zip(h, e)]\nreturn z, sum(sum(A)) * x + d.ago(2)",
    ],
)
def test_vectors_and_delays_are_traced_right(body: str, tmp_path: Path) -> None:
    assert_traced_faithfully(tmp_path, body, SEVERAL)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_trace_of_a_shipped_cell_computes_the_same_as_its_function(name: str) -> None:
    ir = trace(find(name))
    values, start = random_values(ir, (2, 5, 2 * group_size(ir)))
    outputs, states = run_loop(find(name), ir, values, start)
    plain_outputs, plain_states = plain_loop(ir, values, start)
    for got, expected in zip([*plain_outputs, *plain_states], [*outputs, *states], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-13, equal_nan=True)


def test_helpers_leave_no_let_behind(tmp_path: Path) -> None:
    helper = "def f(q):\n    inner = tanh(q)\n    return inner * inner\n"
    ir = traced(tmp_path, "z = f(h) * a\nreturn z + x", before=helper)
    assert [str(let) for let in ir.lets] == ["z = a*tanh(h)**2", "h_next = x + z"]


SUBSTEPS = """
def steps(v, x, n):
    for i in range(n):
        v = v + 0.1 * tanh(v + x)
    return v
"""


def test_a_large_expression_is_computed_once_under_a_name_of_its_reader(tmp_path: Path) -> None:
    ir = traced(tmp_path, "z = steps(h, x, 30)\nreturn z * a", before=SUBSTEPS)
    assert [let.name for let in ir.lets] == [*(f"z_{i}" for i in range(7)), "z", "h_next"]
    program = lower(ir, 1)
    assert sum(str(let.expr).startswith("tanh") for let in program.lets) == 30


LARGE = """
def deep(v, x, n):
    for i in range(n):
        v = sin(v + x)
    return v
def any_of(v, x, n):
    c = v > x
    for i in range(n):
        c = c | (v * i > x + 1)
    return c
def squares(v, n):
    for i in range(n):
        v = v * v
    return v
def twice(v, x):
    z = steps(v, x, 18)
    return z, z + 1
"""


@pytest.mark.parametrize(
    "body",
    [
        "z = steps(h, x, 18)\nreturn z * a",
        "z, u = twice(h, x)\nreturn z * u * a",
        "return deep(h, x, 90) + a * x",
        "return where(any_of(h, x, 90), x, a)",
        "return squares(h, 60) + a * x",
        "y_0 = a * h\nreturn {'h': steps(h, x, 18), 'y': steps(y_0, x, 18)}",
        "return {'h': (z := steps(h * a, x, 18)), 'y': z}",
        "return tanh(h * a) ** 65 + x ** 10**9",
    ],
)
def test_what_is_shared_is_traced_right_however_large(body: str, tmp_path: Path) -> None:
    assert_traced_faithfully(tmp_path, body, SIGNATURE, SUBSTEPS + LARGE)


@pytest.mark.parametrize(
    ("expression", "lets"),
    [
        ("(1e20 * h) ** 2", ["u_0 = 1.0e+20*h", "u = u_0**2"]),
        ("1e-30 * h * 1e-30", ["u_0 = 1.0e-30*h", "u = 1.0e-30*u_0"]),
        ("1e30 * (x - h)", ["u_0 = -h + x", "u = 1.0e+30*u_0"]),
        ("(x * h) ** 3", ["u_0 = h*x", "u = u_0**3"]),
        ("3e38 * h + 1e38 * h", ["u_0 = 3.0e+38*h", "u_1 = 1.0e+38*h", "u = u_0 + u_1"]),
        ("1e-30 * x * h", ["u = 1.0e-30*h*x"]),
        ("2 * (x - h) * 3", ["u = -6*h + 6*x"]),
    ],
)
def test_constants_gather_only_where_any_dtype_holds_them(
    expression: str, lets: list[str], tmp_path: Path
) -> None:
    ir = traced(tmp_path, f"u = {expression}\nreturn u + x", "h: State, x: Input")
    assert [str(let) for let in ir.lets[:-1]] == lets


COMPREHENSIONS = {
    "over expressions": ("e = [tanh(v + 1) for v in [a * h, a * x]]\nreturn e[0] + e[1]", []),
    "over several lines": (
        """
        v = a * h
        e = [
            tanh(v)
            + w
            for v in [x * 2, h * 3]
            for w in [x * v, h * v]
        ]
        z = v + sum(e)
        return z + v
        """,
        ["v", "z"],
    ),
    "nested": (
        """
        e = [[tanh(v * w) for v in [x * 2, h * 3]] for w in [a * x, a * h]]
        return e[0][0] + e[1][1]
        """,
        [],
    ),
    "of a dict": (
        "d = {k: v * a for k, v in enumerate([x * 2, h * 3])}\nreturn d[0] + d[1]",
        [],
    ),
    "with a variable that is a local": (
        "v = x * h\ne = [v * a for v in [v, v + 1]]\nreturn v + e[1]",
        ["v"],
    ),
    "with an assignment inside": (
        "e = [last := tanh(v) for v in [x * 2, h * 3]]\nreturn e[0] * last + a",
        ["last"],
    ),
    "in a lambda": ("e = [(lambda: v * a)() for v in [x * 2, h * 3]]\nreturn e[0] + e[1]", []),
}


@pytest.mark.parametrize("case", COMPREHENSIONS)
def test_a_comprehension_binds_no_name_of_the_cell(case: str, tmp_path: Path) -> None:
    """From Python 3.12 on its variables lie among the cell's locals while it runs."""
    body, named = COMPREHENSIONS[case]
    assert [let.name for let in traced(tmp_path, body).lets] == [*named, "h_next"]
    assert_traced_faithfully(tmp_path, body, SIGNATURE)


def test_lets_that_no_result_needs_are_left_out(tmp_path: Path) -> None:
    ir = traced(tmp_path, "u = tanh(h)\nv = u * 2\nw = h * a\nreturn w + x")
    assert [let.name for let in ir.lets] == ["w", "h_next"]


def test_closures_work_in_a_cell_made_by_a_function() -> None:
    def make(gain: float):  # type: ignore[no-untyped-def]
        @cell
        def made(h: State, x: Input, a: Param):  # type: ignore[no-untyped-def, valid-type]
            return tanh(a * h) * gain + x

        return made

    def lets(gain: float) -> list[str]:
        made = make(gain)
        made.function.__annotations__ = {"h": State, "x": Input, "a": Param}
        return [str(let) for let in trace(made).lets]

    assert lets(0.5) == ["h_next = x + 0.5*tanh(a*h)"]
    assert lets(2) == ["h_next = x + 2*tanh(a*h)"]


def test_annotations_may_be_strings(tmp_path: Path) -> None:
    source = "from __future__ import annotations\n" + source_of("return a * h + x")
    assert [a.kind for a in trace(cell_from(tmp_path, source)).arguments] == [
        "state",
        "input",
        "param",
    ]


def test_string_annotations_may_use_options_and_names_of_the_file(tmp_path: Path) -> None:
    signature = "h: State(init=START), dt: Input(shared=True), a: Gain"
    before = "START = 2.5\nGain = Param(init=constant(START))\n"
    text = source_of("return a * h + dt", signature, before)
    source = "from __future__ import annotations\n" + text
    ir = trace(cell_from(tmp_path, source))
    assert [a.init for a in ir.states] == [2.5]
    assert ir.params[0].init == Init("constant", 2.5)


def test_tracing_twice_gives_the_same(tmp_path: Path) -> None:
    written = cell_from(tmp_path, source_of("z = tanh(a * h)\nreturn z + x"))
    assert trace(written) == trace(written)


def test_tracing_restores_the_debuggers_trace_function(tmp_path: Path) -> None:
    def mine(*_: object) -> None:
        return None

    before = sys.gettrace()
    sys.settrace(mine)
    try:
        traced(tmp_path, "return a * h + x")
        with pytest.raises(CellError):
            traced(tmp_path, "return a * h + undefined")
        kept = sys.gettrace()
    finally:
        sys.settrace(before)
    assert kept is mine


def test_symbols_of_a_finished_trace_still_print(tmp_path: Path) -> None:
    kept = "kept = []\n"
    written = cell_from(tmp_path, source_of("kept.append(h * a)\nreturn h * a + x", before=kept))
    trace(written)
    assert repr(written.function.__globals__["kept"][0]) == "a*h"


# --- returns and outputs ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "next_", "outputs"),
    [
        ("return a * h + x", {"h": "h_next"}, {"h": "h_next"}),
        ("return (a * h + x,)", {"h": "h_next"}, {"h": "h_next"}),
        ("return [a * h + x]", {"h": "h_next"}, {"h": "h_next"}),
        ("h1 = a * h + x\nreturn h1", {"h": "h1"}, {"h": "h1"}),
        ("h_next = a * h + x\nreturn h_next", {"h": "h_next"}, {"h": "h_next"}),
        ("return {'h': a * h + x}", {"h": "h_next"}, {"h": "h_next"}),
        ("return {'h': a * h + x, 'y': x * 2}", {"h": "h_next"}, {"y": "y"}),
        ("y = a * h\nreturn {'h': y + x, 'y': y}", {"h": "h_next"}, {"y": "y"}),
        ("y = a * h\nreturn {'h': y + x, 'z': y}", {"h": "h_next"}, {"z": "y"}),
        ("y = a * h\nreturn {'z': x * 2, 'h': y, 'w': h}", {"h": "y"}, {"z": "z", "w": "h"}),
    ],
)
def test_results_are_named_after_their_let_or_their_key(
    body: str, next_: dict[str, str], outputs: dict[str, str], tmp_path: Path
) -> None:
    ir = traced(tmp_path, body)
    assert {k: str(v) for k, v in ir.next.items()} == next_
    assert {k: str(v) for k, v in ir.outputs.items()} == outputs


FIELDS = "from typing import Any, NamedTuple\n\nclass Pair(NamedTuple):\n    b: Any\n    a: Any\n"
EXTRA = "from collections import namedtuple\nPair = namedtuple('Pair', 'spikes a b')\n"


def test_a_namedtuple_is_read_by_the_names_of_its_fields(tmp_path: Path) -> None:
    body = "return Pair(b=tanh(a + x), a=0.5 * b + x)"
    assert_traced_faithfully(tmp_path, 'return {"b": tanh(a + x), "a": 0.5 * b + x}', STATES)
    named = traced(tmp_path, body, STATES, FIELDS)
    by_key = traced(tmp_path, body.replace("Pair", "dict"), STATES, FIELDS)
    assert (named.lets, named.next, named.outputs) == (by_key.lets, by_key.next, by_key.outputs)
    assert list(named.next) == ["a", "b"]


def test_a_field_of_a_namedtuple_that_is_no_state_is_an_output(tmp_path: Path) -> None:
    ir = traced(tmp_path, "return Pair(a + b, b, tanh(a + x))", STATES, EXTRA)
    assert list(ir.outputs) == ["spikes"]
    assert str(ir.next["a"]) == "b"


def test_without_outputs_the_last_declared_state_is_the_output(tmp_path: Path) -> None:
    ir = traced(tmp_path, "return {'b': a * x, 'a': b + 1}", STATES)
    assert list(ir.next) == ["a", "b"]
    assert {k: str(v) for k, v in ir.outputs.items()} == {"b": "b_next"}


def test_a_state_named_with_an_underscore_gets_a_plain_next_name(tmp_path: Path) -> None:
    ir = traced(tmp_path, "return tanh(lambda_) * a + x", "lambda_: State, x: Input, a: Param")
    assert [let.name for let in ir.lets] == ["lambda_next"]


# --- constants -------------------------------------------------------------------------------


def test_a_numeric_default_is_a_constant_with_its_value(tmp_path: Path) -> None:
    ir = traced(tmp_path, "return h * k + x * n", "h: State, x: Input, k=0.5, *, n=3")
    assert ir.constants == {"k": 0.5, "n": 3}
    assert [str(let) for let in ir.lets] == ["h_next = 0.5*h + 3*x"]


@pytest.mark.parametrize(
    ("limits", "torchs", "slope"),
    [
        ("0, None", {"min": 0.0}, [0, 1, 1]),
        ("None, 0", {"max": 0.0}, [1, 1, 0]),
        ("None, None", {}, [1, 1, 1]),
        ("0, 2", {"min": 0.0, "max": 2.0}, [0, 1, 1]),
    ],
)
def test_a_side_of_clip_may_be_open(
    limits: str, torchs: dict[str, float], slope: list[float], tmp_path: Path
) -> None:
    body = f"return {{'h': 0.5 * h, 'y': clip(x, {limits})}}"
    ir = traced(tmp_path, body, "h: State, x: Input")
    x = torch.tensor([[[-1.0, 0.0, 2.0]]], dtype=torch.float64, requires_grad=True)
    (y,), _ = plain_loop(ir, {"x": x})
    assert torch.equal(y, x.clamp(**torchs) if torchs else x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.flatten().tolist() == slope


def test_a_constant_can_be_set(tmp_path: Path) -> None:
    written = cell_from(tmp_path, source_of("return h * k + x", "h: State, x: Input, k=0.5"))
    ir = trace(written, {"k": -2})
    assert ir.constants == {"k": -2}
    assert [str(let) for let in ir.lets] == ["h_next = -2*h + x"]
    assert trace(written).constants == {"k": 0.5}


def test_a_constant_may_steer_python(tmp_path: Path) -> None:
    body = "if layers > 1:\n    h1 = tanh(h)\nelse:\n    h1 = h\nreturn h1 * a + x"
    signature = "h: State, x: Input, a: Param, layers=1"
    written = cell_from(tmp_path, source_of(body, signature))
    assert [str(let) for let in trace(written).lets] == ["h_next = a*h + x"]
    assert [let.name for let in trace(written, {"layers": 2}).lets] == ["h1", "h_next"]


# --- finding cells ---------------------------------------------------------------------------


def test_a_file_may_hold_several_cells_and_they_come_in_its_order(tmp_path: Path) -> None:
    path = tmp_path / "several.py"
    text = source_of("return a * h + x", name="zebra") + source_of("return a + h * x", name="ant")
    path.write_text(text)
    assert list(cells_of(path)) == ["zebra", "ant"]
    assert find(f"{path}:ant").name == "ant"


def test_a_cell_that_a_file_imports_is_not_one_of_its_cells(tmp_path: Path) -> None:
    path = tmp_path / "imports.py"
    own = source_of("return a * h + x")
    path.write_text("from rnncc.lang.loader import find\nelman = find('elman')\n" + own)
    assert list(cells_of(path)) == ["odd"]


def test_a_shipped_cell_is_found_by_name() -> None:
    assert find("para_gru").name == "para_gru"
    assert {find(name).name for name in CELLS} == set(CELLS)


@pytest.mark.parametrize("name", CELLS)
def test_a_shipped_cell_is_short_documented_and_cites_its_source(name: str) -> None:
    text = textwrap.dedent(Path(find(name).file).read_text())
    assert len(text.splitlines()) < 40
    assert "Source: " in trace(find(name)).doc
