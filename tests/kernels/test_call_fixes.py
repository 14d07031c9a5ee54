"""The fix that the message of a call gives works: it is read from the message, and applied."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import rnncc
from rnncc import Input, Param, State, cell, sigmoid
from rnncc.errors import ArgumentError, CellError
from tests.support.runs import compiled

B, T, N = 2, 7, 4


@cell
def plain(h: State, x: Input, a: Param):
    z = sigmoid(a * h + x)
    return (1 - z) * h + z * x


def named(**values: Any) -> dict[str, Any]:
    """What the fixes of a call speak of."""
    c = rnncc.compile(plain)
    return {
        "layer": c.layer(3, N),
        "both": c.layer(3, N, bidirectional=True),
        "first": c.layer(3, N, batch_first=False),
        "lstm": compiled("lstm").layer(3, N),
        "c": c,
        "x": torch.randn(B, T, 3),
        "wide": torch.randn(B, T, 5),
        "turned": torch.randn(B, 3, T),
        "u": torch.randn(B, T, N),
        "a": torch.rand(N),
        "mask": torch.arange(T) < torch.tensor([[5], [T]]),
        "state": torch.zeros(1, B, N),
        "torch": torch,
        **values,
    }


# the call, what its message's fix begins with, and the call with the fix applied
FIXED: dict[str, tuple[str, str, str]] = {
    "a mask as lengths": ("layer(x, lengths=mask)", "lengths=mask.sum(-1)", "layer(x, FIX)"),
    "a mask of the other sense": (
        "layer(x, lengths=~mask)",
        "lengths=mask.sum(-1)",
        "layer(x, lengths=(~mask).logical_not().sum(-1))",
    ),
    "a mask with time first": (
        "first(x.transpose(0, 1), lengths=mask.T)",
        "lengths=mask.sum(0)",
        "first(x.transpose(0, 1), lengths=mask.T.sum(0))",
    ),
    "a mask of integers": ("layer(x, lengths=mask.int())", "lengths=mask.sum(-1)", "layer(x, FIX)"),
    "a mask for a function": (
        "c(u, a, lengths=mask)",
        "lengths=mask.sum(-1)",
        "c(u, a, FIX)",
    ),
    "the state of torch's GRU": ("layer(x, state)", "state[0]", "layer(x, FIX)"),
    "the state of torch's GRU for a function": (
        "c(u, a, h0=state)",
        "h0[0]",
        "c(u, a, h0=state[0])",
    ),
    "the states of torch's LSTM": (
        "lstm(x, (state, state))",
        "state=tuple(s[0] for s in state)",
        "lstm(x, state=tuple(s[0] for s in (state, state)))",
    ),
    "x of other features": (
        "layer(wide)",
        "input_size=5 where the layer is made",
        "c.layer(input_size=5, hidden_size=4)(wide)",
    ),
    "features before time": (
        "layer(turned)",
        "x.transpose(1, -1), which has the features last",
        "layer(turned.transpose(1, -1))",
    ),
    "lengths, misspelt": ("layer(x, length=[7, 5])", "lengths=...", "layer(x, lengths=[7, 5])"),
    "the state called h0": ("layer(x, h0=state[0])", "state=...", "layer(x, state=state[0])"),
    "the state called hx": ("layer(x, hx=state[0])", "state=...", "layer(x, state=state[0])"),
    "an option of a function, misspelt": (
        "c(u, a, return_stat=True)",
        "return_state=...",
        "c(u, a, return_state=True)",
    ),
    "an option of a layer, misspelt": (
        "c.layer(3, 4, num_layer=2)",
        "num_layers=...",
        "c.layer(3, 4, num_layers=2)",
    ),
    "no x": ("layer()", "layer(x)", "FIX"),
    "a size too few": ("c.layer(4)", "layer(4, 4)", "c.layer(4, 4)"),
    "a size too many": (
        "c.layer(3, 4, projection=None)",
        "layer(4, projection=None)",
        "c.FIX",
    ),
}


@pytest.mark.parametrize(("call", "fix", "mended"), FIXED.values(), ids=FIXED)
def test_the_fix_of_a_message_works(call: str, fix: str, mended: str) -> None:
    names = named()
    with pytest.raises(ArgumentError) as refusal:
        eval(call, names)
    found = str(refusal.value).split("Fix: ")[1]
    assert found.startswith(fix)
    eval(mended.replace("FIX", fix), names)


def test_a_mask_means_what_its_lengths_do() -> None:
    names = named()
    layer, x, mask = names["layer"], names["x"], names["mask"]
    y: Tensor = layer(x, lengths=mask.sum(-1))[0]
    assert torch.equal(y, layer(x, lengths=[5, T])[0])
    assert not y[~mask].any()


def test_the_state_of_a_gru_with_directions_is_taken_as_it_is() -> None:
    names = named()
    x, state = names["x"], torch.zeros(2, B, N)
    names["both"](x, state)
    names["c"].layer(3, N, num_layers=2)(x, state)


def test_sizes_may_be_numbers_of_numpy() -> None:
    layer = rnncc.compile(plain).layer(np.int64(3), np.int32(N))
    assert (layer.input_size, layer.hidden_size) == (3, N)
    assert type(layer.hidden_size) is int
    with pytest.raises(ArgumentError, match=r"hidden_size: got True, expected a positive int"):
        rnncc.compile(plain).layer(3, True)


def test_a_constant_that_there_is_not_is_spoken_of_as_in_python() -> None:
    with pytest.raises(CellError, match=r"Fix: leave it out, or write .* in the cell: slope=3.0"):
        rnncc.compile(plain, slope=3.0)

    @cell
    def sloped(h: State, x: Input, a: Param, slope=3.0):
        return sigmoid(slope * (a * h + x))

    rnncc.compile(sloped, slope=2.0)
    with pytest.raises(CellError, match=r"Fix: .*layer\(64, 64, solver='newton'\)"):
        rnncc.compile(plain, solver="newton")  # type: ignore[arg-type]
    rnncc.compile(plain).layer(64, 64, solver="newton")
