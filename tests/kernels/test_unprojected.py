"""Layers without a projection: inputs as they are given, in order or by name."""

from __future__ import annotations

import copy
import functools
import importlib.util
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import rnncc
from rnncc import Input, Param, State, cell, sigmoid, tanh
from rnncc.codegen import writer as write
from rnncc.compiler import CompiledCell
from rnncc.errors import ArgumentError
from rnncc.lang.dsl import Cell
from rnncc.nn.layer import CellLayer
from tests.support.cells import cell_from, source_of
from tests.support.tolerances import assert_close

N = 4


@cell
def leaky(h: State, u: Input, a: Param):
    return sigmoid(a) * h + u


@cell
def driven(h: State, u: Input, x: Input, dt: Input(shared=True), v: State, a: Param):
    return tanh(a * h * dt + u * x), 0.5 * v + h


@cell
def bare(h: State, x: Input):
    return tanh(0.5 * h + x)


@cell
def stated(h: State, state: Input):
    return 0.5 * h + state


@functools.cache
def compiled(written: Cell) -> CompiledCell:
    return rnncc.compile(written)


def layer_of(written: Cell, **options: Any) -> CellLayer:
    torch.manual_seed(0)
    return compiled(written).layer(N, projection=None, **options)


def values(batch: int = 2, steps: int = 7) -> dict[str, Tensor]:
    u, x = torch.randn(2, batch, steps, N)
    return {"u": u, "x": x, "dt": torch.rand(batch, steps)}


def test_one_input_is_given_as_x_is_to_a_gru() -> None:
    layer, u = layer_of(leaky), torch.randn(2, 7, N, requires_grad=True)
    y, h = layer(u)
    expected, last = compiled(leaky)(u, layer.a, return_state=True)
    assert torch.equal(y, expected)
    assert torch.equal(h, last)
    assert torch.equal(layer(u=u)[0], y)
    leaves = [u, layer.a]
    for ours, theirs in zip(
        torch.autograd.grad(y.sum(), leaves),
        torch.autograd.grad(expected.sum(), leaves),
        strict=True,
    ):
        assert torch.equal(ours, theirs)
    first, h = layer(u[:, :3])
    assert_close(torch.cat([first, layer(u[:, 3:], h)[0]], 1), y, torch.float32, "continued")
    assert torch.equal(layer(u[:, 3:], state=h)[0], layer(u[:, 3:], h)[0])


def test_several_are_given_in_order_or_by_name_and_then_the_state() -> None:
    layer, given = layer_of(driven), values()
    y, state = layer(*given.values())
    expected = compiled(driven)(**given, a=layer.a)
    assert torch.equal(y, expected)
    for other in (
        layer(**given),
        layer(given["u"], x=given["x"], dt=given["dt"]),
        layer(dt=given["dt"], u=given["u"], x=given["x"]),
    ):
        assert torch.equal(other[0], y)
    assert torch.equal(layer(*given.values(), state)[0], layer(**given, state=state)[0])
    y, states, state = layer(**given, return_states=True)
    assert torch.equal(states[0][:, -1], state[0])


def test_it_goes_step_by_step() -> None:
    layer, given = layer_of(driven), values()
    y, last = layer(**given)
    state, rows = None, []
    for t in range(7):
        now = [v[:, t] for v in given.values()]
        row, state = layer.step(*now, state) if t % 2 else layer.step(*now, state=state)
        rows.append(row)
    assert_close(torch.stack(rows, 1), y, torch.float32, "steps")
    for ours, theirs in zip(state, last, strict=True):
        assert_close(ours, theirs, torch.float32, "state")


def test_inputs_broadcast_and_have_any_leading_dimensions() -> None:
    layer, given = layer_of(driven), values()
    one = {"u": given["u"], "x": torch.rand(7, 1), "dt": torch.rand(7)}
    whole = {"u": given["u"], "x": one["x"].expand(2, 7, N), "dt": one["dt"].expand(2, 7)}
    assert torch.equal(layer(**one)[0], layer(**whole)[0])
    single = {name: v[0] for name, v in given.items()}
    assert torch.equal(layer(**single)[0], layer(**given)[0][0])
    deep = {name: v.unsqueeze(0) for name, v in given.items()}
    y, h = layer(**deep)
    assert y.shape == (1, 2, 7, N)
    assert h[0].shape == (1, 2, N)


def test_they_are_padded_joined_packed_and_reset() -> None:
    layer, given, lengths = layer_of(driven), values(), [7, 3]
    y, h = layer(**given, lengths=lengths)
    assert not y[1, 3:].any()
    joined = {name: torch.cat([v[0], v[1, :3]]) for name, v in given.items()}
    z, last = layer(**joined, cu_seqlens=[0, 7, 10])
    assert_close(z, torch.cat([y[0], y[1, :3]]), torch.float32, "joined")
    packed = {name: pack_padded_sequence(v, lengths, True) for name, v in given.items()}
    for rows, ends in (layer(**packed), layer(*packed.values())):
        assert_close(pad_packed_sequence(rows, True)[0], y, torch.float32, "packed")
        for a, b, c in zip(ends, last, h, strict=True):
            assert_close(a, c, torch.float32, "last of packed")
            assert_close(b, c, torch.float32, "last of joined")
    reset = torch.zeros(2, 7, dtype=torch.bool)
    reset[:, 4] = True
    again = layer(**given, reset=reset)[0][:, 4:]
    fresh = layer(**{name: v[:, 4:] for name, v in given.items()})[0]
    assert_close(again, fresh, torch.float32, "reset")


def test_nan_behind_the_end_reaches_no_gradient() -> None:
    layer, u = layer_of(leaky), torch.randn(2, 7, N)
    u[1, 3:] = torch.nan
    u.requires_grad_()
    y, _ = layer(u, lengths=[7, 3])
    du, da = torch.autograd.grad(y.sum(), [u, layer.a])
    assert du.isfinite().all()
    assert da.isfinite().all()


def test_both_directions_have_params_of_their_own() -> None:
    both, given = layer_of(driven, bidirectional=True), values()
    assert [name for name, _ in both.named_parameters()] == ["a", "a_reverse"]
    back = layer_of(driven, reverse=True)
    back.load_state_dict({"a": both.a_reverse.detach()}, strict=False)
    y, (h, _) = both(**given)
    assert torch.equal(y[..., N:], back(**given)[0])
    assert h.shape == (2, 2, N)
    assert torch.equal(h[1], back(**given)[1][0])
    assert len(both.last_solve) == 2


def test_time_may_come_first() -> None:
    layer, given = layer_of(driven), values()
    first = layer_of(driven, batch_first=False)
    turned = {name: v.transpose(0, 1) for name, v in given.items()}
    y, h = layer(**given, lengths=[7, 3])
    z, last = first(**turned, lengths=[7, 3])
    assert torch.equal(z.transpose(0, 1), y)
    assert torch.equal(last[0], h[0])


@pytest.mark.filterwarnings("ignore")  # of torch's own making
@pytest.mark.parametrize("written", [leaky, driven, bare], ids=["leaky", "driven", "bare"])
def test_it_is_a_module_as_others_are(written: Cell, fresh_dynamo: None) -> None:
    layer = layer_of(written)
    given = {name: v for name, v in values().items() if name in layer._takes.ranks}
    y = layer(**given)[0]
    assert layer.projection is None
    assert (layer.input_size, layer.hidden_size) == (None, N)
    assert repr(layer) == f"CellLayer({written.name}, {N}, projection=None)"
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = compiled(written).layer(hidden_size=N, projection=None)
    other.load_state_dict(torch.load(file, weights_only=True))
    for copied in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(copied(**given)[0], y)
    traced = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert_close(traced(**given)[0], y, torch.float32, "torch.compile")
    assert_close(traced(*given.values())[0], y, torch.float32, "torch.compile")


def test_its_weights_do_not_load_into_a_layer_with_a_projection() -> None:
    with pytest.raises(RuntimeError, match="Missing key"):
        compiled(leaky).layer(3, N).load_state_dict(layer_of(leaky).state_dict())


def test_nothing_is_rounded_below_the_dtype_that_is_given() -> None:
    layer, given = layer_of(driven), values()
    y = layer(**given)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(**given)[0], y)
    half = {name: v.bfloat16() for name, v in given.items()}
    assert layer(**half)[0].dtype == torch.bfloat16
    mixed = half | {"dt": given["dt"]}
    expected = layer(**{name: v.float() for name, v in mixed.items()})[0]
    assert torch.equal(layer(**mixed)[0], expected)
    assert layer_of(driven).bfloat16()(**half)[0].dtype == torch.bfloat16
    assert layer_of(driven).double()(**{k: v.double() for k, v in given.items()})[0].dtype == (
        torch.float64
    )


def test_a_mask_is_given_beside_a_projected_x_as_before() -> None:
    @cell
    def masked(h: State, x: Input, m: Input(projected=False), a: Param):
        return m * h + (1 - m) * tanh(a * h + x)

    c, mask = rnncc.compile(masked), torch.rand(2, 7, N)
    layer, x = c.layer(3, N), torch.rand(2, 7, 3)
    expected = c(layer.projection(x), mask, layer.a)
    assert torch.equal(layer(x, m=mask)[0], expected)
    alone = c.layer(N, projection=None)
    alone.load_state_dict({"a": layer.a.detach()}, strict=False)
    assert torch.equal(alone(layer.projection(x), mask)[0], expected)


def test_a_generated_layer_does_without_a_projection_too(tmp_path: Path) -> None:
    source = source_of("return a * h + u", "h: State, u: Input, a: Param", name="plain")
    c = rnncc.compile(cell_from(tmp_path, source))
    write.write(c.files, tmp_path / "out" / "plain")
    place = tmp_path / "out" / "plain" / "__init__.py"
    spec = importlib.util.spec_from_file_location("plain", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    layer, u = module.Plain(N, projection=None), torch.randn(2, 5, N)
    assert torch.equal(layer(u)[0], module.plain(u, layer.a))
    assert module.Plain(3, N)(torch.rand(2, 5, 3))[0].shape == (2, 5, N)


def test_it_trains_in_a_model() -> None:
    torch.manual_seed(0)

    class Filter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.filter = compiled(leaky).layer(1, projection=None)

        def forward(self, u: Tensor) -> Tensor:
            y: Tensor = self.filter(u)[0]
            return y

    model, u = Filter(), torch.randn(8, 30, 1)
    target = Filter()
    nn.init.constant_(target.filter.a, 1.5)
    wanted = target(u).detach()
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(u), wanted).backward()
        optimizer.step()
    assert abs(model.filter.a.item() - 1.5) < 0.05


REFUSED: dict[str, tuple[Any, str]] = {
    "an input that is missing": (
        lambda: layer_of(driven)(values()["u"], values()["x"]),
        "dt: missing.\nFix: the layer of 'driven' takes, in order or by name: u, x, dt",
    ),
    "an input that it doesn't know": (
        lambda: layer_of(driven)(**values(), z=1),
        "z: not an input that is given by name.\n"
        "Fix: the layer of 'driven' takes, in order or by name: u, x, dt",
    ),
    "an input that is misspelt": (
        lambda: layer_of(driven)(uu=1, x=values()["x"], dt=values()["dt"]),
        "uu: not an input that is given by name.\n"
        "Fix: u=..., or the layer of 'driven' takes, in order or by name: u, x, dt",
    ),
    "an input of another layer": (
        lambda: layer_of(leaky)(x=torch.rand(2, 7, N)),
        "x: not an input that is given by name.\n"
        "Fix: the layer of 'leaky' takes, in order or by name: u",
    ),
    "a shared input with channels": (
        lambda: layer_of(driven)(**values() | {"dt": torch.rand(2, 7, 1)}),
        "dt: got float32 [2, 7, 1] on cpu, expected [..., T] that broadcasts to [2, 7, 4], as the "
        "inputs before it.\nFix: dt.squeeze(-1)",
    ),
    "a projection that is a bool": (
        lambda: compiled(leaky).layer(N, projection=False),
        "projection: got False, expected 'linear', or None for inputs that are given as they are.\n"
        "Fix: projection=None",
    ),
    "an input given twice": (
        lambda: layer_of(driven)(*values().values(), x=values()["x"]),
        "x: given twice.\nFix: by its place or by its name",
    ),
    "one value too many": (
        lambda: layer_of(leaky)(torch.rand(2, 7, N), torch.rand(2, N), torch.rand(2, N)),
        "layer(u, state): got 3 positional arguments, expected 2 at most, the state last and "
        "once.\nFix: the layer of 'leaky' takes, in order or by name: u",
    ),
    "an input of other channels": (
        lambda: layer_of(leaky)(torch.rand(2, 7, 3)),
        "u: got float32 [2, 7, 3] on cpu, expected [..., T, 4], a value for each channel of the "
        "layer.\nFix: layer(3, projection=None) where the layer is made",
    ),
    "an input of another dtype": (
        lambda: layer_of(leaky)(torch.rand(2, 7, N).double()),
        "u: got float64 [2, 7, 4] on cpu, expected float32, as the layer's parameters.\n"
        "Fix: u.to(torch.float32) or layer.to(torch.float64)",
    ),
    "inputs of two dtypes": (
        lambda: layer_of(bare).double()(torch.rand(2, 7, N).int()),
        "x: got int32 [2, 7, 4] on cpu, expected float32, bfloat16, float16 or float64.\n"
        "Fix: x.float()",
    ),
    "two sizes": (
        lambda: compiled(leaky).layer(3, N, projection=None),
        "hidden_size: got 3 and 4, expected one with projection=None: N, the channels of inputs "
        "and states.\nFix: layer(4, projection=None)",
    ),
    "no size": (
        lambda: compiled(leaky).layer(projection=None),
        "hidden_size: got no size, expected one with projection=None: N, the channels of inputs "
        "and states.\nFix: layer(64, projection=None)",
    ),
    "one size with a projection": (
        lambda: compiled(leaky).layer(N),
        "hidden_size: missing, expected features of x and channels N, or projection=None for "
        "inputs that are given as they are.\nFix: layer(4, 4), or layer(4, projection=None)",
    ),
    "a module as the projection": (
        lambda: compiled(leaky).layer(3, N, projection=nn.Linear(3, N)),
        "projection: got Linear, expected 'linear', or None for inputs that are given as they "
        "are.\nFix: layer.projection = module, once the layer is made",
    ),
    "an input called as the state is": (
        lambda: layer_of(stated),
        "projection: got None for 'stated', whose input 'state' has the name of an argument of "
        "every layer, expected another name of the input.\n"
        "Fix: rename it in the cell, for example 'state_'",
    ),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_in_words(call: Any, message: str) -> None:
    with pytest.raises(ArgumentError) as refusal:
        call()
    assert str(refusal.value) == message


def test_the_fixes_of_the_refusals_work() -> None:
    layer_of(driven)(**values() | {"dt": torch.rand(2, 7, 1).squeeze(-1)})
    u = torch.rand(2, 7, 3)
    assert compiled(leaky).layer(3, projection=None)(u)[0].shape == u.shape
    assert layer_of(leaky).to(torch.float64)(torch.rand(2, 7, N).double())[0].dtype == torch.float64
    assert compiled(leaky).layer(N, N)(torch.rand(2, 7, N))[0].shape == (2, 7, N)
    layer = compiled(leaky).layer(3, N)
    layer.projection = nn.Sequential(nn.Linear(3, N), nn.ReLU())  # type: ignore[assignment]
    assert layer(u)[0].shape == (2, 7, N)
