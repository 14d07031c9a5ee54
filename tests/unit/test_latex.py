"""LaTeX: names, order and functions as mathematics; and the printed equations are the cell's."""

import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import sympy
import torch
from click.testing import CliRunner

from rnncc.cli.main import main
from rnncc.export import symbolic_constants
from rnncc.export.latex import LatexPrinter, Names, latex, written
from rnncc.export.symbolic_constants import with_symbolic_constants
from rnncc.export.torch_loop import FUNCTIONS, plain_source
from rnncc.ir.functions import TABLE
from rnncc.ir.program import CellIR
from rnncc.lang.dsl import Cell
from rnncc.lang.loader import find, shipped
from rnncc.lang.trace import trace
from tests.support.cells import cell_from, source_of, traced
from tests.support.latex_reader import Reader
from tests.support.rows import vectors_of


def lines(cell: CellIR) -> list[str]:
    return [line.strip().removesuffix(r" \\") for line in latex(cell).splitlines()[1:-1]]


def printed(folder: Path, expression: str, signature: str = "h: State, x: Input, a: Param") -> str:
    """The right side of h's next value."""
    (line,) = lines(traced(folder, f"return {expression}", signature))
    return line.removeprefix("h_t &= ")


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("h", "h"),
        ("alpha", r"\alpha"),
        ("Delta", r"\Delta"),
        ("lambda_re", r"\lambda_{\mathrm{re}}"),
        ("lambda_", r"\lambda"),
        ("tau2", r"\tau_2"),
        ("v12", "v_{12}"),
        ("gNa", r"g_{\mathrm{Na}}"),
        ("g_Na", r"g_{\mathrm{Na}}"),
        ("EL", "E_L"),
        ("dt", r"\Delta t"),
        ("m_inf", r"m_{\infty}"),
        ("drive", r"\mathrm{drive}"),
        ("x_alpha1", r"x_{\alpha_1}"),
        ("A_log1", r"A_{\mathrm{log},1}"),
        ("re", r"\mathrm{re}"),
    ],
)
def test_a_name_is_written_as_in_a_paper(name: str, expected: str) -> None:
    assert written(name) == expected


def test_a_time_follows_the_subscripts() -> None:
    assert written("h", time="t-1") == "h_{t-1}"
    assert written("xz", gate=True, time="t") == "x_{z,t}"


def test_states_are_those_before_the_step_and_what_changes_has_a_time(tmp_path: Path) -> None:
    body = """
    nu = exp(nu_log)
    g = sigmoid(nu * h + xg)
    c_new = g * c + x
    return {"c": c_new, "h": g * h, "y": c_new}
    """
    signature = "c: State, h: State, x: Input, xg: Input, nu_log: Param"
    assert lines(traced(tmp_path, body, signature)) == [
        r"\nu &= \exp(\nu_{\mathrm{log}})",
        r"g_t &= \sigma(x_{g,t} + \nu\,h_{t-1})",
        r"c_t &= x_t + g_t\,c_{t-1}",
        r"h_t &= g_t\,h_{t-1}",
        "y_t &= c_t",
    ]


def test_a_let_that_is_not_a_next_state_keeps_its_name(tmp_path: Path) -> None:
    body = """
    h_new = tanh(h + x)
    u = a * h_new
    return {"h": u, "y": h_new}
    """
    assert lines(traced(tmp_path, body)) == [
        r"h_{\mathrm{new},t} &= \tanh(h_{t-1} + x_t)",
        r"u_t &= a\,h_{\mathrm{new},t}",
        "h_t &= u_t",
        r"y_t &= h_{\mathrm{new},t}",
    ]


def test_an_output_may_be_the_state_before_the_step(tmp_path: Path) -> None:
    body = 'h_new = tanh(h + x)\nreturn {"h": h_new, "before": h}'
    assert lines(traced(tmp_path, body, "h: State, x: Input"))[1] == (
        r"\mathrm{before}_t &= h_{t-1}"
    )


def test_a_state_may_take_over_another_whose_name_is_like_its_next(tmp_path: Path) -> None:
    body = 'return {"x": x1, "x1": u + 0.5 * x, "y": x}'
    assert lines(traced(tmp_path, body, "x: State, x1: State, u: Input")) == [
        r"x_{1,t} &= u_t + 0.5\,x_{t-1}",
        r"x_t &= x_{1,t-1}",
        r"y_t &= x_{t-1}",
    ]


def test_two_letters_of_an_argument_are_a_letter_and_its_gate(tmp_path: Path) -> None:
    signature = (
        "h: State, xi: Input, xf: Input, dt: Input(shared=True), mu: Param, pi: Param, pf: Param"
    )
    expected = r"\mu\,p_i\,p_f\,h_{t-1}\,x_{i,t}\,x_{f,t}\,\Delta t_t"
    assert printed(tmp_path, "xi * xf * dt * mu * pi * pf * h", signature) == expected


# --- expressions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("a * h + x", r"x_t + a\,h_{t-1}"),
        ("(1 - a) * h + x", r"x_t + (1 - a)\,h_{t-1}"),
        ("-(h - x) * a", r"a\,(x_t - h_{t-1})"),
        ("x - (h + a) / 3", r"x_t - \frac{a}{3} - \frac{h_{t-1}}{3}"),
        ("(h + a) / x", r"\frac{h_{t-1} + a}{x_t}"),
        ("x * a / (1 + h**2)", r"\frac{a\,x_t}{1 + h_{t-1}^2}"),
        ("(h + x * a) ** 12", r"(h_{t-1} + a\,x_t)^{12}"),
        ("a * x / h**2", r"\frac{a\,x_t}{h_{t-1}^2}"),
        ("tanh(h + x) ** 2 * a", r"a\,\tanh(h_{t-1} + x_t)^2"),
        ("tanh(h / x) * a", r"a\,\tanh\left(\frac{h_{t-1}}{x_t}\right)"),
        ("1e-30 * h * x * a", r"10^{-30}\,a\,h_{t-1}\,x_t"),
        ("2.5e-7 * h * x * a", r"2.5 \cdot 10^{-7}\,a\,h_{t-1}\,x_t"),
        ("3.141592653589793 * h * x * a", r"\pi\,a\,h_{t-1}\,x_t"),
        ("-expm1(-h) * x * a", r"a\,(1 - \exp(-h_{t-1}))\,x_t"),
        ("x * a / exprel(-h)", r"\frac{a\,h_{t-1}\,x_t}{1 - \exp(-h_{t-1})}"),
        ("exprel(h) * x * a", r"a\,x_t\,\frac{\exp(h_{t-1}) - 1}{h_{t-1}}"),
        ("x * a * rsqrt(h)", r"\frac{a\,x_t}{\sqrt{h_{t-1}}}"),
        ("logsigmoid(h) * x * a", r"a\,x_t\,\log(\sigma(h_{t-1}))"),
        ("relu(h) * x * a", r"a\,x_t\,\max(0, h_{t-1})"),
        ("maximum(h, x) * a", r"a\,\max(h_{t-1}, x_t)"),
        ("abs(h) * x * a", r"a\,x_t\,\left|h_{t-1}\right|"),
        ("(h + x) % a", r"(h_{t-1} + x_t) \bmod a"),
        (
            "a * (x // h % 2)",
            r"a\,\left(\left\lfloor \frac{x_t}{h_{t-1}} \right\rfloor \bmod 2\right)",
        ),
        ("atan2(asin(h), x) * a", r"a\,\mathrm{atan2}(\arcsin(h_{t-1}), x_t)"),
        ("floor(h) * x * a", r"a\,x_t\,\left\lfloor h_{t-1} \right\rfloor"),
        ("spike(h - x, slope=3) * a", r"a\,\Theta(h_{t-1} - x_t)"),
        ("h ** a * x", r"x_t\,h_{t-1}^a"),
        ("(h / x) ** a", r"\left(\frac{h_{t-1}}{x_t}\right)^a"),
        (
            "where((h > x) & ~(h <= a), h, where(x < 1, x, a))",
            r"\begin{cases} h_{t-1} & \text{if } (h_{t-1} > x_t) \land (\lnot (h_{t-1} \le a)) \\ "
            r"x_t & \text{else if } x_t < 1 \\ a & \text{otherwise} \end{cases}",
        ),
        (
            "a * where(h == x, 0, 1)",
            r"a\,\left(\begin{cases} 0 & \text{if } h_{t-1} = x_t \\ 1 & \text{otherwise} "
            r"\end{cases}\right)",
        ),
    ],
)
def test_an_expression_is_written_as_in_a_paper(
    tmp_path: Path, expression: str, expected: str
) -> None:
    assert printed(tmp_path, expression) == expected


def test_a_matrix_precedes_its_operand(tmp_path: Path) -> None:
    signature = "h: State, x: Input, Rz: Matrix(block=2)"
    assert printed(tmp_path, "tanh(Rz @ (x * h))", signature) == r"\tanh(R_z\,(h_{t-1}\,x_t))"
    assert printed(tmp_path, "Rz @ h + x", signature) == r"x_t + R_z\,h_{t-1}"


@pytest.mark.parametrize("name", sorted(TABLE))
def test_every_function_is_printed(name: str, tmp_path: Path) -> None:
    cell = traced(tmp_path, "return a * h + x")
    arguments = sympy.symbols("h x a", real=True)[: TABLE[name].arity]
    text = LatexPrinter(Names(cell)).text(TABLE[name].symbol(*arguments))
    assert "h_{t-1}" in text
    assert text.count("{") == text.count("}")
    text = text.replace(r"\log_2", r"\log")
    plain = re.sub(r"\\(mathrm|text|begin|end)\{(\w| |\\_)+\}|\\[A-Za-z]+|h_\{t-1\}|x_t", " ", text)
    assert not re.search(r"_|[A-Za-z]{2}", plain), text


# --- comments and constants ------------------------------------------------------------------


def test_a_comment_stands_beside_its_line_if_latex_sets_it_as_it_stands(tmp_path: Path) -> None:
    body = "u = a * h  # half, |a| < 1\nv = u * x  # 5 % of x_0\nreturn u + v"
    assert lines(traced(tmp_path, body)) == [
        r"u_t &= a\,h_{t-1} && \text{half, |a| < 1}",
        r"v_t &= u_t\,x_t",
        "h_t &= u_t + v_t",
    ]


CONSTANTS = "h: State, x: Input, tau=12.5, dt=0.1, slope=4.0, n=2"


def test_constants_stay_letters_where_the_body_lets_them(tmp_path: Path) -> None:
    body = "s = spike(h - tau, slope=slope)\nreturn sum([dt * x] * n) / tau + s"
    cell = cell_from(tmp_path, source_of(body, CONSTANTS))
    assert lines(with_symbolic_constants(cell)) == [
        r"s_t &= \Theta(h_{t-1} - \tau)",
        r"h_t &= s_t + \frac{2\,\Delta t\,x_t}{\tau}",
    ]
    assert with_symbolic_constants(cell).constants == {"slope": 4.0, "n": 2}
    assert (
        lines(with_symbolic_constants(cell, {"n": 3}))[1]
        == r"h_t &= s_t + \frac{3\,\Delta t\,x_t}{\tau}"
    )
    assert lines(trace(cell))[1] == r"h_t &= s_t + 0.016\,x_t"


def test_a_constant_whose_letter_would_take_for_ever_stays_a_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = cell_from(tmp_path, source_of("return tau * h + x", "h: State, x: Input, tau=0.5"))
    assert with_symbolic_constants(cell).constants == {}
    monkeypatch.setattr(symbolic_constants, "MOST_CALLS", 10)
    before = sys.getprofile()
    assert with_symbolic_constants(cell).constants == {"tau": 0.5}
    assert sys.getprofile() is before


def test_late_annotations_are_read(tmp_path: Path) -> None:
    before = "from __future__ import annotations\n"
    text = source_of("return dt * h + x", "h: State, x: Input, dt=0.5")
    cell = cell_from(tmp_path, before + text)
    assert lines(with_symbolic_constants(cell)) == [r"h_t &= x_t + \Delta t\,h_{t-1}"]


def test_show_prints_the_equations_with_their_letters() -> None:
    done = CliRunner().invoke(main, ["show", "fitzhugh_nagumo", "--stage", "latex"])
    assert done.exit_code == 0
    assert done.output.startswith("\\begin{align}\n  v_t &= v_{t-1} + \\Delta t\\,")
    assert done.output.endswith("  y_t &= v_t\n\\end{align}\n")


# --- the printed equations are the cell's ----------------------------------------------------


def one_channel(cell: CellIR, values: dict[str, float]) -> tuple[list[float], list[float]]:
    """Next states and outputs by the plain PyTorch step, a matrix being a number."""
    names: dict[str, Any] = {
        "torch": torch,
        **FUNCTIONS,
        "_tensor": lambda value: torch.tensor(float(value), dtype=torch.float64),
        "_mix": lambda matrix, vector: matrix * vector,
    }
    exec(plain_source(cell), names)
    order = [a.name for a in (*cell.states, *cell.inputs, *cell.params)]
    tensors = [torch.tensor(values[name], dtype=torch.float64) for name in order]
    states, outputs = names[cell.name](*tensors)
    return [float(s) for s in states], [float(y) for y in outputs]


def read_back(cell: CellIR, numbers: dict[str, float]) -> dict[str, float]:
    """The value of every left side, from the printed lines; numbers are by written name."""
    values = dict(numbers)
    for line in lines(cell):
        left, _, right = re.sub(r" && \\text\{.*\}$", "", line).partition(" &= ")
        assert left not in values, f"{left} stands for two things"
        values[left] = Reader(values).value(right)
    return values


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_the_printed_equations_of_a_shipped_cell_give_what_the_cell_gives(path: Path) -> None:
    function: Cell = find(str(path))
    plain, shown = trace(function), with_symbolic_constants(function)
    names = Names(shown)
    for seed in range(3):
        generator = random.Random(seed)
        values = {a.name: generator.uniform(0.1, 0.9) for a in plain.arguments}
        numbers = {names.before(name): value for name, value in values.items()}
        kept = {name for name in plain.constants if name not in shown.constants}
        numbers |= {names.before(name): float(plain.constants[name]) for name in kept}
        assert len(numbers) == len(values) + len(kept)
        found = read_back(shown, numbers)
        states, outputs = one_channel(plain, values)
        heads = {name for v in vectors_of(plain, "state") for name in v.heads}  # no past
        for name, expected in [
            *((n, h) for n, h in zip(plain.next, states, strict=True) if n in heads),
            *((n, y) for n, y in zip(plain.outputs, outputs, strict=True) if n not in plain.next),
        ]:
            actual = found[names.after(name)]
            assert actual == pytest.approx(expected, rel=1e-4, abs=1e-6), name
