"""Vectors: what is traced of State(size=n), State(delay=n), Input(size=n) and Param(size=n)."""

from __future__ import annotations

import json
from pathlib import Path

import rnncc
from rnncc.cli import render
from rnncc.codegen.kernel_spec import as_json
from rnncc.export.latex import latex
from rnncc.ir.spec import KernelSpec
from tests.support.cells import cell_from, source_of, traced

VECTOR = "h: State(size=3), x: Input, a: Param(size=3)"
LINE = "h: State(delay='tau', init=0.9), x: Input, tau=2"


def lets(folder: Path, body: str, signature: str = VECTOR, before: str = "") -> dict[str, str]:
    return {let.name: str(let.expr) for let in traced(folder, body, signature, before).lets}


def test_elements_are_scalars_named_after_their_vector_and_place(tmp_path: Path) -> None:
    ir = traced(tmp_path, "y = tanh(a * h)  # squashed\nreturn y + x", VECTOR)
    assert [a.name for a in ir.arguments] == ["h_0", "h_1", "h_2", "x", "a_0", "a_1", "a_2"]
    assert [(let.name, let.note) for let in ir.lets][:3] == [
        (f"y_{k}", "squashed") for k in range(3)
    ]
    assert list(ir.next) == list(ir.outputs) == ["h_0", "h_1", "h_2"]
    assert [(v.role, v.name, v.shape) for v in ir.vectors] == [
        ("state", "h", (3,)),
        ("param", "a", (3,)),
        ("output", "h", (3,)),
    ]


def test_python_works_on_a_vector(tmp_path: Path) -> None:
    found = lets(tmp_path, "s = sum(h)\nn = len(h)\nreturn [a[0] * s + n * x, *(a[1:] * h[:-1])]")
    assert found["s"] == "h_0 + h_1 + h_2"
    assert found["h_0_next"] == "a_0*s + 3*x"
    assert [found["h_1_next"], found["h_2_next"]] == ["a_1*h_0", "a_2*h_1"]


def test_products_with_matrices_of_numbers(tmp_path: Path) -> None:
    rows = "[[1, 0, 2], [0, 0.5, 0], [3, 0, 1.0]]"
    before = f"import numpy\nW = numpy.array({rows})\n"
    for matrix in (rows, "W"):
        found = lets(tmp_path, f"return {matrix} @ h + a * x", VECTOR, before)
        assert [found[f"h_{k}_next"] for k in range(3)] == [
            "a_0*x + h_0 + 2*h_2",
            "a_1*x + 0.5*h_1",
            "a_2*x + 3*h_0 + h_2",
        ]
    found = lets(tmp_path, "return h @ W + a * x", VECTOR, before)
    assert found["h_2_next"] == "a_2*x + 2*h_0 + h_2"


def test_dot_where_and_comparisons_go_over_elements(tmp_path: Path) -> None:
    found = lets(tmp_path, "d = dot(a, h)\nreturn where(h > d, x, maximum(h, 0.0))")
    assert found["d"] == "a_0*h_0 + a_1*h_1 + a_2*h_2"
    assert "h_2" in found["h_2_next"]
    assert "h_1" not in found["h_2_next"]


def test_functions_of_several_values_take_a_vector(tmp_path: Path) -> None:
    body = "p = softmax(a * h)\nm = maximum(*h)\nreturn p * x + m"
    found = lets(tmp_path, body)
    assert found["m"] == "maximum(maximum(h_0, h_1), h_2)"
    assert sum("exp(" in text for text in found.values()) == 3
    assert {"p_0", "p_1", "p_2"} <= found.keys()
    assert any("log(" in text for text in lets(tmp_path, "return a * logsumexp(h) + x").values())


def test_a_matrix_is_transposed(tmp_path: Path) -> None:
    found = lets(
        tmp_path, "return A.T @ h + x", "h: State(size=2), x: Input, A: Param(size=(2, 2))"
    )
    assert found["h_0_next"] == "A_0_0*h_0 + A_1_0*h_1 + x"
    assert found["h_1_next"] == "A_0_1*h_0 + A_1_1*h_1 + x"
    assert "h_0_next" in lets(tmp_path, "return h.T * a + x")


def test_what_all_elements_read_is_computed_once(tmp_path: Path) -> None:
    found = lets(tmp_path, "return h * exp(-x) + a")
    assert sum("exp" in text for text in found.values()) == 1


def test_a_let_of_an_element_steps_aside_for_the_authors_name(tmp_path: Path) -> None:
    found = lets(tmp_path, "y_0 = a[0] * x\ny = tanh(h + y_0)\nreturn y + a")
    assert found["y_0"] == "a_0*x"
    assert found["y_0_2"] == "tanh(h_0 + y_0)"


def test_an_argument_with_the_name_of_an_element_keeps_it(tmp_path: Path) -> None:
    ir = traced(tmp_path, "return h * h_0 + x", "h: State(size=2), h_0: Param, x: Input")
    assert [a.name for a in ir.arguments] == ["hv_0", "hv_1", "h_0", "x"]


def test_a_delay_carries_its_past(tmp_path: Path) -> None:
    ir = traced(tmp_path, "return h - 0.5 * h.ago(tau) + x", LINE)
    assert {name: str(e) for name, e in ir.next.items()} == {
        "h": "h_next",
        "h_1ago": "h",
        "h_2ago": "h_1ago",
    }
    assert ir.initial == (0.9, 0.9, 0.9)
    assert list(ir.outputs) == ["h"]
    assert [v.shape for v in ir.vectors] == [(3,)]


def test_a_state_may_hold_the_past_of_an_input(tmp_path: Path) -> None:
    ir = traced(tmp_path, "return {'p': x, 'y': p.ago(3)}", "p: State(delay=3), x: Input")
    assert {n: str(e) for n, e in ir.next.items()} == {
        "p": "x", "p_1ago": "p", "p_2ago": "p_1ago", "p_3ago": "p_2ago",
    }  # fmt: skip
    assert [str(e) for e in ir.outputs.values()] == ["p_3ago"]


def test_a_constant_sets_the_delay(tmp_path: Path) -> None:
    c = rnncc.compile(cell_from(tmp_path, source_of("return h.ago(tau) + x", LINE)), tau=4)
    assert [s.name for s in c.spec.states] == ["h", "h_1ago", "h_2ago", "h_3ago", "h_4ago"]


def test_latex_writes_the_past_as_earlier_steps(tmp_path: Path) -> None:
    text = latex(traced(tmp_path, "return 0.5 * h.ago(2) + x", LINE))
    assert "h_{t-3}" in text
    assert "ago" not in text


def test_the_record_holds_vectors_only_where_there_are_some(tmp_path: Path) -> None:
    plain = rnncc.compile(cell_from(tmp_path, source_of("return a * h + x")))
    assert "vectors" not in json.loads(as_json(plain.spec))
    c = rnncc.compile(cell_from(tmp_path, source_of("return a * h + x", VECTOR)))
    assert KernelSpec.read(as_json(c.spec)) == c.spec
    assert c.spec.arguments == ("x", "a")
    assert ("h", "state", "[B, N, 3]", "0") in render.argument_rows(c)
    assert "a: [N, 3], values per channel." in c.files["__init__.py"]
