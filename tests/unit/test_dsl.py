"""The language: roles, operators, functions on numbers and on symbols."""

from __future__ import annotations

import ast
import inspect
import math
import pickle
from pathlib import Path

import pytest
import sympy
import torch

import rnncc
from rnncc.calculus.structure import classify
from rnncc.errors import CellError, StructureError
from rnncc.ir import functions
from rnncc.ir.init import Init
from rnncc.lang import dsl
from rnncc.lang.dsl import DEFAULT_INIT, Cell, Input, Matrix, Param, State
from rnncc.nn.initialize import fill
from tests.support.cells import DEF_LINE, cell_from, source_of, traced

FUNCTIONS = [
    name
    for name in rnncc.__all__
    if inspect.isfunction(getattr(rnncc, name))
    and getattr(rnncc, name).__module__ in ("rnncc.lang.dsl", "rnncc.lang.library")
]
NOT_OF_NUMBERS = {"uniform", "spaced", "normal", "constant", "cell", "shift", "mean", "where"}


def lets_of(folder: Path, body: str, signature: str = "h: State, x: Input, a: Param") -> list[str]:
    return [str(let).split("  #")[0].rstrip() for let in traced(folder, body, signature).lets]


# --- roles -----------------------------------------------------------------------------------


def test_a_role_works_bare_and_called(tmp_path: Path) -> None:
    states, inputs = "h: State(init=0.5), g: State", "dt: Input(shared=True), y: Input"
    signature = f"{states}, {inputs}, a: Param(shared=True)"
    ir = traced(tmp_path, "return h + dt * a, g + y", signature)
    kinds = [(a.name, a.kind, a.shared, a.init) for a in ir.arguments]
    assert kinds == [
        ("h", "state", False, 0.5),
        ("g", "state", False, 0.0),
        ("dt", "input", True, None),
        ("y", "input", False, None),
        ("a", "param", True, DEFAULT_INIT),
    ]


def test_the_inits_keep_their_kind_and_numbers(tmp_path: Path) -> None:
    signature = (
        "h: State, x: Input, a: Param(init=uniform(-2, 3)), b: Param(init=normal(0, 1)), "
        "c: Param(init=constant(4)), d: Param, R: Matrix(block=2), "
        "S: Matrix(block=2, init=normal(0, 1))"
    )
    ir = traced(tmp_path, "return (R @ h) * a + (S @ x) * b + c * d", signature)
    assert [a.init for a in ir.params] == [
        Init("uniform", -2.0, 3.0),
        Init("normal", 0.0, 1.0),
        Init("constant", 4.0),
        Init("uniform", -1.0, 1.0),
        None,
        Init("normal", 0.0, 1.0),
    ]


def test_an_init_may_go_through_functions_and_arithmetic(tmp_path: Path) -> None:
    signature = (
        "h: State, x: Input, a: Param(init=log(-log(uniform(0.5, 0.9)))), "
        "b: Param(init=sqrt(1 - uniform(0, 1) / 2)), c: Param(init=3 * spaced(1, 2) ** 2 - 1), "
        "d: Param(init=2 / (constant(4) + 1))"
    )
    ir = traced(tmp_path, "return a * h + b * x + c * d", signature)
    assert [str(a.init) for a in ir.params] == [
        "log(-log(uniform(0.5, 0.9)))",
        "sqrt(-0.5*uniform(0, 1) + 1)",
        "3*spaced(1, 2)**2 - 1",
        "2*(constant(4) + 1)**-1",
    ]
    drawn = [fill(torch.empty(5), a.init) for a in ir.params if isinstance(a.init, Init)]
    assert ((drawn[0] >= math.log(-math.log(0.9))) & (drawn[0] <= math.log(math.log(2)))).all()
    assert ((drawn[1] >= math.sqrt(0.5)) & (drawn[1] <= 1)).all()
    spaced = torch.tensor([1, 1.25, 1.5, 1.75, 2])
    torch.testing.assert_close(drawn[2], 3 * spaced**2 - 1)
    torch.testing.assert_close(drawn[3], torch.full((5,), 0.4))


def test_shaped_values_keep_their_digits_in_half_precision() -> None:
    nu = rnncc.log(-rnncc.log(rnncc.uniform(0.99, 0.999)))
    drawn = fill(torch.empty(4000, dtype=torch.bfloat16), nu).double()
    decay = torch.exp(-torch.exp(drawn))
    assert decay.min() < 0.9905
    assert decay.max() > 0.9985
    with_default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        spaced = fill(torch.empty(512, dtype=torch.float32), rnncc.spaced(0, 100))
    finally:
        torch.set_default_dtype(with_default)
    assert len(spaced.unique()) == 512


def test_an_input_has_its_distribution_and_its_source(tmp_path: Path) -> None:
    signature = (
        "h: State, x: Input, y: Input(bias=constant(-1), typical=normal(5, 2)), "
        "dt: Input(shared=True), B: Input(shared=True, projected=True), "
        "mask: Input(projected=False), z: Input(projected=True)"
    )
    ir = traced(tmp_path, "return h * dt + x * y + B + mask * z", signature)
    assert [(a.name, a.projected, a.bias, str(a.typical)) for a in ir.inputs] == [
        ("x", True, None, "normal(0, 1)"),
        ("y", True, Init("constant", -1.0), "normal(5, 2)"),
        ("dt", False, None, "uniform(0, 1)"),
        ("B", True, None, "normal(0, 1)"),
        ("mask", False, None, "uniform(0, 1)"),
        ("z", True, None, "normal(0, 1)"),
    ]


def test_roles_are_equal_by_value_and_frozen() -> None:
    assert Input(shared=True) == Input(shared=True) != Input()
    with pytest.raises(AttributeError):
        Matrix(block=2).block = 3  # type: ignore[misc]


def test_cell_turns_a_function_into_a_cell_that_knows_where_it_stands(tmp_path: Path) -> None:
    cell = cell_from(tmp_path, source_of("return h * a + x"))
    assert isinstance(cell, Cell)
    assert (cell.name, Path(cell.file).name, cell.line) == ("odd", "odd.py", DEF_LINE)


def test_the_line_of_a_cell_is_that_of_def_below_several_decorators(tmp_path: Path) -> None:
    plain = "def same(f):\n    return f\n"
    cell = cell_from(
        tmp_path, source_of("return h * a + x", before=plain).replace("@cell", "@cell\n@same")
    )
    lines = (tmp_path / "odd.py").read_text().splitlines()
    assert lines[cell.line - 1].startswith("def odd(")


# --- operators -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "let"),
    [
        ("h + x - a", "h_next = -a + h + x"),
        ("1 - h * x * a", "h_next = -a*h*x + 1"),
        ("2 / (h + x) * a", "h_next = 2*a/(h + x)"),
        ("-h * +x * a", "h_next = -a*h*x"),
        ("h**2 + x**-3 + a**1", "h_next = a + h**2 + x**(-3)"),
        ("h**2.0 * x * a", "h_next = a*h**2*x"),
        ("h**0.5 + x**-0.5 + a", "h_next = a + rsqrt(x) + sqrt(h)"),
        ("h**1.5 + x**a", "h_next = pow(h, 1.5) + pow(x, a)"),
        ("2**h * x * a", "h_next = a*x*pow(2, h)"),
        ("abs(h) * a + x", "h_next = a*abs(h) + x"),
        ("h * x / a", "h_next = h*x/a"),
        ("exp(x) * exp(h) * a", "h_next = a*exp(h)*exp(x)"),
        ("sqrt(x**2) * h * a", "h_next = a*h*sqrt(x**2)"),
        ("log(exp(h)) * a + x", "h_next = a*log(exp(h)) + x"),
        ("where(h > x, a, 1)", "h_next = where(h > x, a, 1)"),
        ("where((h >= x) & ~(a < 1), a, x)", "h_next = where((h >= x) & (not(a < 1)), a, x)"),
        ("where((h == x) | (a != 1), a, x)", "h_next = where((h == x) | (a != 1), a, x)"),
        ("where(1 > h, a, x)", "h_next = where(h < 1, a, x)"),
        ("silu(h) * a + x", "h_next = a*h*sigmoid(h) + x"),
        ("clip(h, -1, x) * a", "h_next = a*clip(h, -1, x)"),
    ],
)
def test_an_expression_stays_as_written_and_is_never_expanded(
    expression: str, let: str, tmp_path: Path
) -> None:
    assert lets_of(tmp_path, f"return {expression}") == [let]


def test_functions_that_sympy_could_combine_or_evaluate_stay_apart(tmp_path: Path) -> None:
    assert lets_of(tmp_path, "return tanh(0 * h) + exp(a) * x + sign(h)") == [
        "h_next = x*exp(a) + sign(h) + tanh(0)"
    ]


def test_constants_of_any_size_survive(tmp_path: Path) -> None:
    ir = traced(tmp_path, "return h * 1e-40 + x * 1e300 + a * 123456789012345678901234567890")
    numbers = sorted(map(float, ir.lets[0].expr.atoms(sympy.Number)))
    assert numbers == [1e-40, 123456789012345678901234567890.0, 1e300]


def test_a_name_that_sympy_knows_is_a_plain_symbol(tmp_path: Path) -> None:
    signature = "S: State, I: Input, N: Param, E: Param, beta: Param, gamma: Param, zeta: Param"
    body = "lambda_ = S * N + I\nO = lambda_ * E + beta\nreturn O * gamma + zeta + Q(S)"
    ir = traced(tmp_path, body, signature, before="def Q(pi):\n    return pi * pi\n")
    assert [str(let) for let in ir.lets] == [
        "lambda_ = I + N*S",
        "O = E*lambda_ + beta",
        "S_next = O*gamma + S**2 + zeta",
    ]


# --- functions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (rnncc.exp(1.0), math.e),
        (rnncc.log(2), math.log(2)),
        (rnncc.log1p(0.5), math.log1p(0.5)),
        (rnncc.expm1(0.5), math.expm1(0.5)),
        (rnncc.sqrt(2), math.sqrt(2)),
        (rnncc.rsqrt(4), 0.5),
        (rnncc.sigmoid(0), 0.5),
        (rnncc.sigmoid(-1000), 0.0),
        (rnncc.sigmoid(1000), 1.0),
        (rnncc.tanh(0.5), math.tanh(0.5)),
        (rnncc.softplus(0), math.log(2)),
        (rnncc.softplus(1000), 1000.0),
        (rnncc.softplus(-1000), 0.0),
        (rnncc.logsigmoid(-1000), -1000.0),
        (rnncc.silu(0), 0.0),
        (rnncc.gelu(0.5), 0.5 * 0.5 * (1 + math.erf(0.5 / math.sqrt(2)))),
        (rnncc.relu(-3), 0.0),
        (rnncc.abs(-3), 3),
        (rnncc.sign(-3), -1.0),
        (rnncc.sign(0), 0.0),
        (rnncc.exprel(0.5), math.expm1(0.5) / 0.5),
        (rnncc.exprel(0), 1.0),
        (rnncc.floor(-1.5), -2.0),
        (rnncc.sin(1), math.sin(1)),
        (rnncc.cos(1), math.cos(1)),
        (rnncc.sinh(1), math.sinh(1)),
        (rnncc.cosh(1), math.cosh(1)),
        (rnncc.erf(0.3), math.erf(0.3)),
        (rnncc.maximum(1, 2), 2),
        (rnncc.minimum(1, 2), 1),
        (rnncc.clip(5, 0, 1), 1),
        (rnncc.clip(-5, 0, 1), 0),
        (rnncc.where(True, 1, 2), 1),
        (rnncc.where(2 > 3, 1, 2), 2),
        (rnncc.spike(0.1), 1.0),
        (rnncc.spike(0.0), 0.0),
        (rnncc.spike(0.1, surrogate=lambda u: 1 / (1 + u)), 1.0),
        (rnncc.round(2.5), 2.0),
        (rnncc.round(-0.125, 2), -0.12),
        (rnncc.ceil(-1.5), -1.0),
        (rnncc.trunc(-1.5), -1.0),
        (rnncc.atan(1), math.pi / 4),
        (rnncc.atan2(-1.0, -2.0), math.atan2(-1, -2)),
        (rnncc.atan2(0, 0), 0.0),
        (rnncc.asin(0.3), math.asin(0.3)),
        (rnncc.acos(0.3), math.acos(0.3)),
        (rnncc.asinh(2), math.asinh(2)),
        (rnncc.acosh(2), math.acosh(2)),
        (rnncc.atanh(0.5), math.atanh(0.5)),
        (rnncc.log2(8), 3.0),
        (rnncc.log10(2), math.log10(2)),
        (rnncc.exp2(-1), 0.5),
        (rnncc.hardsigmoid(1.5), 0.75),
        (rnncc.hardtanh(7), 1.0),
        (rnncc.leaky_relu(-1), -0.01),
        (rnncc.elu(-1), math.expm1(-1)),
        (rnncc.selu(1), 1.0507009873554805),
        (rnncc.mish(0), 0.0),
        (rnncc.softsign(-1), -0.5),
        (rnncc.softmax([1, 1])[0], 0.5),
        (rnncc.logsumexp([1000, 1000]), 1000 + math.log(2)),
        (rnncc.stop_gradient(3), 3),
        (rnncc.forward_as(2, gradient_of=3), 2),
    ],
)
def test_a_function_of_numbers_is_a_number(value: float, expected: float) -> None:
    assert value == pytest.approx(expected, abs=1e-15)


def test_a_function_of_constants_is_folded_into_the_cell(tmp_path: Path) -> None:
    ir = traced(tmp_path, "return h * exp(-1 / tau) + x", "h: State, x: Input, tau=2.0")
    assert float(ir.lets[0].expr.coeff(sympy.Symbol("h", real=True))) == math.exp(-0.5)


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - NOT_OF_NUMBERS))
def test_a_function_outside_a_cell_refuses_anything_but_numbers(name: str) -> None:
    function = getattr(rnncc, name)
    parameters = inspect.signature(function).parameters.values()
    with pytest.raises(TypeError):
        function(*["text" for p in parameters if p.default is p.empty])


def test_the_decorator_says_where_it_goes() -> None:
    with pytest.raises(TypeError, match=r"@cell takes no arguments.\nFix: @cell, without paren"):
        rnncc.cell()

    async def odd() -> None: ...

    with pytest.raises(TypeError, match=r"above a plain function.*\nFix: @cell above def odd"):
        rnncc.cell(odd)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_has_a_docstring(name: str) -> None:
    assert len(getattr(rnncc, name).__doc__ or "") > 5


def test_every_unary_row_of_the_table_is_a_function_of_the_language() -> None:
    operators = {"div", "pow", "gt", "ge", "lt", "le", "eq", "ne", "both", "either", "negate"}
    operators |= {"remainder", "floor_divide", "at_least", "at_most"}
    operators |= {"exprel_slope", "atan2_slope", "absent", "finite_part", "pivot"}
    rows = {name for name in functions.TABLE if not name.startswith("spike_")}
    assert rows - operators <= set(FUNCTIONS) | {"abs"}


@pytest.mark.parametrize("surrogate", functions.SURROGATES)
def test_spike_takes_each_surrogate_with_its_slope(surrogate: str, tmp_path: Path) -> None:
    (let,) = lets_of(tmp_path, f"return spike(h - a, surrogate='{surrogate}', slope=3.0) + x")
    assert let == f"h_next = x + spike_{surrogate}(-a + h, 3.0)"


def test_operations_over_all_channels_are_refused_with_a_reason(tmp_path: Path) -> None:
    for expression in ("shift(h, 1)", "mean(h)", "mean(x) + h", "shift(x, -2) + h"):
        ir = traced(tmp_path, f"return a * x * ({expression})")
        with pytest.raises(StructureError, match="channels couple"):
            classify(ir)


# --- calls and copies ------------------------------------------------------------------------


def test_a_cell_called_directly_says_how_it_runs(tmp_path: Path) -> None:
    with pytest.raises(CellError, match=r"odd\.py:6: cell 'odd': called directly") as caught:
        cell_from(tmp_path, source_of("return h * a + x"))(1, 2, 3)
    assert "c = rnncc.compile(odd); c(...) runs it" in str(caught.value)


def test_errors_survive_pickling(tmp_path: Path) -> None:
    with pytest.raises(CellError) as caught:
        traced(tmp_path, "return h")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_dsl_imports_sympy_only_inside_functions() -> None:
    tree = ast.parse(Path(dsl.__file__).read_text())
    top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert "sympy" not in " ".join(ast.unparse(node) for node in top)


def test_bare_roles_are_dataclasses_without_required_fields() -> None:
    bare = (State().init, Input().shared, Param().shared, Matrix().block)
    assert bare == (0.0, False, False, None)
