"""The plain PyTorch module of a cell runs by itself, and has the layer's weights and results."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import rnncc
from rnncc.cli.main import main
from rnncc.codegen.module import class_name
from rnncc.compiler import CompiledCell
from rnncc.export.torch_module import module_source
from rnncc.ir.spec import ParamSpec
from rnncc.ir.vector import Vector, grouped
from rnncc.lang.dsl import Cell
from rnncc.lang.loader import find
from rnncc.nn.initialize import fill
from rnncc.nn.layer import CellLayer
from rnncc.nn.projection import projected, rows_of
from rnncc.nn.vectors import elements, learned_of
from tests.support.cells import cell_from, gradients, run_loop, source_of
from tests.support.rows import stacked, vectors_of
from tests.support.runs import SHIPPED, compiled, fitting
from tests.support.small import SMALL

WIDTH = 3


def plain_of(c: CompiledCell, channels: int) -> nn.Module:
    names: dict[str, Any] = {}
    exec(module_source(c.stages.cell, c.spec), names)
    plain = names[class_name(c.name)](WIDTH, channels)
    assert isinstance(plain, nn.Module)
    return plain


def flat(values: Any) -> list[Tensor]:
    return [values] if isinstance(values, Tensor) else list(values)


def assert_is_the_layer(written: Cell, c: CompiledCell, channels: int) -> None:
    """The same draws, the same parameters, and the results of the cell's own function."""
    torch.manual_seed(3)
    layer = CellLayer(WIDTH, channels, kernel=c.kernel)
    torch.manual_seed(3)
    plain = plain_of(c, channels)
    assert [n for n, _ in plain.named_parameters()] == [n for n, _ in layer.named_parameters()]
    for ours, theirs in zip(plain.parameters(), layer.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    plain.load_state_dict(dict(layer.named_parameters()))
    plain.double()
    x = torch.randn(2, 3, WIDTH, dtype=torch.float64, requires_grad=True)
    given, values = {}, {}
    for i in c.spec.inputs:
        if not i.projected:
            size = (2, 3) if i.shared else (2, 3, channels)
            values[i.name] = fill(torch.empty(size, dtype=torch.float64), i.typical)
    for vector in grouped([*values], c.spec.vectors, "input"):
        given[vector.name] = stacked(vector, [values[m] for m in vector.members])
    rows = plain.get_submodule("projection")(x)
    taken = projected(c.spec)
    pieces = rows.split([rows_of(i, channels) for i in taken], -1) if taken else []
    for i, piece in zip(taken, pieces, strict=True):
        values[i.name] = piece.squeeze(-1) if i.shared else piece
    params = [p for n, p in plain.named_parameters() if not n.startswith("projection.")]
    for (vector, _), whole in zip(learned_of(c.spec), params, strict=True):
        scalars = elements(vector.name, whole, vector.shape)
        values |= dict(zip(vector.members, scalars, strict=True))
    start = [_start(s.init, values, (2, channels)) for s in c.spec.states]
    values = {n: v for n, v in values.items() if n not in {s.name for s in c.spec.starts}}
    outputs, states = run_loop(written, c.stages.cell, values, start)
    y, h = plain(x, **given)
    ir = c.stages.cell
    expected = _as_called(vectors_of(ir, "output"), outputs)
    expected += _as_called(vectors_of(ir, "state"), states)
    got = [*flat(y), *flat(h)]
    leaves, weights = [x, *plain.parameters()], [torch.randn_like(v) for v in expected]
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
    theirs = gradients(expected, weights, leaves)
    for a, b in zip(gradients(got, weights, leaves), theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    again, last = plain(x, h, **given)
    assert flat(again)[0].shape == flat(y)[0].shape
    assert type(last) is type(h)


def _start(init: Any, values: dict[str, Tensor], size: tuple[int, int]) -> Tensor:
    if isinstance(init, ParamSpec):
        return values[init.name].expand(size)
    return torch.full(size, init, dtype=torch.float64)


def _as_called(vectors: Sequence[Vector], scalars: Sequence[Tensor]) -> list[Tensor]:
    """A tensor for each vector, its sizes last."""
    found, left = [], list(scalars)
    for vector in vectors:
        found.append(stacked(vector, [left.pop(0) for _ in vector.members]))
    return found


@pytest.mark.parametrize("name", SHIPPED)
def test_the_plain_module_of_a_shipped_cell_is_its_layer(name: str) -> None:
    assert_is_the_layer(find(name), compiled(name), fitting(name, 2))


@pytest.mark.parametrize("name", SMALL)
def test_the_plain_module_of_a_small_cell_is_its_layer(name: str) -> None:
    assert_is_the_layer(SMALL[name], compiled(name), fitting(name, 2))


ODD: dict[str, tuple[str, str]] = {
    "words of Python": (
        "lambda_ = a * h\nreturn {'h': lambda_ + x, 'lambda': tanh(h), 'def': lambda_ * 2}",
        "h: State, x: Input, a: Param",
    ),
    "names of the text itself": (
        "loop = tanh(n * rows + step)\n"
        "return {'h': loop * torch + h, 'nn': n, 'outputs': loop + inputs}",
        "h: State, torch: Input, n: Input(shared=True), rows: Input(projected=False), "
        "inputs: Input, step: Param",
    ),
    "names of a layer": (
        "return kernel * h + x * projection + hidden_size * parameters",
        "h: State, x: Input, kernel: Param, projection: Param, hidden_size: Param, "
        "parameters: Param(shared=True, init=3 * normal(0, 1) ** 2 - 1)",
    ),
    "vectors with draws of every kind": (
        "return {'h': A @ h + w * e, 'c': R @ c + sum(h), 'y': dot(w, h) + c, 'z': softmax(h)}",
        "h: State(size=3, init=Param(init=spaced(-1, 1))), c: State(init=Param(shared=True)), "
        "e: Input(size=3), w: Param(size=3, init=spaced(0.1, 0.9)), R: Matrix(block=2), "
        "A: Param(size=(3, 3), init=log(uniform(0.5, 2)))",
    ),
    "delays with learned starts": (
        "return {'h': 0.5 * h.ago(2) + x, 's': s + s.ago(1) * m, 'y': h}",
        "h: State(delay=2, init=Param(init=normal(0, 1))), x: Input, "
        "s: State(size=2, delay=1, init=Param(init=constant(0.5))), "
        "m: Input(size=2, projected=False)",
    ),
    "numbers in place of values": (
        "return {'h': maximum(h, 0.1) + x, 'c': 0.25, 'y': where(h > 0.5, 1, c), 'z': 0.1}",
        "h: State, c: State(init=2), x: Input(bias=spaced(-1, 1))",
    ),
}


@pytest.mark.parametrize(("body", "signature"), ODD.values(), ids=ODD)
def test_names_and_numbers_of_a_cell_do_no_harm(body: str, signature: str, tmp_path: Path) -> None:
    written = cell_from(tmp_path, source_of(body, signature))
    assert_is_the_layer(written, rnncc.compile(written), 2)


@pytest.mark.parametrize("name", ["para_gru", "lstm", "block_elman", "lru"])
def test_its_second_derivatives_are_right(name: str) -> None:
    plain = plain_of(compiled(name), fitting(name, 1)).double()
    x = torch.randn(1, 2, WIDTH, dtype=torch.float64, requires_grad=True)
    names, values = zip(*plain.named_parameters(), strict=True)

    def run(x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(names, parameters, strict=True))
        y, h = torch.func.functional_call(plain, given, (x,))
        return y, *flat(h)

    assert torch.autograd.gradgradcheck(run, (x, *values))


def test_the_integral_of_a_surrogate_and_exprel_have_second_derivatives(tmp_path: Path) -> None:
    body = "return exprel(a * h + x) + spike(h - 0.5, 'atan')"
    plain = plain_of(rnncc.compile(cell_from(tmp_path, source_of(body))), 2).double()
    y, _ = plain(torch.randn(1, 3, WIDTH, dtype=torch.float64))
    (first,) = torch.autograd.grad(y.sum(), plain.a, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), plain.a)
    assert second.isfinite().all()
    assert second.any()


def test_show_prints_it_and_it_reads_nothing_but_pytorch() -> None:
    done = CliRunner().invoke(main, ["show", "lif", "--stage", "torch"])
    assert done.exit_code == 0
    imported = {node.module for node in ast.walk(ast.parse(done.output)) if hasattr(node, "module")}
    assert imported == {"__future__", "torch"}
    names: dict[str, Any] = {}
    exec(done.output, names)
    y, state = names["LIF"](3, 4)(torch.rand(2, 5, 3))
    assert y.shape == (2, 5, 4)
    assert state.shape == (2, 4)
