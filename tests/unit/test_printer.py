"""Printer: one list of expressions that every target prints, with one value."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import sympy
from numpy.typing import NDArray
from sympy import Expr

from rnncc.codegen.printer import CPrinter, Printer, TorchPrinter
from rnncc.ir import functions
from rnncc.ir.functions import call
from rnncc.ir.program import Compiled
from rnncc.lang.loader import find, shipped
from tests.support.expressions import EXPRESSIONS, POINTS, by_torch, x, y, z
from tests.support.runs import compiled

DOUBLE = re.compile(r"(?<![\w.])(\d+\.\d*|\.\d+|\d+(?=e))(e[+-]?\d+)?(?![\w.])")

Array = NDArray[np.float64]


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_an_expression_prints_as_written_here(name: str) -> None:
    expr, text = EXPRESSIONS[name]
    assert CPrinter().text(expr) == text


def test_every_function_of_the_table_is_printed_here() -> None:
    used = {type(o).__name__ for e, _ in EXPRESSIONS.values() for o in e.atoms(functions.Opaque)}
    assert used == set(functions.TABLE)


def test_bounds_that_are_numbers_stay_numbers_for_torch() -> None:
    """At the bound of a tensor torch.clamp has a derivative in reverse mode, none in forward."""
    printed = TorchPrinter().text
    assert printed(call("clip", x, -1, 2)) == "(torch.clamp(x, -1.0, 2.0))"
    assert printed(call("at_least", x, 0)) == "(torch.clamp(x, min=0.0))"
    assert printed(call("clip", x, -1, y)) == "(torch.clamp(x, _tensor(-1.0), y))"


# --- one value -------------------------------------------------------------------------------


def by_sympy(point: Array) -> Array:
    """Arithmetic by SymPy itself; NaN where the expression holds a function."""
    at = dict(zip((x, y, z), map(float, point), strict=True))
    plain = [expr for expr, _ in EXPRESSIONS.values() if not expr.atoms(functions.Opaque)]
    values = {expr: expr.subs(at) for expr in plain}
    finite = {expr: float(value) for expr, value in values.items() if value.is_finite}
    return np.array([finite.get(expr, math.nan) for expr, _ in EXPRESSIONS.values()])


def test_arithmetic_has_the_value_that_sympy_gives_it() -> None:
    for a in POINTS:
        point = np.array([a, 0.7, -1.25])
        wanted = by_sympy(point)
        known = np.isfinite(wanted)
        np.testing.assert_allclose(by_torch(point)[known], wanted[known], rtol=1e-12)


# --- literals --------------------------------------------------------------------------------


def bare_doubles(text: str) -> list[str]:
    """Double literals outside real(...)."""
    return [m.group() for m in DOUBLE.finditer(re.sub(r"real\(-?[\d.e+-]+\)", "real()", text))]


def test_the_check_for_double_literals_finds_them() -> None:
    for text in ("0.5*x", "x + 1.0", "1e-3*x", "2.0e5", "tanh(0.5)", ".5*x", "x - 3."):
        assert bare_doubles(text) != [], text
    for text in ("0.5f*x", "x_0 + z1", "real(0.1)", "real(-1e-40)", "1.5e+20f", "p2 * x3"):
        assert bare_doubles(text) == [], text


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_no_literal_is_a_double_by_accident(name: str) -> None:
    assert bare_doubles(CPrinter().text(EXPRESSIONS[name][0])) == []


@pytest.mark.parametrize("name", [path.stem for path in shipped()])
def test_no_shipped_cell_computes_with_a_double_literal(name: str) -> None:
    assert find(name).name == name
    text = cell_lines(compiled(name).files["cell.h"])
    assert "_step(" in text
    assert bare_doubles(text) == []


def cell_lines(source: str) -> str:
    """The step, Jacobian and adjoint of a kernel, without comments."""
    between = source.partition("namespace rnncc {")[2].partition("#include")[0]
    return re.sub(r"//.*", "", between)


def all_expressions(stages: Compiled) -> list[Expr]:
    lets = (*stages.program.lets, *stages.jacobian.lets, *stages.adjoint.lets)
    return [let.expr for let in lets]


@pytest.mark.parametrize("printer", [CPrinter(), TorchPrinter()], ids=["c", "torch"])
@pytest.mark.parametrize("name", [path.stem for path in shipped()])
def test_every_printer_prints_every_expression_of_a_shipped_cell(
    name: str, printer: Printer
) -> None:
    for expr in all_expressions(compiled(name).stages):
        assert printer.text(expr)


# --- what can't be printed -------------------------------------------------------------------


@pytest.mark.parametrize(
    "expr", [sympy.sin(x), sympy.Max(x, y), sympy.Derivative(x**2, x), sympy.Abs(x), sympy.zoo]
)
@pytest.mark.parametrize("make", [CPrinter, TorchPrinter], ids=["c", "torch"])
def test_what_no_row_stands_for_is_refused(make: Callable[[], Printer], expr: Expr) -> None:
    with pytest.raises(TypeError):
        make().text(expr)


def test_a_power_that_is_not_an_integer_is_refused() -> None:
    with pytest.raises(TypeError, match="not an integer reached the printer"):
        CPrinter().text(sympy.sqrt(x))
