"""The layer of a compiled cell, as a user of torch.nn.GRU expects it; and the generated module."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
)

import rnncc
from rnncc import Input, Param, State, cell
from rnncc.codegen import writer as write
from rnncc.errors import ArgumentError, ConvergenceError, LoadError
from rnncc.ir.choices import Choices
from rnncc.lang import names
from rnncc.nn.layer import CellLayer
from rnncc.nn.status import Solve
from rnncc.runtime.kernel import Kernel
from tests.support.runs import CELLS, compiled, fitting, listed
from tests.support.tolerances import assert_close

ROOT = Path(__file__).parents[2]


def layer_of(name: str, input_size: int = 3, hidden_size: int = 8, **options: Any) -> CellLayer:
    torch.manual_seed(0)
    return compiled(name).layer(input_size, fitting(name, hidden_size), **options)


def shared_inputs(name: str, *leading: int) -> dict[str, Tensor]:
    cell = compiled(name).stages.cell
    return {i.name: torch.rand(*leading) for i in cell.inputs if not i.projected}


# --- like torch.nn.GRU -----------------------------------------------------------------------


def test_it_is_called_like_a_gru_that_is_batch_first() -> None:
    ours, theirs = layer_of("para_gru", 5, 8), nn.GRU(5, 8, batch_first=True)
    x = torch.rand(2, 7, 5)
    y, h = ours(x)
    y_of_gru, h_of_gru = theirs(x)
    assert y.shape == y_of_gru.shape == (2, 7, 8)
    assert h.shape == h_of_gru[0].shape == (2, 8)
    assert torch.equal(y[:, -1], h)


def test_its_arguments_stand_in_the_order_of_a_gru() -> None:
    both = (
        nn.GRU(3, 8, 2, False, True, 0.5, True),
        compiled("para_gru").layer(3, 8, 2, False, True, 0.5, True),
    )
    for name in ("num_layers", "batch_first", "dropout", "bidirectional"):
        theirs, ours = (getattr(layer, name) for layer in both)
        assert ours == theirs
    assert both[1].projection.bias is None


@pytest.mark.parametrize("name", CELLS)
def test_a_layer_is_its_projection_followed_by_the_recurrence(name: str) -> None:
    layer = layer_of(name)
    x, shared = torch.rand(2, 7, 3), shared_inputs(name, 2, 7)
    y, h = layer(x, **shared)
    cell = compiled(name).stages.cell
    inputs = [i for i in cell.inputs if i.projected]
    gates = [i.name for i in inputs if not i.shared]
    single = [i.name for i in inputs if i.shared]
    whole, width = layer.projection(x), layer.hidden_size
    assert whole.shape[-1] == (len(gates) * width + len(single) or width)
    arguments = {n: whole[..., g * width : (g + 1) * width] for g, n in enumerate(gates)}
    arguments |= {n: whole[..., len(gates) * width + s] for s, n in enumerate(single)}
    arguments |= shared | {p.name: getattr(layer, p.name) for p in cell.params}
    expected_y, expected_h = compiled(name)(**arguments, return_state=True)
    for got, expected in zip(listed(y), listed(expected_y), strict=True):
        assert torch.equal(got, expected)
    for got, expected in zip(listed(h), listed(expected_h), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", CELLS)
def test_stepping_equals_the_forward(name: str, dtype: torch.dtype) -> None:
    layer = layer_of(name).to(dtype)
    x, shared = torch.rand(2, 7, 3).to(dtype), shared_inputs(name, 2, 7)
    y, h = layer(x, **shared)
    state, rows = None, []
    for t in range(7):
        row, state = layer.step(x[:, t], state, **{n: v[:, t] for n, v in shared.items()})
        rows.append(listed(row))
    for got, expected in zip(zip(*rows, strict=True), listed(y), strict=True):
        assert_close(torch.stack(got, 1), expected, dtype, f"{name} output")
    for got, expected in zip(listed(state), listed(h), strict=True):
        assert_close(got, expected, dtype, f"{name} state")


def test_a_state_goes_in_and_out_with_its_gradient() -> None:
    layer = layer_of("lstm")
    x = torch.rand(2, 9, 3)
    first, middle = layer(x[:, :4])
    second, last = layer(x[:, 4:], middle)
    whole, end = layer(x)
    assert_close(torch.cat([first, second], 1), whole, torch.float32, "y")
    for a, b in zip(last, end, strict=True):
        assert_close(a, b, torch.float32, "state")
    parts = torch.autograd.grad(second.sum(), list(layer.parameters()), retain_graph=True)
    wholes = torch.autograd.grad(whole[:, 4:].sum(), list(layer.parameters()))
    for a, b in zip(parts, wholes, strict=True):
        assert_close(a, b, torch.float32, "gradient", gradient=True)


def test_a_cell_of_several_states_and_outputs_returns_tuples_in_declared_order() -> None:
    layer = layer_of("pair")
    (energy, old), (u, v) = layer(torch.rand(2, 7, 3))
    assert energy.shape == old.shape == (2, 7, 8)
    assert_close(energy[:, -1], u * u + v * v, torch.float32, "energy")
    assert (old[:, 0] == 0).all()
    (energy, old), (_, v) = layer.step(torch.rand(2, 3), (u, v))
    assert torch.equal(old, u)
    assert energy.shape == v.shape == (2, 8)


def test_one_returned_state_may_be_changed_in_place_while_training() -> None:
    layer = layer_of("lstm")
    x = torch.randn(2, 5, 3)
    _, (c, h) = layer(x)
    h.mul_(0)
    (c.sum() + h.sum()).backward()
    changed = layer.projection.weight.grad
    assert changed is not None
    layer.projection.weight.grad = None
    layer(x)[1][0].sum().backward()
    assert torch.equal(changed, layer.projection.weight.grad)


def test_shared_inputs_go_by_name_and_broadcast_over_the_batch() -> None:
    layer = layer_of("clocked")
    x, dt = torch.rand(2, 7, 3), torch.rand(7)
    y, _ = layer(x, dt=dt)
    assert torch.equal(y, layer(x, dt=dt.expand(2, 7))[0])
    assert not torch.equal(y, layer(x, dt=dt + 1)[0])


def test_a_layer_of_a_cell_with_shared_inputs_only_still_runs() -> None:
    layer = layer_of("driven")
    y, h = layer(torch.rand(2, 7, 3), dt=torch.rand(2, 7))
    assert torch.equal(y[:, -1], h)


@pytest.mark.parametrize("leading", [(), (1,), (2, 3), (2, 1, 4)])
def test_leading_dimensions_pass_through(leading: tuple[int, ...]) -> None:
    layer = layer_of("lstm")
    x = torch.rand(*leading, 7, 3)
    y, state = layer(x)
    assert y.shape == (*leading, 7, 8)
    assert [h.shape for h in state] == [(*leading, 8)] * 2
    flat, _ = layer(x.reshape(-1, 7, 3))
    assert_close(y.reshape(-1, 7, 8), flat, torch.float32, "y")
    assert layer(x, state)[0].shape == y.shape
    row, again = layer.step(x[..., 0, :], state)
    assert row.shape == again[0].shape == (*leading, 8)


def test_params_have_the_cells_inits() -> None:
    torch.manual_seed(0)
    layer = compiled("lru").layer(3, 4000)
    radius = torch.exp(-torch.exp(layer.nu_log)).detach()
    assert 0.9 <= radius.min() < 0.901 < 0.998 < radius.max() <= 0.999
    assert ((radius**2 - 0.9**2) / (0.999**2 - 0.9**2)).mean() == pytest.approx(0.5, abs=0.03)
    beta = compiled("lif").layer(3, 10).beta
    assert torch.equal(beta, torch.full((10,), 0.9))
    R = compiled("block_elman").layer(3, 4000).R
    assert R.shape == (1000, 4, 4)
    assert 0.49 < R.abs().max() <= 0.5
    tau = compiled("clocked").layer(3, 10).tau
    assert tau.shape == (1,)
    pair = compiled("pair").layer(3, 5)
    assert ((pair.w >= -1) & (pair.w <= -0.5)).all()
    assert torch.equal(pair.projection.bias, torch.tensor([0.5, 0.625, 0.75, 0.875, 1]))
    assert compiled("pair").layer(3, 5, bias=False).projection.bias is None


# --- sequences of unequal length, resets, directions -----------------------------------------

FEW = ["para_gru", "lstm", "pair", "clocked"]  # one state, two, two and two outputs, a shared input
UNEQUAL = [7, 12, 3, 12]
OPTIONS: dict[str, dict[str, Any]] = {
    "forward": {},
    "reverse": {"reverse": True},
    "bidirectional": {"bidirectional": True},
    "segmented": {"solver": "segmented", "segment": 3},
    "bidirectional segmented": {"bidirectional": True, "solver": "segmented", "segment": 5},
}


@dataclass
class Batch:
    """Sequences of unequal length in float64; all tensors require gradients.

    Attributes:
        x, shared: padded, [B, T, ...].
        state: [B, N] each, [2, B, N] each of a bidirectional layer.
    """

    layer: CellLayer
    lengths: list[int]
    x: Tensor
    shared: dict[str, Tensor]
    state: tuple[Tensor, ...]

    @property
    def leaves(self) -> list[Tensor]:
        return [self.x, *self.shared.values(), *self.state, *self.layer.parameters()]


def batch_of(name: str, lengths: Sequence[int], **options: Any) -> Batch:
    layer = layer_of(name, **options).double()
    count, steps, channels = len(lengths), max(lengths), layer.hidden_size
    leading = (2, count) if layer.bidirectional else (count,)
    x = torch.randn(count, steps, 3, dtype=torch.float64, requires_grad=True)
    shared = {n: v.double().requires_grad_() for n, v in shared_inputs(name, count, steps).items()}
    state = tuple(
        torch.randn(*leading, channels, dtype=torch.float64, requires_grad=True)
        for _ in layer.kernel.spec.states
    )
    return Batch(layer, list(lengths), x, shared, state)


def flat(values: Any) -> list[Tensor]:
    """The tensors of nested lists and tuples."""
    return [values] if isinstance(values, Tensor) else [t for v in values for t in flat(v)]


# For each sequence its outputs, and its last states.
Rows = list[list[Tensor]]


def cut(padded: Any, lengths: list[int]) -> Rows:
    """Of outputs [B, T, N] those of each sequence."""
    return [[v[b, :n] for v in listed(padded)] for b, n in enumerate(lengths)]


def of_sequence(states: Any, b: int) -> tuple[Tensor, ...]:
    return tuple(h[..., b, :] for h in listed(states))


def together(outputs: Rows, states: Any) -> Rows:
    return [[*rows, *of_sequence(states, b)] for b, rows in enumerate(outputs)]


def run_alone(a: Batch) -> Rows:
    """Each sequence by itself, unpadded."""
    rows = []
    for b, n in enumerate(a.lengths):
        shared = {name: v[b, :n] for name, v in a.shared.items()}
        y, h = a.layer(a.x[b, :n], of_sequence(a.state, b), **shared)
        rows.append([*listed(y), *listed(h)])
    return rows


def run_padded(a: Batch) -> Rows:
    y, h = a.layer(a.x, a.state, lengths=torch.tensor(a.lengths), **a.shared)
    return together(cut(y, a.lengths), h)


def run_joined(a: Batch) -> Rows:
    x, *shared = (torch.cat(cut_one(v, a.lengths)) for v in (a.x, *a.shared.values()))
    bounds = torch.tensor([0, *a.lengths]).cumsum(0)
    y, h = a.layer(x, a.state, cu_seqlens=bounds, **dict(zip(a.shared, shared, strict=True)))
    pieces = [v.split(a.lengths) for v in listed(y)]
    return together([list(rows) for rows in zip(*pieces, strict=True)], h)


def cut_one(padded: Tensor, lengths: list[int]) -> list[Tensor]:
    return [v[:n] for v, n in zip(padded, lengths, strict=True)]


def run_packed(a: Batch) -> Rows:
    def packed(v: Tensor) -> PackedSequence:
        descending = a.lengths == sorted(a.lengths, reverse=True)
        return pack_sequence(cut_one(v, a.lengths), enforce_sorted=descending)

    y, h = a.layer(packed(a.x), a.state, **{n: packed(v) for n, v in a.shared.items()})
    ys = [y] if isinstance(y, PackedSequence) else y
    return together(cut([pad_packed_sequence(v, True)[0] for v in ys], a.lengths), h)


def assert_same(got: Rows, expected: Rows, leaves: list[Tensor], what: str) -> None:
    """Results, and the gradients of their weighted sum by all leaves."""
    pairs = list(zip(flat(got), flat(expected), strict=True))
    for g, e in pairs:
        assert_close(g, e, torch.float64, what)
    weights = [torch.randn_like(e) for _, e in pairs]
    ours, theirs = (
        torch.autograd.grad([p[side] for p in pairs], leaves, weights, materialize_grads=True)
        for side in (0, 1)
    )
    for k, (g, e) in enumerate(zip(ours, theirs, strict=True)):
        assert_close(g, e, torch.float64, f"{what}: gradient of leaf {k}", gradient=True)


WAYS: dict[str, tuple[Callable[[Batch], Rows], list[int]]] = {
    "padded": (run_padded, [*UNEQUAL, 0]),
    "joined": (run_joined, [0, *UNEQUAL, 0, 0, 1, 0]),
    "packed": (run_packed, UNEQUAL),
    "packed and sorted": (run_packed, sorted(UNEQUAL, reverse=True)),
    "packed, of one length": (run_packed, [4, 4, 4]),
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FEW)
def test_sequences_of_unequal_length_equal_each_alone(name: str, way: str, options: str) -> None:
    run, lengths = WAYS[way]
    batch = batch_of(name, lengths, **OPTIONS[options])
    assert_same(run(batch), run_alone(batch), batch.leaves, f"{name} {way} {options}")


def test_outputs_after_the_end_of_a_padded_sequence_are_0_and_an_empty_one_holds_its_state() -> (
    None
):
    layer, state = layer_of("lstm", bidirectional=True), [torch.rand(2, 3, 8) for _ in range(2)]
    y, z, h = layer(torch.rand(3, 9, 3), state, lengths=[9, 4, 0], return_states=True)
    for v in (y, *z):
        assert (v[0] != 0).all()
        assert (v[1, :4] != 0).all()
        assert (v[1, 4:] == 0).all()
        assert (v[2] == 0).all()
    for before, after in zip(state, h, strict=True):
        assert torch.equal(before[:, 2], after[:, 2])


def test_lengths_go_with_any_leading_dimensions() -> None:
    layer, x = layer_of("para_gru"), torch.rand(2, 3, 9, 3)
    lengths = torch.tensor([[9, 1, 0], [4, 9, 2]])
    y, h = layer(x, lengths=lengths)
    flat, last = layer(x.flatten(0, 1), lengths=lengths.flatten())
    assert torch.equal(y, flat.view_as(y))
    assert torch.equal(h, last.view_as(h))
    single, _ = layer(x[0, 0], lengths=5)
    assert torch.equal(single[:5], y[0, 0, :5])


def test_joined_sequences_may_have_a_batch_of_one() -> None:
    layer, x = layer_of("para_gru"), torch.rand(1, 9, 3)
    y, h = layer(x, cu_seqlens=[0, 4, 9])
    bare, last = layer(x[0], cu_seqlens=torch.tensor([0, 4, 9], dtype=torch.int32))
    assert y.shape == (1, 9, 8)
    assert h.shape == (2, 8)
    assert torch.equal(y[0], bare)
    assert torch.equal(h, last)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", FEW)
def test_a_reset_equals_a_run_from_the_initial_state(name: str, reverse: bool) -> None:
    a = batch_of(name, [12, 12, 12], reverse=reverse)
    reset = torch.zeros(3, 12, dtype=torch.bool)
    reset[0, [3, 8]] = True
    reset[1, 5] = True
    y, h = a.layer(a.x, a.state, reset=reset, **a.shared)
    expected = []
    for b in range(3):
        borders = (reset[b].nonzero().flatten() + reverse).tolist()
        pieces = []
        for first, last in zip([0, *borders], [*borders, 12], strict=True):
            shared = {n: v[b, first:last] for n, v in a.shared.items()}
            pieces.append(a.layer(a.x[b, first:last], of_sequence(a.state, b), **shared))
        rows = zip(*(listed(y) for y, _ in pieces), strict=True)
        expected.append([*map(torch.cat, rows), *listed(pieces[0 if reverse else -1][1])])
    got = together(cut(y, a.lengths), h)
    assert_same(got, expected, a.leaves, f"{name} with resets")


@pytest.mark.parametrize("bidirectional", [False, True])
def test_resets_go_with_padded_and_with_joined_sequences(bidirectional: bool) -> None:
    layer, x = layer_of("lstm", bidirectional=bidirectional), torch.rand(3, 9, 3)
    lengths, reset = [9, 0, 4], torch.rand(3, 9) < 0.4
    y, h = layer(x, lengths=lengths, reset=reset)
    joined = torch.cat(cut_one(x, lengths))
    marks = torch.cat(cut_one(reset, lengths))
    z, last = layer(joined, cu_seqlens=[0, 9, 9, 13], reset=marks)
    assert_close(torch.cat(cut_one(y, lengths)), z, torch.float32, "y")
    for a, b in zip(h, last, strict=True):
        assert_close(a, b, torch.float32, "state")


@pytest.mark.parametrize("name", FEW)
def test_a_reverse_layer_equals_the_layer_on_flipped_time(name: str) -> None:
    a = batch_of(name, [12, 12], reverse=True)
    layer = layer_of(name).double()
    layer.load_state_dict(a.layer.state_dict())
    y, h = a.layer(a.x, a.state, **a.shared)
    flipped = {n: v.flip(1) for n, v in a.shared.items()}
    y_flipped, h_flipped = layer(a.x.flip(1), a.state, **flipped)
    got = [[*listed(y), *listed(h)]]
    expected = [[*(v.flip(1) for v in listed(y_flipped)), *listed(h_flipped)]]
    assert_same(got, expected, [a.x, *a.shared.values(), *a.state], name)


@pytest.mark.parametrize("name", [*FEW, "block_elman", "driven"])
def test_a_bidirectional_layer_equals_two_layers_side_by_side(name: str) -> None:
    a = batch_of(name, [12, 5], bidirectional=True)
    ahead, back = layer_of(name).double(), layer_of(name, reverse=True).double()
    own = a.layer.state_dict()
    ahead.load_state_dict({k: v for k, v in own.items() if "_reverse" not in k})
    back.load_state_dict({k.replace("_reverse", ""): v for k, v in own.items() if "_reverse" in k})
    options = {"lengths": a.lengths, "return_states": True, **a.shared}
    y, z, h = a.layer(a.x, a.state, **options)
    one, other = (
        layer(a.x, tuple(h[i] for h in a.state), **options) for i, layer in enumerate((ahead, back))
    )
    got, expected = [], []
    for whole, u, v, join in zip((y, z, h), one, other, (cat, cat, torch.stack), strict=True):
        got += listed(whole)
        expected += [join(pair) for pair in zip(listed(u), listed(v), strict=True)]
    assert_same([got], [expected], [a.x, *a.shared.values(), *a.state], name)


def cat(pair: tuple[Tensor, ...]) -> Tensor:
    return torch.cat(pair, -1)


@pytest.mark.parametrize("name", CELLS)
def test_the_states_along_the_way_end_in_the_last_state(name: str) -> None:
    layer, steps = layer_of(name), [7, 4]
    x, shared = torch.rand(2, 7, 3), shared_inputs(name, 2, 7)
    y, z, h = layer(x, lengths=steps, return_states=True, **shared)
    for row, last in zip(listed(z), listed(h), strict=True):
        assert torch.equal(row[0, -1], last[0])
        assert torch.equal(row[1, 3], last[1])
    rest = {n: v[:, 3:] for n, v in shared.items()}
    middle = tuple(row[:, 2] for row in listed(z))
    chunk, _ = layer(x[:, 3:], middle, lengths=[4, 1], **rest)
    for got, whole in zip(listed(chunk), listed(y), strict=True):
        assert_close(got, whole[:, 3:], torch.float32, name)


def test_the_states_along_the_way_of_a_reverse_layer_end_at_the_first_step() -> None:
    layer = layer_of("para_gru", reverse=True)
    y, z, h = layer(torch.rand(2, 7, 3), return_states=True)
    assert torch.equal(z[:, 0], h)
    assert torch.equal(z, y)


def test_the_states_along_the_way_of_a_packed_sequence_are_packed_too() -> None:
    a = batch_of("pair", UNEQUAL)
    packed = pack_padded_sequence(a.x, torch.tensor(UNEQUAL), True, enforce_sorted=False)
    y, z, h = a.layer(packed, a.state, return_states=True)
    _, expected, last = a.layer(a.x, a.state, lengths=UNEQUAL, return_states=True)
    for p in (*y, *z):
        assert torch.equal(p.batch_sizes, packed.batch_sizes)
        assert torch.equal(p.sorted_indices, packed.sorted_indices)
        assert torch.equal(p.unsorted_indices, packed.unsorted_indices)
    got = cut([pad_packed_sequence(v, True)[0] for v in z], UNEQUAL)
    assert_same(together(got, h), together(cut(expected, UNEQUAL), last), a.leaves, "states")


# --- against torch.nn.GRU itself, whose recurrent weights are made diagonal ------------------


def as_torch_gru(layer: CellLayer) -> nn.GRU:
    """Its gates are r, z, n; its z is 1 - z here."""
    gru = nn.GRU(layer.input_size, layer.hidden_size, 1, True, True, 0.0, layer.bidirectional)
    gru = gru.double()
    for ending in ("", "_reverse")[: 1 + layer.bidirectional]:
        z, r, c = layer.get_parameter(f"projection{ending}.weight").chunk(3)
        z_bias, r_bias, c_bias = layer.get_parameter(f"projection{ending}.bias").chunk(3)
        az, ar, ac = (layer.get_parameter(f"{n}{ending}") for n in ("az", "ar", "ac"))
        values = {
            "weight_ih": torch.cat([r, -z, c]),
            "bias_ih": torch.cat([r_bias, -z_bias, c_bias]),
            "weight_hh": torch.cat([ar.diag(), -az.diag(), ac.diag()]),
            "bias_hh": torch.zeros(3 * layer.hidden_size),
        }
        for name, value in values.items():
            gru.get_parameter(f"{name}_l0{ending}").data.copy_(value)
    return gru


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_packed_sequence_goes_in_and_out_as_with_a_gru(
    bidirectional: bool, descending: bool
) -> None:
    lengths = sorted(UNEQUAL, reverse=True) if descending else UNEQUAL
    a = batch_of("para_gru", lengths, bidirectional=bidirectional)
    h0 = a.state[0]

    def packed() -> PackedSequence:
        return pack_padded_sequence(a.x, torch.tensor(lengths), True, enforce_sorted=descending)

    y, h = a.layer(packed(), h0)
    theirs, last = as_torch_gru(a.layer)(packed(), h0 if bidirectional else h0.unsqueeze(0))
    assert torch.equal(y.batch_sizes, theirs.batch_sizes)
    for ours, other in zip(y[2:], theirs[2:], strict=True):
        assert (ours is None) if descending else torch.equal(ours, other)
    expected = [theirs.data, last if bidirectional else last[0]]
    assert_same([[y.data, h]], [expected], [a.x, h0], "as a GRU")


def test_a_bidirectional_layer_has_the_parameters_of_both_directions() -> None:
    names = {"projection.weight", "projection.bias", "az", "ar", "ac", "_extra_state"}
    reverse = {"projection_reverse.weight", "projection_reverse.bias"}
    reverse |= {"az_reverse", "ar_reverse", "ac_reverse"}
    layer = layer_of("para_gru", bidirectional=True)
    assert set(layer.state_dict()) == names | reverse
    assert not torch.equal(layer.az, layer.az_reverse)


def test_params_of_any_name_find_a_place_in_both_directions() -> None:
    @cell
    def named(h: State, x: Input, a: Param, a_reverse: Param, choices: Param, last_solve: Param):
        return a * h + a_reverse * x + choices + last_solve

    torch.manual_seed(0)
    layer = rnncc.compile(named).layer(3, 4, bidirectional=True, bias=False)
    names = {name for name, _ in layer.named_parameters() if "projection" not in name}
    ahead = {"a", "a_reverse", "choices_", "last_solve_"}
    assert names == ahead | {
        *("a_reverse_", "a_reverse_reverse", "choices_reverse", "last_solve_reverse")
    }
    y, _ = layer(torch.rand(2, 5, 3))
    gradients = torch.autograd.grad(y.sum(), list(layer.parameters()))
    assert all(g.any() for g in gradients)


# --- how it is solved ------------------------------------------------------------------------


def test_a_layer_solves_by_its_choices_and_reports_how() -> None:
    x = torch.rand(2, 40, 3)
    plain = layer_of("lstm", solver="sequential")
    assert plain.last_solve is None
    expected, _ = plain(x)
    segmented = layer_of("lstm", solver="segmented", segment=8)
    y, _ = segmented(x)
    assert_close(y, expected, torch.float32, "segmented")
    newton = layer_of("lstm", solver="newton", iterations=40, tol=1e-6)
    assert_close(newton(x)[0], expected, torch.float32, "newton")
    solves = [layer.last_solve for layer in (plain, segmented, newton)]
    assert all(isinstance(solve, Solve) for solve in solves)
    assert [solve.solver for solve in solves] == ["sequential", "segmented", "newton"]
    assert [solve.segment for solve in solves] == [40, 8, 1]
    assert all(solve.converged for solve in solves)
    both = layer_of("lstm", bidirectional=True, solver="segmented", segment=8)
    both(x)
    assert [solve.segment for solve in both.last_solve] == [8, 8]


def test_a_step_is_a_solve_too_and_each_call_brings_its_own() -> None:
    layer = layer_of("para_gru", solver="sequential")
    layer(torch.rand(2, 7, 3))
    first = layer.last_solve
    layer.step(torch.rand(2, 3))
    assert isinstance(first, Solve)
    assert isinstance(layer.last_solve, Solve)
    assert (first.segment, layer.last_solve.segment) == (7, 1)


def test_its_choices_may_be_changed() -> None:
    layer = layer_of("para_gru")
    assert layer.choices == Choices()
    layer.choices = Choices(solver="newton", iterations=1, tol=1e-9)
    with pytest.raises(ConvergenceError, match="newton on 'para_gru' has not converged"):
        layer(torch.randn(2, 40, 3))


def test_how_it_was_solved_is_not_in_the_state_dict() -> None:
    layer = layer_of("lstm")
    before = set(layer.state_dict())
    layer(torch.rand(2, 7, 3))
    assert set(layer.state_dict()) == before


@pytest.mark.filterwarnings("ignore")  # of torch's own making
@pytest.mark.parametrize("options", OPTIONS)
def test_a_layer_compiles_whole_with_lengths_boundaries_and_resets(
    options: str, fresh_dynamo: None
) -> None:
    layer = layer_of("lstm", **OPTIONS[options])
    traced = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x, reset = torch.rand(3, 9, 3), torch.rand(3, 9) < 0.3
    calls = [
        (x, {"lengths": torch.tensor([9, 0, 4]), "reset": reset}),
        (x, {"return_states": True}),
        (x.flatten(0, 1), {"cu_seqlens": torch.tensor([0, 9, 9, 27])}),
    ]
    for given, arguments in calls:
        expected, got = flat(layer(given, **arguments)), flat(traced(given, **arguments))
        gradients = []
        for tensors in (expected, got):
            loss = sum(t.pow(2).sum() for t in tensors)
            gradients.append(torch.autograd.grad(loss, list(layer.parameters())))
        for g, e in zip(got, expected, strict=True):
            assert torch.equal(g, e)
        for g, e in zip(*gradients, strict=True):
            assert_close(g, e, torch.float32, "gradient", gradient=True)


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_call_leaves_the_last_solve_alone(fresh_dynamo: None) -> None:
    layer = layer_of("para_gru")
    torch.compile(layer, fullgraph=True, backend="aot_eager")(torch.rand(2, 7, 3))
    assert layer.last_solve is None


# --- what it refuses -------------------------------------------------------------------------


def packed_x(lengths: Sequence[int] = (5, 2), width: int = 3) -> PackedSequence:
    return pack_sequence([torch.rand(n, width) for n in lengths], enforce_sorted=False)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a direction that isn't a bool": (
        lambda: layer_of("para_gru", bidirectional=2),
        "bidirectional: got 2, expected True or False.\nFix: bidirectional=True",
    ),
    "both directions and reverse": (
        lambda: layer_of("para_gru", bidirectional=True, reverse=True),
        "reverse: got True with bidirectional=True, which runs both ways already, expected one of "
        "them.\nFix: leave reverse out",
    ),
    "a solver there is none of": (
        lambda: layer_of("para_gru", solver="parallel"),
        "solver: got 'parallel', expected one of auto, sequential, segmented, newton.\n"
        "Fix: solver='auto'",
    ),
    "an option of another solver": (
        lambda: layer_of("para_gru", segment=4),
        "segment: got 4, but the solver 'auto' does not use it.\n"
        "Fix: leave it out, or solver='segmented'",
    ),
    "a step backward": (
        lambda: layer_of("para_gru", reverse=True).step(torch.rand(2, 3)),
        "step: got a layer with reverse=True, which begins at the last step of a sequence, "
        "expected one that runs forward.\nFix: layer(x) on the whole sequence",
    ),
    "a step both ways": (
        lambda: layer_of("para_gru", bidirectional=True).step(torch.rand(2, 3)),
        "step: got a layer with bidirectional=True, which begins at the last step of a sequence, "
        "expected one that runs forward.\nFix: layer(x) on the whole sequence",
    ),
    "a step of unequal lengths": (
        lambda: layer_of("para_gru").step(torch.rand(2, 3), lengths=[1, 1]),
        "lengths: not an input that is given by name.\n"
        "Fix: beside x, the layer of 'para_gru' takes these inputs by name: none",
    ),
    "lengths of another batch": (
        lambda: layer_of("para_gru")(torch.rand(2, 5, 3), lengths=[5, 2, 1]),
        "lengths: got the shape [3], expected [2], the inputs' leading dimensions.\n"
        "Fix: one length per sequence",
    ),
    "lengths with a PackedSequence": (
        lambda: layer_of("para_gru")(packed_x(), lengths=[5, 2]),
        "lengths: got it together with a PackedSequence, which brings its own lengths, expected a "
        "padded x.\nFix: x, lengths = pad_packed_sequence(x, batch_first=True)",
    ),
    "boundaries with a PackedSequence": (
        lambda: layer_of("para_gru")(packed_x(), cu_seqlens=[0, 5, 7]),
        "cu_seqlens: got it together with a PackedSequence, which brings its own lengths, expected "
        "a padded x.\nFix: x, lengths = pad_packed_sequence(x, batch_first=True)",
    ),
    "a reset with a PackedSequence": (
        lambda: layer_of("para_gru")(packed_x(), reset=torch.zeros(2, 5, dtype=torch.bool)),
        "reset: got it together with a PackedSequence, which brings its own lengths, expected a "
        "padded x.\nFix: x, lengths = pad_packed_sequence(x, batch_first=True)",
    ),
    "a PackedSequence of another width": (
        lambda: layer_of("para_gru")(packed_x(width=4)),
        "x: got float32 [7, 4] on cpu, expected a PackedSequence of [total, input_size] with "
        "input_size=3.\nFix: input_size=4 where the layer is made",
    ),
    "a PackedSequence of matrices": (
        lambda: layer_of("para_gru")(pack_sequence([torch.rand(5, 2, 3)])),
        "x: got float32 [5, 2, 3] on cpu, expected a PackedSequence of [total, input_size] with "
        "input_size=3.\nFix: batch first: [batch, time, features]",
    ),
    "a shared input that is not packed as x is": (
        lambda: layer_of("clocked")(packed_x(), dt=torch.rand(2, 5)),
        "dt: got float32 [2, 5] on cpu, expected a PackedSequence with the batch_sizes and "
        "sorted_indices of x.\nFix: pack dt with the lengths of x",
    ),
    "a shared input packed with other lengths": (
        lambda: layer_of("clocked")(
            packed_x(), dt=pack_sequence([torch.rand(4), torch.rand(3)], enforce_sorted=False)
        ),
        "dt: got one of other lengths, expected a PackedSequence with the batch_sizes and "
        "sorted_indices of x.\nFix: pack dt with the lengths of x",
    ),
    "a shared input packed in another order": (
        lambda: layer_of("clocked")(
            packed_x(), dt=pack_sequence([torch.rand(2), torch.rand(5)], enforce_sorted=False)
        ),
        "dt: got one of other lengths, expected a PackedSequence with the batch_sizes and "
        "sorted_indices of x.\nFix: pack dt with the lengths of x",
    ),
    "a shared input that is packed, beside a padded x": (
        lambda: layer_of("clocked")(torch.rand(2, 5, 3), dt=packed_x()),
        "dt: got PackedSequence, expected a torch.Tensor.\nFix: torch.as_tensor(dt)",
    ),
    "the state of one direction for two": (
        lambda: layer_of("para_gru", bidirectional=True)(torch.rand(2, 5, 3), torch.rand(2, 8)),
        "state: got float32 [2, 8] on cpu, expected [2, 2, 8].\n"
        "Fix: one for all: state.expand(2, 2, 8)",
    ),
    "the state of a padded batch for joined sequences": (
        lambda: layer_of("para_gru")(
            torch.rand(1, 5, 3), torch.rand(1, 8), cu_seqlens=[0, 2, 4, 5]
        ),
        "state: got float32 [1, 8] on cpu, expected [3, 8].\nFix: one for all: state.expand(3, 8)",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_arguments_that_do_not_fit_a_layer_are_refused_in_words(call: Any, message: str) -> None:
    with pytest.raises(ArgumentError) as refusal:
        call()
    assert str(refusal.value) == message


# --- a module among modules ------------------------------------------------------------------


def test_the_state_dict_goes_round_and_is_strict_about_names() -> None:
    a, b = layer_of("clocked"), layer_of("clocked")
    own = {"projection.weight", "projection.bias", "a", "tau"}
    assert set(a.state_dict()) == {*own, "_extra_state"}
    with torch.no_grad():
        for p in a.parameters():
            p.add_(1)
    b.load_state_dict(a.state_dict())
    x, dt = torch.rand(2, 7, 3), torch.rand(2, 7)
    assert torch.equal(a(x, dt=dt)[0], b(x, dt=dt)[0])
    wrong = {f"{k}_" if k == "tau" else k: v for k, v in a.state_dict().items()}
    with pytest.raises(RuntimeError, match=r"Missing key.*tau(.|\n)*Unexpected key.*tau_"):
        b.load_state_dict(wrong)


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of one process."""
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")  # of torch's own making
def test_the_state_dict_goes_through_ddp_and_functional_calls(alone: None) -> None:
    a, b = (nn.parallel.DistributedDataParallel(layer_of("lstm")) for _ in range(2))
    x = torch.rand(2, 7, 3)
    with torch.no_grad():
        a.module.projection.weight.add_(1)
    y, _ = a(x)
    y.sum().backward()
    assert not torch.equal(b(x)[0], y)
    b.load_state_dict(a.state_dict())
    assert torch.equal(b(x)[0], y)
    called = torch.func.functional_call(layer_of("lstm"), a.module.state_dict(), (x,))
    assert torch.equal(called[0], y)


def test_without_bias_there_is_none() -> None:
    own = {name for name, _ in layer_of("elman", bias=False).named_parameters()}
    assert own == {"projection.weight", "a"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_layer_moves_between_dtypes(dtype: torch.dtype) -> None:
    layer = layer_of("para_gru")
    x = torch.rand(2, 7, 3)
    expected, _ = layer(x)
    y, h = layer.to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    assert h.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_close(y, expected, torch.float32 if dtype == torch.float64 else dtype, "y")
    y.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == dtype for p in layer.parameters())


def test_a_layer_may_be_made_in_a_dtype_and_on_meta() -> None:
    assert layer_of("lstm", dtype=torch.float64).ri.dtype == torch.float64
    assert layer_of("lstm", device="meta").ri.is_meta


def saved_and_loaded(layer: CellLayer) -> Any:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved_and_loaded]
)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_copy_computes_the_same_with_weights_of_its_own(copied: Any, bidirectional: bool) -> None:
    layer = layer_of("lstm", bidirectional=bidirectional, solver="segmented", segment=3)
    x = torch.rand(2, 7, 3)
    before, _ = layer(x)
    other = copied(layer)
    assert layer.last_solve is not None
    assert other.last_solve is None
    assert other.choices == layer.choices
    assert torch.equal(other(x)[0], before)
    with torch.no_grad():
        other.ri.add_(1)
        other.projection.weight.add_(1)
    assert not torch.equal(other(x)[0], before)
    assert torch.equal(layer(x)[0], before)


def test_a_pickled_layer_runs_in_a_process_that_never_saw_its_cell(tmp_path: Path) -> None:
    layer = layer_of("clocked")
    x, dt = torch.rand(2, 7, 3), torch.rand(2, 7)
    y, _ = layer(x, dt=dt)
    torch.save((layer, x, dt, y.detach()), tmp_path / "layer.pt")
    code = (
        "import torch; layer, x, dt, y = torch.load('layer.pt', weights_only=False); "
        "assert torch.equal(layer(x, dt=dt)[0], y)"
    )
    python(code, tmp_path)


def test_training_and_evaluation_compute_the_same() -> None:
    layer = layer_of("lstm")
    x = torch.rand(2, 40, 3)
    trained, _ = layer.train()(x)
    evaluated, _ = layer.eval()(x)
    with torch.no_grad():
        bare, _ = layer(x)
    assert torch.equal(trained, evaluated)
    assert torch.equal(trained, bare)


def test_its_repr_names_the_cell_and_the_sizes() -> None:
    assert "CellLayer(\n  para_gru, 3, 8\n" in repr(layer_of("para_gru"))


def test_its_repr_shows_the_options_that_were_chosen() -> None:
    layer = layer_of("lstm", bidirectional=True, solver="segmented", segment=64)
    assert "lstm, 3, 8, bidirectional=True, solver='segmented', segment=64\n" in repr(layer)
    assert "lstm, 3, 8, reverse=True\n" in repr(layer_of("lstm", reverse=True))


class Stack(nn.Module):
    """Two layers and a head that say whether the first token came again at the end."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 16)
        self.first = compiled(name).layer(16, 16)
        self.second = compiled(name).layer(16, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        y, _ = self.first(self.embed(tokens))
        y, _ = self.second(y)
        logits: Tensor = self.head(y[:, -1])
        return logits


@pytest.mark.parametrize("name", ["para_gru", "lstm", "slstm", "block_elman", "min_gru"])
def test_stacked_layers_learn_to_recall_the_first_token(name: str) -> None:
    torch.manual_seed(1)
    model = Stack(name)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        tokens = torch.randint(4, (64, 6))
        loss = nn.functional.cross_entropy(model(tokens), tokens[:, 0])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[:5]) / 5 > 1.2  # log 4 = 1.39: it knows nothing
    assert sum(losses[-5:]) / 5 < 0.5 * sum(losses[:5]) / 5


# --- the generated module --------------------------------------------------------------------


def generated(name: str, folder: Path) -> ModuleType:
    write.write(compiled(name).files, folder / name)
    spec = importlib.util.spec_from_file_location(name, folder / name / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["para_gru", "slstm", "pair"])
def test_a_generated_module_computes_the_same_as_the_compiled_cell(
    name: str, tmp_path: Path
) -> None:
    module = generated(name, tmp_path)
    class_name, function_name = module.__all__
    assert function_name == name
    cell = compiled(name).stages.cell
    arguments = {i.name: torch.rand(2, 7, 8) for i in cell.inputs}
    arguments |= {p.name: torch.rand(8) for p in cell.params}
    function = getattr(module, name)
    by_name = function(**arguments, return_state=True)
    by_place = function(*arguments.values(), return_state=True)
    expected = compiled(name)(**arguments, return_state=True)
    for part in range(2):
        for a, b, e in zip(
            listed(by_name[part]), listed(by_place[part]), listed(expected[part]), strict=True
        ):
            assert torch.equal(a, e)
            assert torch.equal(b, e)
    ours, theirs = getattr(module, class_name)(3, 8), layer_of(name)
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(2, 7, 3)
    for a, e in zip(listed(ours(x)[0]), listed(theirs(x)[0]), strict=True):
        assert torch.equal(a, e)
    start = tuple(torch.rand(2, 8) for _ in cell.states)
    h0 = start if len(start) > 1 else start[0]
    assert_all_equal(function(**arguments, h0=h0), compiled(name)(**arguments, h0=h0))


def assert_all_equal(got: Any, expected: Any) -> None:
    for g, e in zip(flat(got), flat(expected), strict=True):
        assert torch.equal(g, e)


def test_a_generated_function_hands_every_option_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = generated("para_gru", tmp_path)
    defaults = options_of(module.para_gru)
    assert defaults == options_of(rnncc.nn.functional.run) | asdict(Choices())
    assert set(defaults) == names.OPTIONS
    handed: dict[str, Any] = {}
    monkeypatch.setattr(module, "_run", lambda _kernel, _arguments, **given: handed.update(given))
    module.para_gru(*range(6))
    assert handed.items() <= defaults.items()  # `run` adds the rest
    options = {name: object() for name in defaults}
    module.para_gru(*range(6), **options)
    assert handed == options


def options_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Keyword-only parameters and their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


COLD = """
import torch
from generated.para_gru import ParaGRU, para_gru
layer = torch.compile(ParaGRU(4, 8), fullgraph=True, backend="eager")
y, _ = layer(torch.randn(2, 5, 4))
step = torch.compile(lambda *a: para_gru(*a), fullgraph=True, backend="eager")
print(y.shape, step(*torch.randn(3, 2, 5, 8), *torch.randn(3, 8)).shape)
"""


def test_the_very_first_call_may_be_compiled_in_one_graph() -> None:
    command = [sys.executable, "-c", COLD]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_options_of_a_generated_function_are_used(tmp_path: Path) -> None:
    function = generated("para_gru", tmp_path).para_gru
    arguments = [torch.randn(3, 9, 8) for _ in range(3)] + [torch.rand(8) for _ in range(3)]
    solves: list[Solve] = []
    options: dict[str, Any] = {
        **{"h0": torch.rand(3, 8), "return_state": True, "return_states": True},
        **{"lengths": [9, 4, 0], "reset": torch.rand(3, 9) < 0.3, "reverse": True},
        **{"solver": "segmented", "segment": 2},
    }
    got = function(*arguments, **options, observe=solves.append)
    assert_all_equal(got, compiled("para_gru")(*arguments, **options))
    assert [(s.solver, s.segment) for s in solves] == [("segmented", 2)]


IN_A_FRESH_PROCESS = """
import sys, torch
from made.para_gru import ParaGRU, para_gru
layer = ParaGRU(input_size=3, hidden_size=8)
y, h = layer(torch.rand(2, 7, 3))
y.sum().backward()
assert layer.az.grad.any()
heavy = [name for name in ("sympy", "jinja2", "cupy", "triton") if name in sys.modules]
assert not heavy, heavy
"""


def python(code: str, folder: Path, **environment: str) -> None:
    path = os.pathsep.join([str(ROOT), str(folder)])
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


def test_a_generated_module_needs_neither_the_compiler_of_cells_nor_sympy(tmp_path: Path) -> None:
    write.write(compiled("para_gru").files, tmp_path / "made" / "para_gru")
    python(IN_A_FRESH_PROCESS, tmp_path)


def test_with_a_warm_cache_no_cpp_compiler_is_needed(tmp_path: Path) -> None:
    write.write(compiled("para_gru").files, tmp_path / "made" / "para_gru")
    python(IN_A_FRESH_PROCESS, tmp_path)  # warms it
    python(IN_A_FRESH_PROCESS, tmp_path, PATH="")


def test_a_generated_module_imports_without_building(tmp_path: Path) -> None:
    write.write(compiled("para_gru").files, tmp_path / "made" / "para_gru")
    cache = tmp_path / "cache"
    python("import made.para_gru", tmp_path, PATH="", RNNCC_CACHE_DIR=str(cache))
    assert not cache.exists()


IN_A_ZIP = """
import torch, rnncc, para_gru
for module in (rnncc, para_gru):
    assert "all.zip" in module.__file__, module.__file__
layer = para_gru.ParaGRU(input_size=3, hidden_size=8)
y, h = layer(torch.rand(2, 7, 3))
y.sum().backward()
assert layer.az.grad.any()
assert "__global__" in layer.kernel.source("cuda")
"""


def test_a_generated_module_and_rnncc_itself_run_from_a_zip_file(tmp_path: Path) -> None:
    files = {p.relative_to(ROOT): p.read_text() for p in (ROOT / "rnncc").rglob("*.py")}
    headers = ROOT / "templates"
    for header in headers.rglob("*.h"):
        files[Path("rnncc/_templates") / header.relative_to(headers)] = header.read_text()
    for name, text in compiled("para_gru").files.items():
        files[Path("para_gru") / name] = text
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for path, text in files.items():
            archive.writestr(path.as_posix(), text)
    python(IN_A_ZIP, tmp_path, PYTHONPATH=str(tmp_path / "all.zip"))


def test_a_generated_folder_that_lacks_a_file_says_how_to_fix_it(tmp_path: Path) -> None:
    folder = tmp_path / "para_gru"
    write.write(compiled("para_gru").files, folder)
    (folder / "kernel.cpp").unlink()
    with pytest.raises(LoadError, match=r"can't be read(.|\n)*Fix: regenerate it with rnncc"):
        Kernel.read(folder)


def test_a_generated_folder_of_another_version_says_how_to_fix_it(tmp_path: Path) -> None:
    folder = tmp_path / "para_gru"
    write.write(compiled("para_gru").files, folder)
    (folder / "cell.json").write_text('{"name": "para_gru", "novelty": 1}')
    with pytest.raises(LoadError, match=r"can't be read(.|\n)*Fix: regenerate it with rnncc"):
        Kernel.read(folder)
