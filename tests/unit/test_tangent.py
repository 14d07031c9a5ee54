"""The tangent cell: what is derived, held to PyTorch's own derivative of a step."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from rnncc import Input, Matrix, Param, State, cell, sigmoid, sign, where
from rnncc.calculus.structure import classify
from rnncc.calculus.tangent import tangent
from rnncc.export.torch_loop import plain_step
from rnncc.ir.functions import TABLE
from rnncc.ir.program import CellIR
from rnncc.lang.dsl import Cell
from rnncc.lang.loader import find, shipped
from rnncc.lang.trace import trace
from tests.support.small import SMALL

CELLS = sorted([path.stem for path in shipped()] + list(SMALL))


def traced(name: str) -> CellIR:
    return trace(SMALL[name] if name in SMALL else find(name), {})


def values(cell: CellIR, seed: int = 0) -> dict[str, Tensor]:
    """Of one step, by name; two groups of channels."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*size: int) -> Tensor:
        return 0.5 + torch.rand(*size, generator=generator, dtype=torch.float64)

    shapes: dict[str, tuple[int, ...]] = {}
    group = max([a.block or 1 for a in cell.arguments])
    for a in cell.arguments:
        shapes[a.name] = (2 * group,)
        if a.block is not None:
            shapes[a.name] = (2 * group // a.block, a.block, a.block)
        if a.shared:
            shapes[a.name] = (1,)
    return {name: drawn(*shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", CELLS)
def test_a_step_of_the_tangent_cell_is_the_derivative_of_a_step(name: str) -> None:
    cell = traced(name)
    derived = tangent(cell)
    at, along = values(cell), values(cell, seed=1)
    order = [a.name for a in (*cell.states, *cell.inputs, *cell.params)]

    def step(*given: Tensor) -> tuple[Tensor, ...]:
        states, outputs = plain_step(cell)(*given)
        return (*states, *(y for y in outputs))

    _, expected = torch.autograd.functional.jvp(
        step, tuple(at[n] for n in order), tuple(along[n] for n in order)
    )
    found = plain_step(derived)(*(values_of_tangent(cell, derived, at, along)))
    for got, wanted in zip(itertools.chain(*found), expected, strict=True):
        assert torch.allclose(got.expand(wanted.shape), wanted, rtol=1e-9, atol=1e-12)


def values_of_tangent(
    cell: CellIR, derived: CellIR, at: dict[str, Tensor], along: dict[str, Tensor]
) -> list[Tensor]:
    """In the order that `nn.second` relies on."""
    states, inputs, params = (
        [a.name for a in of] for of in (cell.states, cell.inputs, cell.params)
    )
    found = [along[name] for name in states]
    for arguments, moved in ((derived.inputs, inputs), (derived.params, params)):
        count = len(arguments) - len(moved)
        found += [at[a.name] for a in arguments[:count]]
        found += [along[name] for name in moved]
    return found


@pytest.mark.parametrize("name", ["para_gru", "lstm", "lru", "block_elman", "fitzhugh_nagumo"])
def test_a_tangent_cell_is_affine_with_the_pattern_of_its_cell(name: str) -> None:
    cell = traced(name)
    derived, own = classify(tangent(cell)), classify(cell)
    assert derived.affine
    zero = [[entry == "0" for entry in row] for row in derived.pattern]
    assert zero == [[entry == "0" for entry in row] for row in own.pattern]
    assert (derived.kind, derived.block) == (own.kind, own.block)


def lets_of(written: Cell) -> list[str]:
    return str(tangent(trace(written, {}))).splitlines()


def test_names_come_from_the_cell() -> None:
    @cell
    def gate(h: State, x: Input, a: Param):
        z = sigmoid(a * h + x)
        return z * h

    assert [line.split("  #")[0].strip() for line in lets_of(gate)] == [
        "gate_tangent(h_dot, h, x, x_dot, a, a_dot)",
        "z = sigmoid(a*h + x)",
        "z_arg_dot = a*h_dot + a_dot*h + x_dot",
        "z_dot = z*z_arg_dot*(1 - z)",
        "h_next_dot = h*z_dot + h_dot*z",
        "h_dot' = h_next_dot",
        "output h_dot = h_next_dot",
    ]


def test_names_step_aside_for_those_of_the_author() -> None:
    @cell
    def taken(h: State, h_dot: Input, z: Input):
        z_dot = sigmoid(h_dot)
        return z_dot * h + z

    derived = tangent(trace(taken, {}))
    names = [a.name for a in derived.arguments] + [let.name for let in derived.lets]
    assert len(names) == len(set(names))
    assert [s.name for s in derived.states] == ["h_dot_"]


def test_what_does_not_move_has_a_tangent_of_zero() -> None:
    @cell
    def counted(h: State, x: Input):
        return {"h": where(x > 0, 1.0, 0.0), "y": sign(h)}

    assert lets_of(counted)[1:] == [
        "  h_next_dot = 0",
        "  y_dot = 0",
        "  h_dot' = h_next_dot",
        "  output y_dot = y_dot",
    ]


def test_matrices_have_the_product_rule() -> None:
    @cell
    def mixed(h: State, x: Input, R: Matrix(block=2)):
        return R @ h + x

    assert "  h_next_0_dot = (R @ h_dot) + (R_dot @ h)" in [
        line.rstrip() for line in lets_of(mixed)
    ]


def test_every_pull_of_a_smooth_function_can_be_pulled_again() -> None:
    """A derivative that is None where the function isn't constant would be a silent zero."""
    import sympy

    for name, row in TABLE.items():
        if not row.smooth:
            continue
        y, *args = sympy.symbols(f"y a:{row.arity}", real=True)
        assert all(pulled is not None for pulled in row.pull(sympy.Integer(1), y, *args)), name
