"""Assignments: each is a let of its own; a name that C++ or CUDA reserves has another there."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch

import rnncc
from rnncc.export.latex import latex
from rnncc.export.torch_loop import plain_loop
from rnncc.ir.program import CellIR
from rnncc.lang.names import emitted, reserved
from rnncc.lang.trace import trace
from tests.support.cells import (
    BODY_LINE,
    SIGNATURE,
    cell_from,
    random_values,
    run_loop,
    source_of,
    traced,
)

ALPHA = "\N{GREEK SMALL LETTER ALPHA}"

# body, signature, the names of the lets
AGAIN = {
    "twice": ("y = a * h\ny = tanh(y + x)\nreturn y", "y y_2"),
    "augmented": ("y = a * h\ny += x\ny *= 0.5\nreturn tanh(y)", "y y_2 y_3 h_next"),
    "in a loop": ("y = x\nfor k in range(3):\n    y = tanh(y * a + h * k)\nreturn y", "y y_2 y_3"),
    "from a number": ("y = 0.0\nfor q in (h, x):\n    y += q * a\nreturn tanh(y)", "y y_2 h_next"),
    "over a list": (
        "y = h\nfor q in [a * h, x, a]:\n    y = y + q\nreturn y * a",
        "q y y_2 y_3 h_next",
    ),
    "an argument": ("x = x * 2\nh = tanh(a * h + x)\nreturn h", "x_2 h_2"),
    "an argument twice": ("h = a * h\nh = tanh(h + x)\nreturn h", "h_2 h_3"),
    "arguments that change places": ("h, x = x, h\nh = h * a\nreturn h + x", "h_2 h_next"),
    "two that change places": (
        "u, v = a * h, x\nu, v = tanh(v), u\nu, v = v, u\nreturn u * v",
        "u u_2 h_next",
    ),
    "a name that the author has": ("y = a * h\ny_2 = x\ny = y + y_2 * 3\nreturn y", "y y_3"),
    "a let of the name that the author has": (
        "y = a * h\ny = y + x\ny_2 = y * 3\nreturn y_2",
        "y y_3 y_2",
    ),
    "a key that would be one": (
        "y = a * h\ny = y + x\nreturn {'h': y, 'y_2': y * 2}",
        "y y_3 y_2",
    ),
    "the next state's name": ("h_next = a * h\nreturn tanh(h_next + x)", "h_next h_next_2"),
    "a condition": ("up = h > 0\nup = up & (x > 0)\nreturn where(up, a * h, x)", "h_next"),
    "in a branch of Python": ("y = a * h\nif True:\n    y = y + x\nreturn y", "y y_2"),
    "a walrus": ("u = a * h\nreturn (u := u + x) * u", "u h_next"),
    "a constant": ("a = a * 2\nk = 3\nk = k * 2\nreturn tanh(a * h * k + x)", "a_2 h_next"),
    "an output": ("y = a * h\ny = y + x\nreturn {'h': y, 'y': y}", "y y_2"),
    "a helper": ("y = twice(h, a)\ny = twice(y, x)\nreturn y", "y y_2"),
    "with a comprehension": ("y = sum(y * a for y in (h, x))\ny = y * h\nreturn y", "y y_2"),
}
HELPER = "def twice(h, x):\n    h = h * x\n    h = h + x\n    return h\n"


def assert_faithful(folder: Path, body: str, signature: str = SIGNATURE) -> CellIR:
    """The lets compute what the function itself does on tensors."""
    written = cell_from(folder, source_of(body, signature, HELPER))
    ir = trace(written)
    values, start = random_values(ir, (2, 3, 2))
    outputs, states = run_loop(written, ir, values, start)
    plain_outputs, plain_states = plain_loop(ir, values, start)
    for got, expected in zip([*plain_outputs, *plain_states], [*outputs, *states], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-13)
    return ir


@pytest.mark.parametrize("case", AGAIN)
def test_a_name_that_is_assigned_again_has_its_latest_value(case: str, tmp_path: Path) -> None:
    body, lets = AGAIN[case]
    assert [let.name for let in assert_faithful(tmp_path, body).lets] == lets.split()


def test_each_assignment_keeps_its_line_and_comment(tmp_path: Path) -> None:
    body = "y = a * h  # decay\nfor k in range(2):\n    y = y + x  # drive\nreturn y"
    ir = traced(tmp_path, body)
    assert [(let.name, let.line, let.note) for let in ir.lets] == [
        ("y", BODY_LINE, "decay"),
        ("y_2", BODY_LINE + 2, "drive"),
        ("y_3", BODY_LINE + 2, "drive"),
    ]


def test_an_output_has_no_line_of_its_own_in_latex_beside_a_let_of_its_name(tmp_path: Path) -> None:
    ir = traced(tmp_path, "y = a * h\ny = y + x\nreturn {'h': y * 2, 'y': y}")
    assert [line.split("&")[0].strip() for line in latex(ir).splitlines()[1:-1]] == [
        *("y_t", "y_{2,t}", "h_t"),
    ]


# --- names -----------------------------------------------------------------------------------

LOCALS = {
    **{name: f"{name}_" for name in ("new", "this", "default", "half", "double", "sigmoid")},
    **{"_": "value", "__": "value", "_u": "u", "u__v": "u_v", "RNNCC_u": "u", "für": "fur"},
    **{ALPHA: "alpha", f"Δ{ALPHA}": "Delta_alpha", "λ": "lambda", "状态": "value", "ß": "ss"},
}


@pytest.mark.parametrize("name", LOCALS)
def test_a_local_name_that_cpp_reserves_has_another_there(name: str, tmp_path: Path) -> None:
    ir = assert_faithful(tmp_path, f"{name} = a * h\nreturn tanh({name} + x)")
    assert ir.lets[0].name == LOCALS[name]


@pytest.mark.parametrize("name", LOCALS)
def test_it_steps_aside_for_a_name_of_the_author(name: str, tmp_path: Path) -> None:
    like = LOCALS[name] if LOCALS[name] != "lambda" else "lambda_"
    ir = assert_faithful(tmp_path, f"{name} = a * h\n{like} = tanh({name} + x)\nreturn {like}")
    assert len({let.name for let in ir.lets}) == 2
    assert ir.lets[1].name == like


ARGUMENTS = [*(n for n in LOCALS if not n.startswith("_")), "tanh_", "erf", "long", "union"]


@pytest.mark.parametrize("kind", ["Param", "Input", "State"])
@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_argument_keeps_its_name_in_python(name: str, kind: str, tmp_path: Path) -> None:
    body = f"h_ = tanh(a * h + x) + {name} * 0.5\n"
    body += f"return h_, {name} * 0.5" if kind == "State" else "return h_"
    if kind == "State":
        signature = f"h: State, {name}: State, x: Input, a: Param"
    else:
        signature = f"h: State, x: Input, a: Param, {name}: {kind}"
    ir = assert_faithful(tmp_path, body, signature)
    (argument,) = (each for each in ir.arguments if each.name == name)
    assert not reserved(argument.symbol)
    assert argument.symbol in {s.name for let in ir.lets for s in let.expr.free_symbols}


def test_it_has_it_in_the_layer_and_the_record(tmp_path: Path) -> None:
    signature = f"h: State, x: Input, {ALPHA}: Param, alpha: Param, new: Input(shared=True)"
    cell = cell_from(tmp_path, source_of(f"return tanh({ALPHA} * h + x * new) * alpha", signature))
    compiled = rnncc.compile(cell)
    assert compiled.spec.arguments == ("x", ALPHA, "alpha", "new")
    assert [name for name, _ in compiled.layer(3, 4).named_parameters()][:2] == [ALPHA, "alpha"]
    assert (
        f"    x: Tensor, {ALPHA}: Tensor, alpha: Tensor, new: Tensor,"
        in compiled.files["__init__.py"]
    )
    text = compiled.files["cell.h"]
    assert text.isascii()
    assert "real alpha_2, real alpha," in text
    assert r"\alpha" in latex(compiled.stages.cell)


def test_keys_of_the_result_may_be_any_names(tmp_path: Path) -> None:
    body = "y = a * h + x\nreturn {'h': y, 'ŷ': y * 2, 'class': x * a, 'double': h}"
    ir = assert_faithful(tmp_path, body)
    assert [*ir.outputs] == ["ŷ", "class", "double"]
    assert [let.name for let in ir.lets] == ["y", "y_2", "class_"]


def test_arguments_may_be_positional_only(tmp_path: Path) -> None:
    ir = traced(tmp_path, "return h * a + x", "h: State, x: Input, /, a: Param")
    assert [a.name for a in ir.arguments] == ["h", "x", "a"]


def test_a_made_up_name_is_free() -> None:
    assert emitted("y", {"y"}, {"y_2"}) == "y_3"
    assert emitted("new_", {"new_"}) == "new_2"
    assert emitted("new", {"new_"}, set()) == "new_2"


# --- numbers of NumPy ------------------------------------------------------------------------

NUMBERS = [
    *(numpy.float32(0.1), numpy.float64(0.1), numpy.float16(0.1), numpy.int64(3)),
    *(numpy.array(0.7), numpy.array(2), numpy.array(0.1, dtype=numpy.float32)),
]
OPERATIONS = [
    *("h * k", "k * h", "h + k", "k + h", "h - k", "k - h", "h / k", "k / h", "h**k", "k**h"),
    *("where(h < k, h, x)", "where(k < h, h, x)", "where(k >= h, k, x)", "where(k == h, k, x)"),
    *(
        "maximum(h, k)",
        "clip(x, -k, k)",
        "exp(k) * h",
        "tanh(k * h)",
        "h**2 * k",
        "where(k != h, k, x)",
    ),
    "spike(h, slope=k)",
]


@pytest.mark.parametrize("number", NUMBERS, ids=repr)
def test_a_number_of_numpy_is_its_exact_value(number: object, tmp_path: Path) -> None:
    before = "import numpy\nk = 1\n"
    for operation in OPERATIONS:
        cell = cell_from(tmp_path, source_of(f"return {operation} + h * a + x", before=before))
        cell.function.__globals__["k"] = number
        found = trace(cell)
        cell.function.__globals__["k"] = number.item()  # type: ignore[attr-defined]
        assert str(found) == str(trace(cell)), operation


def test_options_and_conditions_may_be_numbers_of_numpy(tmp_path: Path) -> None:
    before = "import numpy as np\n"
    signature = (
        "h: State(init=np.float32(0.5)), x: Input, R: Matrix(block=np.int64(2)), k=np.int64(3)"
    )
    body = "return where(np.bool_(True), k * (R @ h), x) + x"
    ir = trace(cell_from(tmp_path, source_of(body, signature, before)), {})
    assert (ir.initial, ir.constants, ir.params[0].block) == ((0.5,), {"k": 3}, 2)
    assert str(ir.lets[-1].expr) == "x + 3*(R @ h)"


def test_a_constant_may_be_a_number_of_numpy(tmp_path: Path) -> None:
    cell = cell_from(tmp_path, source_of("return k * h + x", "h: State, x: Input, k=2.0"))
    found = trace(cell, {"k": numpy.float32(0.1)}).constants["k"]
    assert type(found) is float
    assert found == float(numpy.float32(0.1))
