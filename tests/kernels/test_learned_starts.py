"""States that begin at a learned value: `State(init=Param)`, against a plain PyTorch loop."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

import rnncc
from rnncc import Input, Matrix, Param, State, cell, constant, sigmoid, spaced, tanh, uniform
from rnncc.compiler import CompiledCell
from rnncc.errors import ArgumentError
from rnncc.ir.spec import RECORD
from rnncc.lang.dsl import Cell
from rnncc.nn.layer import CellLayer
from tests.support.tolerances import assert_close

B, T, N = 3, 40, 4
SOLVERS: dict[str, dict[str, Any]] = {
    "sequential": {},
    "segmented": {"segment": 8},
    "newton": {"iterations": 40},
}


@cell
def held(h: State(init=Param(init=uniform(-2, 2))), x: Input, a: Param(init=uniform(-0.8, 0.8))):
    z = sigmoid(a * h + x)
    return (1 - z) * h + z * tanh(x)


@cell
def trace(
    c: State(init=0.5),
    h: State(init=Param(init=spaced(-1, 1))),
    s: State(init=Param(shared=True, init=constant(0.25))),
    x: Input,
    a: Param(init=uniform(-0.8, 0.8)),
):
    h_new = tanh(a * h + x + 0.1 * s)
    return {"c": 0.9 * c + h_new, "h": h_new, "s": 0.5 * s + 0.1 * h_new, "y": c + h_new}


@cell
def mixed(h: State(init=Param), x: Input, R: Matrix(block=2)):
    return tanh(R @ h + x)


def held_step(states: Sequence[Tensor], x: Tensor, a: Tensor) -> tuple[Sequence[Tensor], Tensor]:
    z = torch.sigmoid(a * states[0] + x)
    h = (1 - z) * states[0] + z * torch.tanh(x)
    return [h], h


def trace_step(states: Sequence[Tensor], x: Tensor, a: Tensor) -> tuple[Sequence[Tensor], Tensor]:
    c, h, s = states
    new = torch.tanh(a * h + x + 0.1 * s)
    return [0.9 * c + new, new, 0.5 * s + 0.1 * new], c + new


def mixed_step(states: Sequence[Tensor], x: Tensor, R: Tensor) -> tuple[Sequence[Tensor], Tensor]:
    groups = states[0].expand(x.shape).unflatten(-1, R.shape[:2])
    h = torch.tanh(torch.einsum("gij,...gj->...gi", R, groups).flatten(-2) + x)
    return [h], h


CELLS: dict[str, tuple[Cell, Any, dict[str, int]]] = {
    "held": (held, held_step, {"h_init": N}),
    "trace": (trace, trace_step, {"h_init": N, "s_init": 1}),
    "mixed": (mixed, mixed_step, {"h_init": N}),
}


@functools.cache
def compiled(written: Cell) -> CompiledCell:
    return rnncc.compile(written)


def arguments(name: str, dtype: torch.dtype, batch: int = B, steps: int = T) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> Tensor:
        drawn = torch.randn(size, generator=generator, dtype=torch.float64)
        return drawn.to(dtype).requires_grad_()

    learned = {"R": draw(N // 2, 2, 2)} if name == "mixed" else {"a": draw(N)}
    starts = {start: draw(size) for start, size in CELLS[name][2].items()}
    return {"x": draw(batch, steps, N), **learned, **starts}


def loop(
    name: str,
    given: dict[str, Tensor],
    rows: Sequence[tuple[int, int, int]],
    reset: Tensor | None = None,
    reverse: bool = False,
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs of each sequence (row, first, end) of x, and the states after each."""
    _, step, starts = CELLS[name]
    own = [given[start] for start in starts]
    begin = own if name != "trace" else [torch.full((N,), 0.5).to(own[0]), *own]
    learned = given["R" if name == "mixed" else "a"]
    outputs, ends = [], []
    for row, first, end in rows:
        states, found = begin, {}
        for t in reversed(range(first, end)) if reverse else range(first, end):
            if reset is not None and reset[row, t]:
                states = begin
            states, found[t] = step(states, given["x"][row, t], learned)
        outputs.append(torch.stack([found[t] for t in range(first, end)]))
        ends.append(torch.stack([s.expand(N) for s in states]))
    return outputs, ends


def assert_agrees(
    name: str,
    dtype: torch.dtype,
    rows: Sequence[tuple[int, int, int]],
    reset: Tensor | None = None,
    reverse: bool = False,
    **options: Any,
) -> None:
    """Outputs, last states and all gradients, against the loop in float64."""
    given = arguments(name, dtype, batch=1 if "cu_seqlens" in options else B)
    wide = {n: v.detach().double().requires_grad_() for n, v in given.items()}
    c = compiled(CELLS[name][0])
    y, h = c(**given, return_state=True, reset=reset, reverse=reverse, **options)
    h = torch.stack(h if isinstance(h, tuple) else (h,), 1)
    outputs, ends = loop(name, wide, rows, reset, reverse)
    ours = [y[row, first:end] for row, first, end in rows]
    generator = torch.Generator().manual_seed(1)
    upstream = [torch.randn(v.shape, generator=generator, dtype=torch.float64) for v in outputs]
    upstream.append(torch.randn(h.shape, generator=generator, dtype=torch.float64))
    for a, b in zip([*ours, h], [*outputs, torch.stack(ends)], strict=True):
        assert_close(a, b, dtype, name)
    mine = torch.autograd.grad([*ours, h], list(given.values()), [u.to(dtype) for u in upstream])
    theirs = torch.autograd.grad([*outputs, torch.stack(ends)], list(wide.values()), upstream)
    for n, a, b in zip(given, mine, theirs, strict=True):
        assert b.any()
        assert_close(a, b, dtype, n, gradient=True)


WHOLE = [(b, 0, T) for b in range(B)]


each_target = pytest.mark.parametrize("target", ["cpp", "emulated"], indirect=True)


BUILDS = [
    pytest.param(
        *build,
        id="-".join(map(str, build)),
        marks=pytest.mark.slow if build == ("mixed", torch.float64, "emulated") else (),
    )
    for build in itertools.product(CELLS, [torch.float64, torch.float32], ["cpp", "emulated"])
]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("name", "dtype", "target"), BUILDS, indirect=["target"])
def test_results_and_gradients_are_those_of_a_plain_loop(
    target: str, name: str, dtype: torch.dtype, solver: str
) -> None:
    assert_agrees(name, dtype, WHOLE, solver=solver, **SOLVERS[solver])


SEQUENCES: dict[str, tuple[Sequence[tuple[int, int, int]], dict[str, Any]]] = {
    "resets": (WHOLE, {"reset": torch.rand(B, T, generator=torch.manual_seed(2)) < 0.1}),
    "joined": ([(0, 0, 7), (0, 7, 8), (0, 8, T)], {"cu_seqlens": [0, 7, 8, T]}),
    "padded": ([(0, 0, T), (1, 0, 13), (2, 0, 1)], {"lengths": [T, 13, 1]}),
    "reversed": (WHOLE, {"reverse": True}),
}


@pytest.mark.parametrize("solver", ["sequential", "segmented"])
@pytest.mark.parametrize("sequences", SEQUENCES)
@each_target
def test_every_sequence_and_every_reset_begins_there(
    target: str, sequences: str, solver: str
) -> None:
    rows, options = SEQUENCES[sequences]
    assert_agrees("trace", torch.float64, rows, **options, solver=solver, **SOLVERS[solver])


def test_a_given_state_goes_before_it() -> None:
    c, given = compiled(held), arguments("held", torch.float32)
    h0 = torch.randn(B, N)
    y = c(**given, h0=h0)
    start = given.pop("h_init")
    assert torch.equal(c(**given, h0=h0), y)
    assert torch.equal(c(*given.values(), start), c(**given, h0=start.expand(B, N)))
    reset = torch.zeros(B, T, dtype=torch.bool)
    reset[:, 5] = True
    assert torch.equal(
        c(**given, h0=h0, reset=reset)[:, 5:], c(given["x"][:, 5:], given["a"], h0=h0)
    )


def test_no_steps_and_no_sequences_leave_it_as_it_is() -> None:
    c, given = compiled(held), arguments("held", torch.float64)
    empty = given | {"x": given["x"][:, :0]}
    _, h = c(**empty, return_state=True)
    assert torch.equal(h, given["h_init"].expand(B, N))
    (slope,) = torch.autograd.grad(h.sum(), given["h_init"])
    assert torch.equal(slope, torch.full((N,), float(B), dtype=torch.float64))
    _, h = c(**(given | {"x": given["x"][:0]}), return_state=True)
    assert h.shape == (0, N)


def test_the_channels_may_be_those_of_the_start_alone() -> None:
    @cell
    def alike(h: State(init=Param), u: Input(shared=True), a: Param(shared=True)):
        return tanh(a * h + u)

    c, u = rnncc.compile(alike), torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    a, start = (torch.rand(n, dtype=torch.float64, requires_grad=True) for n in (1, N))
    y, h, rows = c(u, a, start), start, []
    for t in range(5):
        h = torch.tanh(a * h + u[:, t, None])
        rows.append(h)
    expected, weights = torch.stack(rows, 1), torch.randn(2, 5, N, dtype=torch.float64)
    torch.testing.assert_close(y, expected)
    found, wanted = (torch.autograd.grad(v, (u, a, start), weights) for v in (y, expected))
    torch.testing.assert_close(found, wanted)
    layer = c.layer(N, projection=None).double()
    assert torch.equal(layer(u)[0], c(u, layer.a, layer.h_init))


def test_a_layer_has_its_channels_where_the_cell_has_none_of_its_own() -> None:
    @cell
    def alike(h: State(init=0.5), u: Input(shared=True, projected=True)):
        return tanh(0.5 * h + u)

    layer, x = rnncc.compile(alike).layer(3, N), torch.randn(2, 5, 3)
    y, h = layer(x)
    assert y.shape == (2, 5, N)
    assert h.shape == (2, N)
    expected = rnncc.compile(alike)(layer.projection(x)[..., 0])
    assert torch.equal(y, expected.expand(2, 5, N))
    y.sum().backward()
    assert layer.projection.weight.grad.any()


def layer_of(written: Cell, **options: Any) -> CellLayer:
    torch.manual_seed(0)
    return compiled(written).layer(3, N, **options)


def test_a_layer_learns_it_beside_its_params() -> None:
    layer, x = layer_of(trace), torch.randn(2, 7, 3)
    names = [name for name, _ in layer.named_parameters()]
    assert names == ["a", "h_init", "s_init", "projection.weight", "projection.bias"]
    torch.testing.assert_close(layer.h_init.detach(), torch.linspace(-1, 1, N))
    assert torch.equal(layer.s_init, torch.tensor([0.25]))
    y, _ = layer(x)
    expected = compiled(trace)(layer.projection(x), layer.a, layer.h_init, layer.s_init)
    assert torch.equal(y, expected)
    y.sum().backward()
    assert layer.h_init.grad.all()
    assert layer.s_init.grad.all()
    state = layer.state_dict()
    other = layer_of(trace)
    other.load_state_dict(state)
    assert torch.equal(other(x)[0], y)


def test_a_layer_begins_there_in_every_form() -> None:
    layer, x = layer_of(held), torch.randn(2, 7, 3)
    y, h = layer(x)
    row, _ = layer.step(x[:, 0])
    assert_close(row, y[:, 0], torch.float32, "step")
    _, last = layer(pack_sequence([x[0], x[1]]))
    assert_close(last, h, torch.float32, "packed")
    both = layer_of(held, bidirectional=True, num_layers=2)
    assert {"h_init", "h_init_reverse", "h_init_l1", "h_init_l1_reverse"} < set(both.state_dict())
    both(x)[0].sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in both.parameters())
    half = layer_of(held).bfloat16()
    assert half(x.bfloat16())[1].dtype == torch.float32
    alone = compiled(held).layer(N, projection=None)
    alone(torch.randn(2, 7, N))[0].sum().backward()
    assert alone.h_init.grad.any()


@pytest.mark.filterwarnings("ignore")  # of torch's own making
def test_it_compiles_whole(fresh_dynamo: None) -> None:
    layer, x = layer_of(trace), torch.randn(2, 7, 3)
    traced = torch.compile(layer, fullgraph=True, backend="aot_eager")
    y, _ = traced(x)
    assert_close(y, layer(x)[0], torch.float32, "torch.compile")
    (slope,) = torch.autograd.grad(y.sum(), layer.h_init)
    (expected,) = torch.autograd.grad(layer(x)[0].sum(), layer.h_init)
    assert_close(slope, expected, torch.float32, "gradient", gradient=True)


def test_kernels_and_records_of_other_cells_are_as_before() -> None:
    @cell
    def held(h: State, x: Input, a: Param(init=uniform(-0.8, 0.8))):
        z = sigmoid(a * h + x)
        return (1 - z) * h + z * tanh(x)

    fixed, learned = rnncc.compile(held), compiled(CELLS["held"][0])
    assert json.loads(fixed.files[RECORD])["states"] == [{"name": "h", "init": 0.0}]
    assert json.loads(learned.files[RECORD])["states"][0]["init"]["name"] == "h_init"
    assert (
        fixed.source("cpp", whole=False).split("namespace")[1:]
        == (learned.source("cpp", whole=False).split("namespace")[1:])
    )


REFUSED: dict[str, tuple[Any, str]] = {
    "a start that is missing": (
        lambda c, x, a, start: c(x, a),
        "h_init: missing.\nFix: held(x, a, h_init)",
    ),
    "a start of other channels": (
        lambda c, x, a, start: c(x, a, torch.zeros(3)),
        "h_init: got float32 [3] on cpu, expected [4]: the inputs have 4 channels.\n"
        "Fix: give params and inputs the same number of channels",
    ),
    "a start of another dtype": (
        lambda c, x, a, start: c(x, a, start.double()),
        "h_init: got float64 [4] on cpu, expected float32, to go with torch.float32 inputs.\n"
        "Fix: h_init.to(torch.float32)",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_in_words(call: Any, message: str) -> None:
    given = arguments("held", torch.float32)
    with pytest.raises(ArgumentError) as refusal:
        call(compiled(held), *given.values())
    assert str(refusal.value) == message
