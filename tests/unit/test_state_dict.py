"""A layer's state_dict holds the order of its cell's inputs, by which weights find their rows."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rnncc
from rnncc.compiler import CompiledCell
from rnncc.nn.layer import CellLayer
from tests.support.cells import cell_from, source_of

BODY = "z = sigmoid(a * h + xz)\nreturn (1 - z) * h + z * tanh(xc) * gain + dt"
INPUTS = {
    "xz": "Input",
    "xc": "Input(bias=constant(1))",
    "gain": "Input(shared=True, projected=True)",
    "dt": "Input(shared=True)",
}
ORDER = "xz xc gain dt"
OTHERS = ["xc xz gain dt", "gain dt xc xz", "dt gain xz xc"]
N = 3


def layer_of(order: str = ORDER, body: str = BODY, **options: Any) -> CellLayer:
    return compiled(order, body).layer(4, N, **options)


@functools.cache
def compiled(order: str, body: str) -> CompiledCell:
    inputs = ", ".join(f"{name}: {INPUTS.get(name, 'Input')}" for name in order.split())
    source = source_of(body, f"h: State, {inputs}, a: Param", name="gated")
    with TemporaryDirectory() as folder:
        return rnncc.compile(cell_from(Path(folder), source))


def rows(layer: CellLayer, ending: str = "") -> dict[str, Tensor]:
    """Of the projection, with its bias: by input."""
    linear = layer.get_submodule(f"projection{ending}")
    assert isinstance(linear, nn.Linear)
    whole = torch.cat([linear.weight, linear.bias.unsqueeze(1)], 1).detach()
    names = sorted((i for i in layer.kernel.spec.inputs if i.projected), key=lambda i: i.shared)
    pieces = whole.split([1 if i.shared else N for i in names])
    return dict(zip((i.name for i in names), pieces, strict=True))


def assert_same_rows(a: CellLayer, b: CellLayer, ending: str = "") -> None:
    ours, theirs = rows(a, ending), rows(b, ending)
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("order", OTHERS)
def test_weights_go_to_the_inputs_that_they_had(
    order: str, bidirectional: bool, assign: bool
) -> None:
    a = layer_of(bidirectional=bidirectional)
    b = layer_of(order, bidirectional=bidirectional)
    saved = a.state_dict()
    before = {name: value.clone() for name, value in saved.items()}
    assert str(b.load_state_dict(saved, assign=assign)) == "<All keys matched successfully>"
    for ending in ("", "_reverse") if bidirectional else ("",):
        assert_same_rows(a, b, ending)
    assert torch.equal(a.a, b.a)
    assert all(torch.equal(saved[name], value) for name, value in before.items())
    again = layer_of(bidirectional=bidirectional)
    again.load_state_dict(b.state_dict())
    assert_same_rows(a, again)


def test_it_goes_through_files_and_modules_around_the_layer() -> None:
    a = nn.Sequential(nn.Linear(4, 4), layer_of())
    b = nn.Sequential(nn.Linear(4, 4), layer_of(OTHERS[0]))
    file = io.BytesIO()
    torch.save(a.state_dict(), file)
    file.seek(0)
    b.load_state_dict(torch.load(file, weights_only=True))
    assert_same_rows(a[1], b[1])


@pytest.mark.parametrize("strict", [False, True])
def test_a_state_dict_without_an_order_is_loaded_by_place(strict: bool) -> None:
    a, b = layer_of(), layer_of(OTHERS[0])
    for saved in (dict(a.named_parameters()), on_meta(a.state_dict())):
        assert str(b.load_state_dict(saved, strict)) == "<All keys matched successfully>"
    saved = dict(a.named_parameters())
    b.load_state_dict(saved, strict)
    assert torch.equal(a.projection.weight, b.projection.weight)


def on_meta(saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.to("meta") if k == "_extra_state" else v for k, v in saved.items()}


def test_averages_and_casts_of_a_state_dict_still_have_the_order() -> None:
    a, b, c = layer_of(), layer_of(), layer_of(OTHERS[0])
    pairs = zip(a.state_dict().items(), b.state_dict().values(), strict=True)
    c.load_state_dict({name: ((u + v) / 2) for (name, u), v in pairs})
    for name, value in rows(c).items():
        torch.testing.assert_close(value, (rows(a)[name] + rows(b)[name]) / 2)
    c.load_state_dict({name: v.bfloat16() for name, v in a.state_dict().items()})
    assert_same_rows(a.bfloat16(), c.bfloat16())


@pytest.mark.parametrize("strict", [False, True])
def test_weights_of_other_inputs_are_refused(strict: bool) -> None:
    a = layer_of()
    b = layer_of("xn xz gain dt", BODY.replace("xc", "xn"))
    model = nn.Sequential(b)
    saved = {f"0.{name}": value for name, value in a.state_dict().items()}
    message = (
        "0.projection: got the weights of the inputs xz, xc, gain, expected those of 'gated': "
        "xn, xz, gain.\n"
        "Fix: if inputs were only renamed, load without the key '0._extra_state': rows then go "
        "by their place"
    )
    with pytest.raises(RuntimeError) as refusal:
        model.load_state_dict(saved, strict)
    assert message in str(refusal.value)
    saved.pop("0._extra_state")
    model.load_state_dict(saved, strict)
    assert torch.equal(a.projection.weight, b.projection.weight)


def test_the_only_input_may_be_renamed() -> None:
    a = layer_of("x", "return a * h + x")
    b = layer_of("u", "return a * h + u")
    b.load_state_dict(a.state_dict())
    assert torch.equal(a.projection.weight, b.projection.weight)


def test_another_size_is_refused_in_torchs_own_words() -> None:
    a, b = layer_of(), layer_of(OTHERS[0]).kernel
    with pytest.raises(RuntimeError, match=r"size mismatch for projection\.weight"):
        CellLayer(4, N + 1, kernel=b).load_state_dict(a.state_dict())


class Wrapped(nn.Module):
    """A projection with a part of rank one beside it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.low = nn.Linear(base.in_features, base.out_features, bias=False)


def test_a_module_in_the_projections_place_is_loaded_in_its_own_order_only() -> None:
    layers = [layer_of(), layer_of(), layer_of(OTHERS[0])]
    for layer in layers:
        layer.projection = Wrapped(layer.projection)  # type: ignore[assignment]
    a, same, other = layers
    same.load_state_dict(a.state_dict())
    assert torch.equal(same.get_parameter("projection.low.weight"), a.projection.low.weight)
    message = (
        "projection: got the weights of the inputs xz, xc, gain, expected the order xc, xz, gain, "
        "and only a Linear's rows can change theirs.\n"
        "Fix: load into a layer whose projection is a Linear, then replace it"
    )
    with pytest.raises(RuntimeError) as refusal:
        other.load_state_dict(a.state_dict())
    assert message in str(refusal.value)
    other.reset_parameters()  # leaves what it doesn't know
