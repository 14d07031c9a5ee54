"""Jacobian and adjoint: their text, evaluated, against autograd through the cell's own function."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import sympy
import torch
from torch import Tensor

from rnncc.calculus.differentiate import adjoint, differentiate
from rnncc.calculus.lower import group_size, lower
from rnncc.calculus.structure import classify
from rnncc.codegen.printer import TorchPrinter
from rnncc.export import torch_loop as reference
from rnncc.ir import functions
from rnncc.ir.program import AdjointIR, Argument, CellIR, JacobianIR, Let, Program, Slot
from rnncc.lang.dsl import Cell
from rnncc.lang.loader import find
from rnncc.lang.trace import trace
from rnncc.nn.initialize import fill
from tests.support.cells import (
    cell_from,
    gradients,
    random_values,
    run_loop,
    run_step,
    source_of,
    traced,
)
from tests.support.runs import SHIPPED

THREE = "h: State, x: Input, q: Input"

# Each row of functions.TABLE in an expression of the state h and the inputs x and q.
EXPRESSIONS = {
    "exp": "exp(h * x)",
    "log": "log(h * x)",
    "log1p": "log1p(h * x)",
    "expm1": "expm1(h * x)",
    "exprel": "exprel(h * x)",
    "sqrt": "sqrt(h * x)",
    "rsqrt": "rsqrt(h) * x",
    "sigmoid": "sigmoid(h * x)",
    "tanh": "tanh(h * x)",
    "softplus": "softplus(h * x)",
    "logsigmoid": "logsigmoid(h * x)",
    "sin": "sin(h * x)",
    "cos": "cos(h * x)",
    "sinh": "sinh(h * x)",
    "cosh": "cosh(h * x)",
    "erf": "erf(h * x)",
    "pow": "(h * h + 1) ** x",
    "div": "h / x",
    "relu": "relu(h) * relu(x)",
    "abs": "abs(h) * abs(x * q)",
    "sign": "sign(h) * x * h",
    "floor": "floor(h) * x * h",
    "round": "round(h) * x * h",
    "atan": "atan(h * x)",
    "asinh": "asinh(h * x)",
    "acosh": "acosh(h * x)",
    "atanh": "atanh(h * x / 10)",
    "log2": "log2(h * x)",
    "exp2": "exp2(h * x)",
    "asin": "asin(h * x / 10)",
    "acos": "acos(h * x / 10)",
    "atan2": "atan2(h, x) + q * atan2(x, q)",
    "elu": "elu(h * x) * q",
    "mish": "mish(h * x) * q",
    "softsign": "softsign(h * x) * q",
    "remainder": "(h + 0.1) % (x + 4) + x * q",
    "floor_divide": "stop_gradient(h * x) // stop_gradient(q + 4.1) * h",
    "finite_part": "logsumexp([h, x, q])",
    "pivot": "softmax([h, x, q])[0]",
    "stop_gradient": "stop_gradient(h * x) * q + h * x",
    "forward_as": "forward_as(h * x, gradient_of=tanh(h * q))",
    "maximum": "maximum(h, x) * q",
    "minimum": "minimum(h, x) * q",
    "clip": "clip(h, x, q)",
    "at_least": "clip(h, x) * q",
    "at_most": "clip(h, None, x) * q",
    "where": "where(h > x, h * x, h * q)",
    "gt": "where(h > x, h, q)",
    "ge": "where(h >= x, h, q)",
    "lt": "where(h < x, h, q)",
    "le": "where(h <= x, h, q)",
    "eq": "where(h == x, h, q)",
    "ne": "where(h != x, h, q)",
    "both": "where((h > x) & (h < q), h, q)",
    "either": "where((h > x) | (h < q), h, q)",
    "negate": "where(~(h > x), h, q)",
    "spike_fast_sigmoid": "spike(h - x, slope=2.0) * q",
    "spike_atan": "spike(h - x, surrogate='atan', slope=2.0) * q",
    "spike_sigmoid": "spike(h - x, surrogate='sigmoid', slope=2.0) * q",
    "spike_own": "spike(h - x, surrogate=lambda u: exp(-u * u)) * q",
    "spike_triangle": "spike(h - x, surrogate='triangle', slope=0.3) * q",
}
DETACHED = {"stop_gradient", "forward_as"}
MORE = {
    "clip at constants": "clip(h, -1, 0.5) * x",
    "clip of a constant": "clip(0.5, h, x)",
    "clip to an empty range": "clip(h, 1, -1) * x + clip(h, x, x)",
    "relu of a difference": "relu(h - x)",
    "maximum of the same": "maximum(h, h) * x",
    "maximum with a constant": "maximum(h, 0.5) * minimum(1, x)",
    "a real power": "relu(h) ** 1.5 + abs(x) ** -0.5",
    "a constant to a power": "2 ** h * 0.5 ** x",
    "nested choices": "where(h > 0, where(x > 0, h, q), where(x > h, x * h, 1.0))",
    "a quotient of quotients": "(h / (x + 4)) / ((q + 4) / (h * h + 1))",
    "quotients that share": "h / (1 + x * x) + q / (1 + x * x) ** 2",
    "powers": "h ** 3 + (x + 4) ** -2 + q ** 7",
    "gelu": "gelu(h) * silu(x)",
    "hardsigmoid and hardtanh": "hardsigmoid(6 * h) * hardtanh(x) + hardtanh(q, -3, 0.3)",
    "leaky_relu": "leaky_relu(h) * leaky_relu(x, 0.2)",
    "selu and another elu": "elu(h) * selu(x) + elu(q, 0.5)",
    "ceil and trunc": "ceil(h) * x + trunc(x) * h",
    "log10": "log10(h * h + 1) * x",
    "softmax": "softmax([h, x, q])[0] + x * softmax((h * x, q))[1]",
    "either but not both": "where((h > x) ^ (h < q), h, q)",
    "nearest, of decimals": "round(h * 0.77, 1) * x",
    "deep": "tanh(tanh(tanh(tanh(h * x) + q) * h) + x)",
}
KINKS = (-3.0, -1.0, -0.5, 0.0, 0.3, 0.5, 1.0, 2.0)


# --- the programs, run -----------------------------------------------------------------------


def evaluate(
    lets: Iterable[Let], values: Mapping[str, Tensor], dtype: torch.dtype
) -> dict[str, Any]:
    """Run lets as PyTorch text; a spike is its step."""
    names: dict[str, Any] = {
        "torch": torch,
        "_tensor": lambda number: torch.tensor(number, dtype=dtype),
        **reference.FUNCTIONS,
        "_heaviside": lambda u, _: (u > 0).to(u.dtype),
    }
    known: dict[str, Any] = dict(values)
    for let in lets:
        known[let.name] = eval(TorchPrinter().text(let.expr), names, known)
    return known


def scalars(slots: Sequence[Slot], tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """The value of each slot: its element of the last group of dimensions of its tensor."""
    return {s.symbol.name: tensors[s.tensor][..., s.offset] for s in slots}


@dataclasses.dataclass
class Derivatives:
    """Of one step at P points: entries of the Jacobian, and the gradient of each argument."""

    jacobian: dict[str, Tensor]
    gradients: dict[str, Tensor]


@dataclasses.dataclass
class Points:
    """Values of all arguments at P points, and the gradients that flow into the results."""

    values: dict[str, Tensor]
    weights: list[Tensor]

    def to(self, dtype: torch.dtype) -> Points:
        cast = {n: v.detach().to(dtype) for n, v in self.values.items()}
        return Points(cast, [w.to(dtype) for w in self.weights])


def by_text(ir: CellIR, points: Points) -> Derivatives:
    """The values of the derived programs."""
    program = lower(ir, group_size(ir))
    jacobian, reverse = differentiate(program), adjoint(program)
    arguments = _scalars_of(ir, program, points)
    dtype = points.weights[0].dtype
    step = evaluate(program.lets, arguments, dtype)
    forward = evaluate(jacobian.lets, step, dtype)
    like = points.weights[0][..., 0]
    entries = {
        f"d {program.next[r]} / d {column}": _number(entry, forward, dtype) + torch.zeros_like(like)
        for r, row in enumerate(jacobian.entries)
        for column, entry in zip(jacobian.states, row, strict=True)
    }
    upstream = [*_into_states(program, points), *_into_readouts(program, points)]
    names = map(str, (*reverse.upstream_states, *reverse.upstream_outputs))
    step |= dict(zip(names, upstream, strict=True))
    backward = evaluate(reverse.lets, step, dtype)
    exprs = (*reverse.states, *reverse.inputs, *reverse.params)
    found = {
        symbol.name: _number(expr, backward, dtype) + torch.zeros_like(like)
        for symbol, expr in zip(program.arguments, exprs, strict=True)
    }
    for slot in program.params:
        found[slot.symbol.name] = found[slot.symbol.name].sum(0)
    return Derivatives(entries, found)


def by_autograd(cell: Cell, ir: CellIR, points: Points) -> Derivatives:
    """Autograd's values for the function itself."""
    program = lower(ir, group_size(ir))
    leaves = {n: v.detach().requires_grad_() for n, v in points.values.items()}
    states, outputs = run_step(cell, ir, leaves)
    held = [leaves[a.name] for a in ir.states]
    entries: dict[str, Tensor] = {}
    for r, value in enumerate(program.next):
        s, i = divmod(r, program.group)
        row = gradients([states[s][:, i]], [torch.ones_like(states[s][:, i])], held)
        named = scalars(program.states, row)
        entries |= {f"d {value} / d {name}": g for name, g in named.items()}
    found = gradients([*states, *outputs], points.weights, list(leaves.values()))
    named = Points(dict(zip(leaves, found, strict=True)), [])
    return Derivatives(entries, _scalars_of(ir, program, named))


def _scalars_of(ir: CellIR, program: Program, points: Points) -> dict[str, Tensor]:
    groups = ((ir.states, program.states), (ir.inputs, program.inputs), (ir.params, program.params))
    result: dict[str, Tensor] = {}
    for arguments, slots in groups:
        tensors = [points.values[a.name] for a in arguments]
        flat = [t.flatten() if a.block else t for a, t in zip(arguments, tensors, strict=True)]
        result |= scalars(slots, flat)
    return result


def _number(expr: sympy.Expr, values: dict[str, Any], dtype: torch.dtype) -> Tensor:
    value = evaluate([Let("value_", expr)], values, dtype)["value_"]
    return torch.as_tensor(value, dtype=dtype)


def _into_states(program: Program, points: Points) -> list[Tensor]:
    """A next state's own weight, and that of every output which is that state."""
    own = [w for weights in points.weights for w in weights.unbind(-1)]
    first = [program.next.index(value) == r for r, value in enumerate(program.next)]
    return [
        own[r] + (_into(value, program, points) if first[r] else 0)
        for r, value in enumerate(program.next)
    ]


def _into_readouts(program: Program, points: Points) -> list[Tensor]:
    return [_into(value, program, points) for value in program.readouts]


def _into(value: sympy.Symbol, program: Program, points: Points) -> Tensor:
    """The weights of the outputs that are this value, summed."""
    outputs = [w for weights in points.weights for w in weights.unbind(-1)][len(program.next) :]
    zero = torch.zeros_like(outputs[0])
    return sum((w for w, v in zip(outputs, program.outputs, strict=True) if v == value), zero)


def differences(got: Derivatives, wanted: Derivatives, tolerance: float = 1e-9) -> list[str]:
    """Every entry and gradient that is off."""
    found = []
    pairs = [(got.jacobian, wanted.jacobian), (got.gradients, wanted.gradients)]
    for mine, theirs in pairs:
        assert mine.keys() == theirs.keys()
        for name, w in theirs.items():
            g = mine[name].to(w.dtype)
            if not torch.allclose(g, w, rtol=tolerance, atol=tolerance, equal_nan=True):
                found.append(f"{name}: got {g.flatten()[:8]}, expected {w.flatten()[:8]}")
    return found


# --- points ----------------------------------------------------------------------------------


def random_points(ir: CellIR, count: int = 50, seed: int = 0) -> Points:
    """States that the cell reaches, random inputs and params."""
    far = classify(ir).spiking or any(a.init for a in ir.states)  # it takes long to get anywhere
    k, steps = group_size(ir), 300 if far else 4
    values, _ = random_values(ir, (count, steps, k), seed)
    generator = torch.Generator().manual_seed(seed)
    for a in ir.inputs:
        if a.typical:
            values[a.name] = fill(values[a.name].detach(), a.typical, generator)
    started = {a.name: _as_started(a, values[a.name]) for a in ir.params}
    values |= started if far else {}
    cell = find(ir.name)
    start = [torch.full((count, k), a.init, dtype=torch.float64) for a in ir.states]
    with torch.no_grad():
        _, states = run_loop(cell, ir, values, start)
    now = dict(zip((a.name for a in ir.states), states, strict=True))
    for a in ir.inputs:
        now[a.name] = values[a.name][:, -1].reshape(count, -1)
    now |= started
    return Points({a.name: now[a.name] for a in ir.arguments}, _weights(ir, count, k))


def _as_started(param: Argument, drawn: Tensor) -> Tensor:
    """A param as its init starts it, so that a decay is one."""
    return drawn if param.init is None else fill(drawn.clone(), param.init)


def _weights(ir: CellIR, count: int, channels: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(count, channels, generator=generator, dtype=torch.float64)
        for _ in (*ir.states, *ir.outputs)
    ]


def grid(ir: CellIR, values: Sequence[float] = KINKS) -> Points:
    """Every combination of some values for a state and two inputs: all kinks and ties."""
    columns = torch.tensor(list(itertools.product(values, repeat=3)), dtype=torch.float64)
    named = {a.name: columns[:, i : i + 1] for i, a in enumerate(ir.arguments)}
    return Points(named, _weights(ir, len(columns), 1))


# --- facts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_the_derivatives_of_a_shipped_cell_equal_autograd(name: str) -> None:
    cell, ir = find(name), trace(find(name))
    points = random_points(ir)
    got, wanted = by_text(ir, points), by_autograd(cell, ir, points)
    if classify(ir).spiking:  # the Jacobian is the true one, autograd's the surrogate's: see below
        got.jacobian, wanted.jacobian = {}, {}
    assert differences(got, wanted) == []


@pytest.mark.parametrize("name", SHIPPED)
def test_the_derivatives_are_not_trivially_zero(name: str) -> None:
    ir = trace(find(name))
    got = by_text(ir, random_points(ir, 200))
    assert any(bool((entry != 0).any()) for entry in got.jacobian.values()), "the Jacobian"
    for argument, gradient in got.gradients.items():
        is_used = (name, argument) != ("hbv", "LP")  # the limit of a dry soil, which is wet by then
        assert bool((gradient != 0).any()) is is_used, argument


def test_every_function_of_the_table_has_an_expression_here() -> None:
    derivatives = {"exprel_slope", "atan2_slope", "absent"}  # a cell can't write them
    assert sorted(EXPRESSIONS) == sorted(functions.TABLE.keys() - derivatives)


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_the_derivative_of_a_function_equals_autograd_at_kinks(name: str, tmp_path: Path) -> None:
    assert (
        differences_on_grid(
            EXPRESSIONS[name], tmp_path, spiking=name.startswith("spike"), detached=name in DETACHED
        )
        == []
    )


@pytest.mark.parametrize("name", MORE)
def test_the_derivative_of_a_composition_equals_autograd(name: str, tmp_path: Path) -> None:
    assert differences_on_grid(MORE[name], tmp_path) == []


def differences_on_grid(
    expression: str, folder: Path, spiking: bool = False, detached: bool = False
) -> list[str]:
    body = f"return {{'h': {expression}, 'y': x * q + h}}"
    cell = cell_from(folder, source_of(body, THREE))
    ir = trace(cell)
    points = grid(ir)
    got, wanted = by_text(ir, points), by_autograd(cell, ir, points)
    if detached:  # the Jacobian is that of the value, which autograd doesn't have
        got.jacobian, wanted.jacobian = {}, {}
    if spiking:
        assert all(bool((entry == 0).all()) for entry in got.jacobian.values())
        got.jacobian, wanted.jacobian = {}, {}
    return differences(got, wanted)


def test_the_jacobian_of_a_spike_is_its_true_one_and_its_adjoint_the_surrogates(
    tmp_path: Path,
) -> None:
    ir = traced(tmp_path, "s = spike(h - 1)\nreturn h * (1 - s) + x", "h: State, x: Input")
    program = lower(ir, 1)
    entry = str(differentiate(program))
    assert entry.splitlines()[-1].startswith("d h' / d h = ")
    assert "abs" not in entry
    assert "abs" in str(adjoint(program))


def test_the_jacobian_sees_through_what_gradients_do_not(tmp_path: Path) -> None:
    body = "return stop_gradient(h) * x + forward_as(2 * h, gradient_of=7 * x)"
    program = lower(traced(tmp_path, body, "h: State, x: Input"), 1)
    assert str(differentiate(program)).splitlines()[-1] == "d h' / d h = dh_next_dh"
    assert "2*" in str(differentiate(program)) or "+ 2" in str(differentiate(program))
    assert adjoint(program).states == (sympy.Integer(0),)


@pytest.mark.parametrize("size", [100.0, -100.0])
@pytest.mark.parametrize("name", SHIPPED)
def test_slopes_in_float32_are_finite_at_large_pre_activations(name: str, size: float) -> None:
    ir = trace(find(name))
    points = random_points(ir, count=30)
    for argument in ir.inputs:
        points.values[argument.name] = points.values[argument.name].sign() * size
    for some in (points, _at_start(ir, points)):
        exact, single = by_text(ir, some.to(torch.float64)), by_text(ir, some.to(torch.float32))
        for got in (*single.jacobian.values(), *single.gradients.values()):
            assert bool(got.isfinite().all())
        assert differences(exact, single, tolerance=1e-3) == []


def _at_start(ir: CellIR, points: Points) -> Points:
    fresh = {a.name: torch.full_like(points.values[a.name], a.init) for a in ir.states}
    return Points({**points.values, **fresh}, points.weights)


@pytest.mark.parametrize("function", ["sigmoid", "tanh", "softplus", "logsigmoid", "silu", "gelu"])
def test_a_slope_far_out_is_0_or_1_and_never_nan(function: str, tmp_path: Path) -> None:
    ir = traced(tmp_path, f"return {function}(h) + x * q", THREE)
    far = [-1e30, -1e4, -100.0, 100.0, 1e4]
    points = grid(ir, far).to(torch.float32)
    for entry in by_text(ir, points).jacobian.values():
        assert bool(torch.isin(entry.round(decimals=6), torch.tensor([0.0, 1.0])).all()), entry


@pytest.mark.parametrize("function", ["tanh", "sigmoid", "maximum", "where", "div", "exp", "clip"])
def test_a_wrong_derivative_row_is_noticed(
    function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = functions.TABLE[function]

    def wrong(g: Any, y: Any, *args: Any) -> tuple[Any, ...]:
        first, *rest = row.pull(g, y, *args)
        if first is None:
            return (None, *(None if p is None else 1.001 * p for p in rest))
        return (1.001 * first, *rest)

    monkeypatch.setitem(functions.TABLE, function, dataclasses.replace(row, pull=wrong))
    assert differences_on_grid(EXPRESSIONS[function], tmp_path) != []


def test_a_wrong_derivative_row_is_noticed_by_a_shipped_cell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = functions.TABLE["tanh"]
    wrong = dataclasses.replace(row, pull=lambda g, y, x: (g * (1 - y),))
    monkeypatch.setitem(functions.TABLE, "tanh", wrong)
    cell, ir = find("para_gru"), trace(find("para_gru"))
    points = random_points(ir)
    assert differences(by_text(ir, points), by_autograd(cell, ir, points)) != []


def test_lets_of_the_derivatives_are_named_after_the_differentiated_lets() -> None:
    program = lower(trace(find("para_gru")), 1)
    jacobian = differentiate(program)
    names = [let.name for let in jacobian.lets]
    assert names == ["dz_dh", "dr_dh", "c_slope", "dc_dh", "dh_next_dh"]
    assert str(jacobian).splitlines()[0] == "dz_dh = az*z*(1 - z)"
    assert {let.name for let in adjoint(program).lets} >= {"g_c", "g_r", "g_z"}


def test_names_of_derivatives_give_way_to_the_authors(tmp_path: Path) -> None:
    body = "dz_dh = a * h\nz = tanh(dz_dh * h)\ng_z = z * x\nup_h = g_z + h\nreturn up_h * z"
    cell = cell_from(tmp_path, source_of(body))
    ir = trace(cell)
    program = lower(ir, 1)
    own = {let.name for let in program.lets}
    derived = {let.name for let in (*differentiate(program).lets, *adjoint(program).lets)}
    assert {"dz_dh", "g_z", "up_h"} <= own
    assert not own & derived
    values, start = random_values(ir, (20, 1, 1))
    points = {"h": start[0], "x": values["x"][:, 0], "a": values["a"]}
    weights = _weights(ir, 20, 1)
    got = by_text(ir, Points(points, weights))
    assert differences(got, by_autograd(cell, ir, Points(points, weights))) == []


# --- a mutant is noticed ---------------------------------------------------------------------

IN_ADJOINT = ("states", "inputs", "params")


def mutants_of_jacobian(ir: CellIR) -> Iterator[JacobianIR]:
    """One let, or one entry, off by a percent."""
    right = differentiate(lower(ir, group_size(ir)))
    yield from (dataclasses.replace(right, lets=lets) for lets in _one_off(right.lets))
    for i, row in enumerate(right.entries):
        for mutant in _one_off(row):
            rows = (*right.entries[:i], mutant, *right.entries[i + 1 :])
            yield dataclasses.replace(right, entries=rows)


def mutants_of_adjoint(ir: CellIR) -> Iterator[AdjointIR]:
    right = adjoint(lower(ir, group_size(ir)))
    for part in ("lets", *IN_ADJOINT):
        for mutant in _one_off(getattr(right, part)):
            yield dataclasses.replace(right, **{part: mutant})


def _one_off(values: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Each in turn times 1.01, but for zeros."""
    for i, value in enumerate(values):
        if isinstance(value, Let):
            yield (
                *values[:i],
                dataclasses.replace(value, expr=1.01 * value.expr),
                *values[i + 1 :],
            )
        elif value != 0:
            yield (*values[:i], 1.01 * value, *values[i + 1 :])


@pytest.mark.parametrize("part", ["differentiate", "adjoint"])
@pytest.mark.parametrize("name", ["para_gru", "lstm", "block_elman"])
def test_a_mutated_derivative_does_not_equal_autograd(
    name: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, ir = find(name), trace(find(name))
    points = random_points(ir, 10)
    wanted = by_autograd(cell, ir, points)
    mutants = [*(mutants_of_jacobian if part == "differentiate" else mutants_of_adjoint)(ir)]
    assert len(mutants) > 5
    for mutant in mutants:
        monkeypatch.setitem(globals(), part, lambda program, mutant=mutant: mutant)
        assert differences(by_text(ir, points), wanted), mutant
