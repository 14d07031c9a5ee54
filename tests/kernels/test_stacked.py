"""Layers on top of each other, dropout between them, and time as the first dimension."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import rnncc
from rnncc import Input, State, cell, tanh
from rnncc.errors import ArgumentError
from rnncc.nn.layer import CellLayer
from tests.support.runs import compiled
from tests.support.tolerances import assert_close

N = 4


@cell
def doubled(h: State(size=2), x: Input):
    return tanh(h + x)


def layer_of(name: str = "para_gru", **options: Any) -> CellLayer:
    torch.manual_seed(0)
    return compiled(name).layer(3, N, **options)


def levels(stack: CellLayer, name: str = "para_gru", **options: Any) -> list[CellLayer]:
    """The layers of a stack, each by itself."""
    found, weights = [], stack.state_dict()
    for k in range(stack.num_layers):
        features = 3 if k == 0 else N * (1 + stack.bidirectional)
        layer = compiled(name).layer(features, N, bidirectional=stack.bidirectional, **options)
        own = {}
        for key in layer.state_dict():
            first, _, rest = key.partition(".")
            back = "_reverse" if first.endswith("_reverse") else ""
            level = f"_l{k}" if k and key != "_extra_state" else ""
            there = f"{first.removesuffix(back)}{level}{back}{'.' if rest else ''}{rest}"
            own[key] = weights[there]
        layer.load_state_dict(own)
        found.append(layer)
    return found


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", ["para_gru", "lstm"])
def test_each_layer_reads_the_outputs_below(name: str, bidirectional: bool) -> None:
    stack = layer_of(name, num_layers=3, bidirectional=bidirectional)
    x = torch.randn(2, 7, 3, requires_grad=True)
    y, state = stack(x)
    z, ends = x, []
    for layer in levels(stack, name):
        z, end = layer(z)
        end = end if isinstance(end, tuple) else (end,)
        ends.append([e if bidirectional else e.unsqueeze(0) for e in end])
    assert torch.equal(y, z)
    state = state if isinstance(state, tuple) else (state,)
    for own, column in zip(state, zip(*ends, strict=True), strict=True):
        assert torch.equal(own, torch.cat(column))
    assert torch.equal(*torch.autograd.grad(y.sum(), x), *torch.autograd.grad(z.sum(), x))
    assert len(stack.last_solve) == 3 * (1 + bidirectional)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_shapes_are_those_of_torch_gru(bidirectional: bool) -> None:
    assert compiled("para_gru").layer(3, N, 2).num_layers == nn.GRU(3, N, 2).num_layers
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": bidirectional}
    theirs, x = nn.GRU(3, N, batch_first=True, **options), torch.randn(2, 7, 3)
    for ours, seen in zip(layer_of(**options)(x), theirs(x), strict=True):
        assert ours.shape == seen.shape
    first = nn.GRU(3, N, **options)
    for ours, seen in zip(layer_of(batch_first=False, **options)(x), first(x), strict=True):
        assert ours.shape == seen.shape


def test_names_of_the_first_layer_are_those_of_a_single_one() -> None:
    names = [name for name, _ in layer_of(num_layers=2, bidirectional=True).named_parameters()]
    assert names[:12:3] == ["az", "az_reverse", "az_l1", "az_l1_reverse"]
    assert names[12::2] == [
        f"projection{ending}.weight" for ending in ("", "_reverse", "_l1", "_l1_reverse")
    ]
    single = layer_of()
    layer_of(num_layers=2).load_state_dict(single.state_dict(), strict=False)
    assert set(single.state_dict()) < set(layer_of(num_layers=2).state_dict())


def test_a_sequence_goes_on_from_a_state_and_step_by_step() -> None:
    stack, x = layer_of("lstm", num_layers=2), torch.randn(2, 7, 3)
    y, last = stack(x)
    first, state = stack(x[:, :3])
    second, state = stack(x[:, 3:], state)
    assert_close(torch.cat([first, second], 1), y, torch.float32, "continued")
    rows, state = [], None
    for t in range(7):
        row, state = stack.step(x[:, t], state)
        rows.append(row)
    assert_close(torch.stack(rows, 1), y, torch.float32, "steps")
    for a, b in zip(state, last, strict=True):
        assert a.shape == (2, 2, N)
        assert_close(a, b, torch.float32, "state")


@pytest.mark.parametrize("bidirectional", [False, True])
def test_sequences_are_padded_joined_packed_and_reset(bidirectional: bool) -> None:
    stack = layer_of(num_layers=2, bidirectional=bidirectional)
    x, lengths = torch.randn(2, 7, 3), [7, 3]
    y, h = stack(x, lengths=lengths)
    alone = [stack(x[b : b + 1, :n]) for b, n in enumerate(lengths)]
    assert_close(y[1, :3], alone[1][0][0], torch.float32, "y")
    assert_close(h, torch.cat([a[1] for a in alone], 1), torch.float32, "h")
    rows, last = stack(pack_padded_sequence(x, lengths, True))
    assert_close(pad_packed_sequence(rows, True)[0], y, torch.float32, "packed")
    assert_close(last, h, torch.float32, "last of packed")
    z, last = stack(torch.cat([x[0], x[1, :3]]), cu_seqlens=[0, 7, 10])
    assert_close(z, torch.cat([y[0], y[1, :3]]), torch.float32, "joined")
    assert_close(last, h, torch.float32, "last of joined")
    if not bidirectional:
        reset = torch.zeros(2, 7, dtype=torch.bool)
        reset[:, 4] = True
        assert_close(stack(x, reset=reset)[0][:, 4:], stack(x[:, 4:])[0], torch.float32, "reset")


def test_given_inputs_go_to_all_layers() -> None:
    stack, x, dt = layer_of("clocked", num_layers=2), torch.randn(2, 7, 3), torch.rand(2, 7)
    y, _ = stack(x, dt=dt)
    first, second = levels(stack, "clocked")
    assert torch.equal(second(first(x, dt=dt)[0], dt=dt)[0], y)


def test_states_along_the_way_are_those_of_the_last_layer() -> None:
    y, states, _ = layer_of(num_layers=2)(torch.randn(2, 7, 3), return_states=True)
    assert torch.equal(states, y)


def test_a_stack_is_copied_saved_and_compiled() -> None:
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "batch_first": False}
    stack, x = layer_of(dropout=0.25, **options).eval(), torch.randn(7, 2, 3)
    y, _ = stack(x)
    for copied in (copy.deepcopy(stack), pickle.loads(pickle.dumps(stack))):
        assert torch.equal(copied(x)[0], y)
    assert repr(stack).splitlines()[1].strip() == (
        "para_gru, 3, 4, num_layers=2, batch_first=False, dropout=0.25, bidirectional=True"
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert stack(x)[0].dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore")  # of torch's own making
def test_a_stack_compiles_whole(fresh_dynamo: None) -> None:
    stack, x = layer_of(num_layers=2, batch_first=False), torch.randn(7, 2, 3)
    traced = torch.compile(stack, fullgraph=True, backend="aot_eager")
    assert_close(traced(x)[0], stack(x)[0], torch.float32, "torch.compile")


# --- dropout ---------------------------------------------------------------------------------


def test_dropout_acts_between_layers_in_training_only() -> None:
    stack, x = layer_of(num_layers=2, dropout=0.5), torch.randn(2, 7, 3)
    first, second = levels(stack)
    torch.manual_seed(5)
    y, _ = stack(x)
    torch.manual_seed(5)
    expected, _ = second(nn.functional.dropout(first(x)[0], 0.5))
    assert torch.equal(y, expected)
    assert torch.equal(stack.eval()(x)[0], second(first(x)[0])[0])
    nothing = layer_of(num_layers=2, dropout=1.0)(x)[0]
    assert torch.equal(nothing, levels(layer_of(num_layers=2))[1](torch.zeros(2, 7, N))[0])


def test_dropout_of_one_layer_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="got 0.5 with num_layers=1"):
        layer_of(dropout=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer_of(dropout=0.5, num_layers=2)
        nn.Sequential(nn.Identity(), nn.Dropout(0.5))(layer_of()(torch.randn(2, 7, 3))[0])


# --- time first ------------------------------------------------------------------------------


def turned(v: Tensor) -> Tensor:
    return v.transpose(0, 1)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_time_may_be_the_first_dimension(bidirectional: bool) -> None:
    layer = layer_of("clocked", bidirectional=bidirectional)
    first = layer_of("clocked", bidirectional=bidirectional, batch_first=False)
    x, dt, reset = torch.randn(2, 7, 3), torch.rand(2, 7), torch.rand(2, 7) < 0.3
    options = {"lengths": [7, 3], "return_states": True}
    y, states, h = layer(x, dt=dt, reset=reset, **options)
    z, along, last = first(turned(x), dt=turned(dt), reset=turned(reset), **options)
    assert torch.equal(turned(z), y)
    assert torch.equal(turned(along), states)
    assert torch.equal(last, h)
    one, start = {"x": x[0], "dt": dt[0]}, h[..., 0, :]
    assert torch.equal(first(**one, state=start)[0], layer(**one, state=start)[0])


def test_steps_and_packed_sequences_have_no_time_to_turn() -> None:
    layer, first = layer_of(), layer_of(batch_first=False)
    x = torch.randn(2, 7, 3)
    for ours, theirs in zip(first.step(x[:, 0]), layer.step(x[:, 0]), strict=True):
        assert torch.equal(ours, theirs)
    packed = pack_padded_sequence(x, [7, 3], True)
    assert torch.equal(first(packed)[0].data, layer(packed)[0].data)


# --- refusals --------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Any, str]] = {
    "no layers": (
        lambda: layer_of(num_layers=0),
        "num_layers: got 0, expected an int of at least 1.\nFix: num_layers=2",
    ),
    "a probability above 1": (
        lambda: layer_of(num_layers=2, dropout=1.5),
        "dropout: got 1.5, expected a probability, from 0 to 1.\nFix: dropout=0.1",
    ),
    "an order that isn't a bool": (
        lambda: layer_of(batch_first="yes"),
        "batch_first: got 'yes', expected True or False.\nFix: batch_first=True",
    ),
    "a stack without a projection": (
        lambda: compiled("para_gru").layer(N, projection=None, num_layers=2),
        "num_layers: got 2 with projection=None, expected a projection, which makes the inputs of "
        "a layer from the outputs below.\n"
        "Fix: leave num_layers out, and call one layer after another",
    ),
    "a stack of a cell with several outputs": (
        lambda: compiled("pair").layer(3, N, num_layers=2),
        "num_layers: got 2 for 'pair', which has the outputs",
    ),
    "a stack of a cell with vectors for outputs": (
        lambda: rnncc.compile(doubled).layer(3, N, num_layers=2),
        "num_layers: got 2 for 'doubled', whose output h has [2] values per channel, expected one "
        "value, which the next layer reads.\nFix: leave num_layers out, and call a layer of 2 * "
        "hidden_size features on y.flatten(-2)",
    ),
    "an order that is a number": (
        lambda: layer_of(batch_first=0),
        "batch_first: got 0, expected True or False.\nFix: batch_first=False",
    ),
    "a state with a batch of one more": (
        lambda: layer_of()(torch.rand(2, 7, 3), torch.rand(2, 1, N)),
        "state: got float32 [2, 1, 4] on cpu, expected [2, 4].\nFix: state.squeeze(1)",
    ),
    "a state of the other order": (
        lambda: layer_of()(torch.rand(7, 2, 3), torch.rand(2, N)),
        "state: got float32 [2, 4] on cpu, expected [7, 4].\nFix: one state per sequence; "
        "batch_first= says which dimension of x is that of sequences",
    ),
    "states with a batch of one more": (
        lambda: layer_of("lstm")(torch.rand(2, 7, 3), (torch.rand(2, 1, N), torch.rand(2, 1, N))),
        "state (c): got float32 [2, 1, 4] on cpu, expected [2, 4].\n"
        "Fix: state=tuple(s.squeeze(1) for s in state)",
    ),
    "the state of one layer for two": (
        lambda: layer_of(num_layers=2)(torch.rand(2, 7, 3), torch.rand(2, N)),
        "state: got float32 [2, 4] on cpu, expected [2, 2, 4].\n"
        "Fix: one for all: state.expand(2, 2, 4)",
    ),
    "features that come first": (
        lambda: layer_of(batch_first=False)(torch.rand(3, 2, 7)),
        "x: got float32 [3, 2, 7] on cpu, expected [T, ..., input_size] with input_size=3.\n"
        "Fix: x.transpose(0, -1), which has the features last",
    ),
    "a reset of the other order": (
        lambda: layer_of(batch_first=False)(
            torch.rand(7, 2, 3), reset=torch.zeros(2, 7, dtype=torch.bool)
        ),
        "reset: got the shape [2, 7], expected [7, 2].\nFix: one value per sequence and step",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_in_words(call: Any, message: str) -> None:
    with pytest.raises(ArgumentError) as refusal:
        call()
    assert str(refusal.value).startswith(message)


def test_the_fixes_of_the_refusals_work() -> None:
    layer_of(num_layers=2)(torch.rand(2, 7, 3), torch.rand(2, N).expand(2, 2, 4))
    layer_of(batch_first=False)(torch.rand(7, 2, 3), torch.rand(2, N))
    y, _ = rnncc.compile(doubled).layer(3, N)(torch.rand(2, 7, 3))
    rnncc.compile(doubled).layer(2 * N, N)(y.flatten(-2))
    layer_of(num_layers=2, dropout=0.1)(torch.rand(2, 7, 3))
    x = torch.rand(3, 2, 7)
    assert layer_of(batch_first=False)(x.transpose(0, -1))[0].shape == (7, 2, N)
    two = [compiled("para_gru").layer(N, projection=None) for _ in range(2)]
    u = torch.rand(2, 7, N)
    for layer in two:
        u, _ = layer(u, u, u)
    assert u.shape == (2, 7, N)
