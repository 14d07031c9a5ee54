"""Layers of cells with vectors, delays and learned starts of both, in every form."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import rnncc
from rnncc import Input, Param, State, cell, constant, softmax, tanh
from rnncc.compiler import CompiledCell
from rnncc.nn.layer import CellLayer
from tests.support.tolerances import assert_close

B, T, N = 2, 9, 3


@cell
def started(
    h: State(size=2, init=Param),
    d: State(delay=2, init=Param(init=constant(0.3))),
    e: Input(size=2),
    x: Input,
    w: Param(size=2),
):
    p = softmax(w * h)
    return {"h": tanh(p + e), "d": 0.5 * d.ago(2) + x * sum(h), "y": 2 * h, "s": d}


@cache
def compiled() -> CompiledCell:
    return rnncc.compile(started)


def loop(
    e: Tensor, x: Tensor, w: Tensor, h_init: Tensor, d_init: Tensor, reset: Tensor | None = None
) -> list[Tensor]:
    """Outputs y and s, and the last states h and d."""
    first = h_init.expand(e.shape[0], -1, -1), d_init.expand(e.shape[0], -1, -1)
    (h, d), ys, ss = first, [], []
    for t in range(e.shape[1]):
        if reset is not None:
            back = reset[:, t, None, None]
            h, d = torch.where(back, first[0], h), torch.where(back, first[1], d)
        ys.append(2 * h)
        ss.append(d[..., 0])
        new = 0.5 * d[..., 2] + x[:, t] * h.sum(-1)
        h = torch.tanh((w * h).softmax(-1) + e[:, t])
        d = torch.cat([new.unsqueeze(-1), d[..., :2]], -1)
    return [torch.stack(ys, 1), torch.stack(ss, 1), h, d]


def flat(results: Any) -> list[Tensor]:
    return [v for part in results for v in (part if isinstance(part, tuple) else (part,))]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("target", ["cpp", "emulated"], indirect=True)
def test_learned_starts_of_vectors_and_delays_are_those_of_a_plain_loop(
    target: str, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(B, T, N, 2), (B, T, N), (N, 2), (N, 2), (N, 3)]
    wide = [torch.randn(s, generator=generator, dtype=dtype).double() for s in shapes]
    wide = [v.requires_grad_() for v in wide]
    given = [v.detach().to(dtype).requires_grad_() for v in wide]
    reset = torch.zeros(B, T, dtype=torch.bool)
    reset[1, 4] = True
    for options in ({}, {"reset": reset}):
        found = flat(compiled()(*given, return_state=True, **options))
        expected = loop(*wide, **options)
        weights = [torch.randn(v.shape, generator=generator, dtype=torch.float64) for v in expected]
        theirs = torch.autograd.grad(expected, wide, weights)
        ours = torch.autograd.grad(found, given, [v.to(dtype) for v in weights])
        for a, b in zip(found, expected, strict=True):
            assert_close(a, b, dtype, "result")
        for a, b in zip(ours, theirs, strict=True):
            assert_close(a, b, dtype, "gradient", gradient=True)


# --- layers ----------------------------------------------------------------------------------


def layer_of(kind: str, **options: Any) -> CellLayer:
    torch.manual_seed(0)
    sizes = (4, N) if kind == "projected" else (N,)
    projection = "linear" if kind == "projected" else None
    return compiled().layer(*sizes, projection=projection, **options)


def given_to(kind: str, batch: int = B, steps: int = T) -> dict[str, Tensor]:
    torch.manual_seed(1)
    if kind == "projected":
        return {"x": torch.randn(batch, steps, 4)}
    return {"e": torch.randn(batch, steps, N, 2), "x": torch.randn(batch, steps, N)}


def assert_alike(found: Any, expected: Any, what: str, dtype: torch.dtype = torch.float32) -> None:
    for a, b in zip(flat(found), flat(expected), strict=True):
        assert_close(a, b.detach(), dtype, what)


def each(change: Callable[[Tensor], Tensor], values: Any) -> Any:
    return tuple(map(change, values))


each_kind = pytest.mark.parametrize("kind", ["projected", "as given"])


@each_kind
def test_it_begins_at_its_starts_in_every_form(kind: str) -> None:
    layer, given = layer_of(kind), given_to(kind)
    y, state = layer(**given)
    assert [tuple(v.shape) for v in flat((y, state))] == [
        (B, T, N, 2), (B, T, N), (B, N, 2), (B, N, 3),
    ]  # fmt: skip
    now, rows = None, []
    for t in range(T):
        row, now = layer.step(*(v[:, t] for v in given.values()), state=now)
        rows.append(row)
    assert_alike((each(lambda c: torch.stack(c, 1), zip(*rows, strict=True)), now), (y, state), "")
    packed = {n: pack_padded_sequence(v, [T, 5], batch_first=True) for n, v in given.items()}
    rows, last = layer(**packed)
    cut, ends = layer(**given, lengths=[T, 5])
    assert_alike(
        (each(lambda v: pad_packed_sequence(v, batch_first=True)[0], rows), last), (cut, ends), ""
    )
    short = layer(**{n: v[1:, :5] for n, v in given.items()})
    assert_alike((each(lambda v: v[1:, :5], cut), each(lambda v: v[1:], ends)), short, "")
    reset = torch.zeros(B, T, dtype=torch.bool)
    reset[:, 4] = True
    again = layer(**given, reset=reset)[0]
    fresh = layer(**{n: v[:, 4:] for n, v in given.items()})[0]
    assert_alike((each(lambda v: v[:, 4:], again),), (fresh,), "reset")


@each_kind
def test_it_runs_backwards_both_ways_and_time_first(kind: str) -> None:
    layer, given = layer_of(kind), given_to(kind)
    back, first = layer_of(kind, reverse=True), layer_of(kind, batch_first=False)
    y, state = back(**given)
    turned, ends = layer(**{n: v.flip(1) for n, v in given.items()})
    assert_alike((y, state), (each(lambda v: v.flip(1), turned), ends), "reverse")
    rows, last = first(**{n: v.transpose(0, 1) for n, v in given.items()})
    assert_alike((each(lambda v: v.transpose(0, 1), rows), last), layer(**given), "time first")
    both = layer_of(kind, bidirectional=True)
    names = ("w", "h_init", "d_init", *(["projection.weight"] if kind == "projected" else []))
    for own in (layer, back):
        ending = "_reverse" if own is back else ""
        with torch.no_grad():
            for name in names:
                there = name.replace(".", f"{ending}.") if "." in name else f"{name}{ending}"
                own.get_parameter(name).copy_(both.get_parameter(there))
            if kind == "projected":
                bias = both.get_parameter(f"projection{ending}.bias")
                own.get_parameter("projection.bias").copy_(bias)
    rows, last = both(**given)
    for k, own in enumerate((layer, back)):
        y, state = own(**given)
        assert_alike((each(lambda v, k=k: v[:, :, k * N : (k + 1) * N], rows),), (y,), "both")
        assert_alike((each(lambda v, k=k: v[k], last),), (state,), "both")


@each_kind
def test_it_is_copied_saved_and_cast(kind: str) -> None:
    layer, given = layer_of(kind), given_to(kind)
    expected, file = layer(**given), io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    loaded = compiled().layer(*((4, N) if kind == "projected" else (N,)), projection=(
        "linear" if kind == "projected" else None
    ))  # fmt: skip
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for other in (loaded, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        for a, b in zip(flat(other(**given)), flat(expected), strict=True):
            assert torch.equal(a, b)
    wide = copy.deepcopy(layer).double()
    assert_alike(wide(**{n: v.double() for n, v in given.items()}), expected, "double")
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(**given)
    assert_alike(found, expected, "autocast", torch.bfloat16)
    sum(v.float().sum() for v in flat(found)).backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_it_runs_in_half_precision(dtype: torch.dtype) -> None:
    layer = layer_of("as given").to(dtype)
    given = {n: v.to(dtype) for n, v in given_to("as given").items()}
    found = layer(**given)
    expected = layer.float()(**{n: v.float() for n, v in given.items()})
    assert [v.dtype for v in flat(found)] == [dtype, dtype, torch.float32, torch.float32]
    for a, b in zip(flat(found), flat(expected), strict=True):
        assert_close(a, b.detach(), dtype, "half precision")


@pytest.mark.filterwarnings("ignore")  # of torch's own making
@each_kind
def test_it_compiles_whole(kind: str, fresh_dynamo: None) -> None:
    layer, given = layer_of(kind), given_to(kind)
    traced = torch.compile(layer, fullgraph=True, backend="aot_eager")
    found, expected = flat(traced(**given)), flat(layer(**given))
    assert_alike((tuple(found),), (tuple(expected),), "torch.compile")
    leaves = list(layer.parameters())
    ours, theirs = (torch.autograd.grad(sum(v.sum() for v in r), leaves) for r in (found, expected))
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, torch.float32, "gradient", gradient=True)
    state = layer(**given)[1]
    assert_alike(traced(**given, state=state), layer(**given, state=state), "with a state")


def exported(
    layer: CellLayer, args: Sequence[Tensor], named: dict[str, Any], shapes: Any
) -> torch.nn.Module:
    return torch.export.export(layer, tuple(args), named, dynamic_shapes=shapes).module()


@pytest.mark.filterwarnings("ignore")  # of torch's own making
def test_it_is_exported_with_any_batch_and_length(fresh_dynamo: None) -> None:
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("steps")}
    layer, given, more = layer_of("projected"), given_to("projected"), given_to("projected", 4, 20)
    by_place, by_name = (
        exported(layer, [given["x"]], {}, {"x": dims}),
        exported(layer, [], given, {"x": dims}),
    )
    assert_alike(by_place(more["x"]), layer(**more), "by place")
    assert_alike(by_name(**more), layer(**more), "by name")
    layer, given, more = layer_of("as given"), given_to("as given"), given_to("as given", 4, 20)
    program = exported(layer, list(given.values()), {}, (dims, (dims,)))
    assert_alike(program(*more.values()), layer(**more), "inputs by place")
