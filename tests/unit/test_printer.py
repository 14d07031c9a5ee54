"""Printer: one list of expressions that every target prints, with one value."""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import sympy
import torch
from numpy.typing import NDArray
from sympy import Expr, Float, Integer, Rational

from rnncc.codegen.printer import CPrinter, Printer, TorchPrinter
from rnncc.export import torch_loop as reference
from rnncc.ir import functions
from rnncc.ir.program import Compiled
from rnncc.lang.loader import find, shipped
from rnncc.runtime.cpu.build import find_compiler
from tests.kernels.test_math import HEADERS, compile_source
from tests.support.runs import compiled

x, y, z = sympy.symbols("x y z", real=True)
call = functions.call

# An expression and how C++ prints it; PyTorch must print it too, with the same value.
EXPRESSIONS: dict[str, tuple[Expr, str]] = {
    "a symbol": (x, "x"),
    "an integer": (Integer(3), "3.0f"),
    "a negative integer": (Integer(-3), "-3.0f"),
    "a float that float32 holds": (Float(0.5), "0.5f"),
    "a float that float32 rounds": (Float(0.1), "real(0.1)"),
    "a tiny constant": (Float(1e-40) * x, "real(1e-40) * x"),
    "a huge constant": (Float(1e300) * x, "real(1e+300) * x"),
    "an integer beyond int64": (Integer(10**25) * x, "real(1e+25) * x"),
    "a power of two": (Integer(2**80) * x, "1.2089258196146292e+24f * x"),
    "a third": (x / 3, "x / 3.0f"),
    "two thirds": (2 * x / 3, "2.0f * x / 3.0f"),
    "a rational alone": (Rational(1, 3), "real(0.3333333333333333)"),
    "a sum": (x + y + z, "x + y + z"),
    "a sum with a constant": (x + 1, "x + 1.0f"),
    "a complement": (1 - x, "1.0f - x"),
    "a difference": (x - y, "x - y"),
    "a negative sum": (-x - y, "-x - y"),
    "a difference of differences": (x - (y - z), "x - y + z"),
    "a negation": (-x, "-x"),
    "a negation of a product": (-x * y, "-x * y"),
    "a negation of a power": (-(x**2), "-x * x"),
    "a negated base": ((-x) ** 3, "-x * x * x"),
    "minus times minus": ((x - 1) * (1 - y), "(1.0f - y) * (x - 1.0f)"),
    "a product of sums": ((x + 1) * (y - z), "(x + 1.0f) * (y - z)"),
    "a product in a sum": (x * y - z * (x + y), "x * y - z * (x + y)"),
    "a square": (x**2, "x * x"),
    "a cube": (x**3, "x * x * x"),
    "a fourth power": (x**4, "x * x * x * x"),
    "a square of a sum": ((x + y) ** 2, "(x + y) * (x + y)"),
    "a seventh power": (x**7, "(x * x * x) * (x * x * x) * x"),
    "a power in a product": (x**2 * y, "x * x * y"),
    "a reciprocal": (1 / x, "1.0f / x"),
    "a reciprocal square": (x**-2, "1.0f / (x * x)"),
    "a quotient": (x / y, "x / y"),
    "a quotient of products": (x * y / (z * z + 1), "x * y / (z * z + 1.0f)"),
    "a quotient by a product": (x / (y * z), "x / (y * z)"),
    "a negative quotient": (-x / y, "-x / y"),
    "a quotient in a sum": (1 - x / y, "1.0f - x / y"),
    "a named quotient": (call("div", x + 1, y * z), "(x + 1.0f) / (y * z)"),
    "a named quotient in a product": (call("div", x, y) * z, "z * x / y"),
    "a function": (call("tanh", x + y), "tanh(x + y)"),
    "a function of a constant": (call("tanh", Integer(1)) * x, "x * tanh(real(1.0))"),
    "functions of one another": (call("exp", -call("abs", x)), "exp(-abs(x))"),
    "a square of a function": (1 - call("tanh", x) ** 2, "1.0f - tanh(x) * tanh(x)"),
    "a maximum with a constant": (call("maximum", x, Integer(0)), "maximum(x, real(0.0))"),
    "a clip": (call("clip", x, Integer(-1), y), "clip(x, real(-1.0), y)"),
    "a power with a symbol": (call("pow", call("abs", x), y), "pow(abs(x), y)"),
    "a choice": (call("where", call("gt", x, y), z, Integer(1)), "(x > y ? z : real(1.0))"),
    "a choice by sums": (
        call("where", call("le", x + 1, y - z), x + y, -x),
        "(x + 1.0f <= y - z ? x + y : -x)",
    ),
    "a choice in a product": (
        z * call("where", call("eq", x, Integer(1)), x, Float(0.1)),
        "z * (x == 1.0f ? x : real(0.1))",
    ),
    "a choice within a choice": (
        call("where", call("lt", x, y), call("where", call("ge", x, z), x, y), z),
        "(x < y ? (x >= z ? x : y) : z)",
    ),
    "a choice by two conditions": (
        call("where", call("both", call("gt", x, y), call("ne", y, z)), x, y),
        "((x > y) && (y != z) ? x : y)",
    ),
    "a choice by either": (
        call("where", call("either", call("gt", x, y), call("negate", call("lt", y, z))), x, y),
        "((x > y) || (!(y < z)) ? x : y)",
    ),
    "a spike": (call("spike_fast_sigmoid", x - y, Float(25.0)), "heaviside(x - y)"),
    **{
        name: (call(name, call("abs", x) + 1), f"{name}(abs(x) + 1.0f)")
        for name in (
            "exp log log1p expm1 exprel exprel_slope sqrt rsqrt sigmoid tanh softplus logsigmoid "
            "sin cos sinh cosh erf relu abs sign floor"
        ).split()
    },
    "minimum": (call("minimum", x, y), "minimum(x, y)"),
    **{
        f"spike_{name}": (call(f"spike_{name}", x, Float(2)), "heaviside(x)")
        for name in functions.SURROGATES
    },
}  # fmt: skip
POINTS = np.array([-2.5, -1.0, -0.3, 0.0, 0.4, 1.0, 1.7])
DOUBLE = re.compile(r"(?<![\w.])(\d+\.\d*|\.\d+|\d+(?=e))(e[+-]?\d+)?(?![\w.])")

Array = NDArray[np.float64]


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_an_expression_prints_as_written_here(name: str) -> None:
    expr, text = EXPRESSIONS[name]
    assert CPrinter().text(expr) == text


def test_every_function_of_the_table_is_printed_here() -> None:
    used = {type(o).__name__ for e, _ in EXPRESSIONS.values() for o in e.atoms(functions.Opaque)}
    assert used == set(functions.TABLE)


# --- one value -------------------------------------------------------------------------------


def harness() -> str:
    lines = [*HEADERS, "namespace rnncc {"]
    for i, (expr, _) in enumerate(EXPRESSIONS.values()):
        lines += [
            "template <typename real>",
            f"RNNCC_FN real e{i}(real x, real y, real z) {{",
            f"  (void)x; (void)y; (void)z; return {CPrinter().text(expr)};",
            "}",
        ]
    lines.append("}  // namespace rnncc")
    for t in ("float", "double"):
        lines.append(f'extern "C" void all_{t}(const {t}* in, {t}* out) {{')
        lines += [
            f"  out[{i}] = rnncc::e{i}<{t}>(in[0], in[1], in[2]);" for i in range(len(EXPRESSIONS))
        ]
        lines.append("}")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = find_compiler()
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("printer")
    (folder / "printed.cpp").write_text(harness())
    command = " ".join(compiler.command)
    compile_source(command, folder / "printed.cpp", folder / "printed.so", "-O1")
    return ctypes.CDLL(str(folder / "printed.so"))


def by_c(library: ctypes.CDLL, point: Array, dtype: type) -> Array:
    given, out = point.astype(dtype), np.full(len(EXPRESSIONS), np.nan, dtype)
    kind = "float" if dtype is np.float32 else "double"
    pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in (given, out)]
    getattr(library, f"all_{kind}")(*pointers)
    return out.astype(np.float64)


def by_torch(point: Array) -> Array:
    names = {
        "torch": torch,
        "_tensor": lambda value: torch.tensor(float(value), dtype=torch.float64),
        **reference.FUNCTIONS,
        "_heaviside": lambda u, _: (u > 0).to(u.dtype),
        **dict(zip("xyz", torch.from_numpy(point), strict=True)),
    }
    texts = [TorchPrinter().text(expr) for expr, _ in EXPRESSIONS.values()]
    return np.array([float(eval(text, dict(names))) for text in texts])


def by_sympy(point: Array) -> Array:
    """Arithmetic by SymPy itself; NaN where the expression holds a function."""
    at = dict(zip((x, y, z), map(float, point), strict=True))
    plain = [expr for expr, _ in EXPRESSIONS.values() if not expr.atoms(functions.Opaque)]
    values = {expr: expr.subs(at) for expr in plain}
    finite = {expr: float(value) for expr, value in values.items() if value.is_finite}
    return np.array([finite.get(expr, math.nan) for expr, _ in EXPRESSIONS.values()])


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-13), (np.float32, 2e-5)])
def test_c_and_pytorch_print_the_same_value(
    dtype: type, tolerance: float, library: ctypes.CDLL
) -> None:
    names = list(EXPRESSIONS)
    for a in POINTS:
        for b, c in ((0.7, -1.25), (a, a), (1.7, 0.4)):
            point = np.array([a, b, c]).astype(dtype).astype(np.float64)
            got, wanted = by_c(library, point, dtype), by_torch(point)
            finite = np.abs(wanted) < (1e38 if dtype is np.float32 else np.inf)
            close = np.isclose(got, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)
            off = {names[i] for i in np.flatnonzero(finite & ~close)}
            beyond = {"a huge constant"} if dtype is np.float32 else set()  # infinite there
            assert off <= beyond, f"at {point}"


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


def test_a_power_that_is_no_integer_is_refused() -> None:
    with pytest.raises(TypeError, match="not an integer reached the printer"):
        CPrinter().text(sympy.sqrt(x))
