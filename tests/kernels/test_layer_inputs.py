"""A layer's inputs: given by name, in which dtype; padding; what replaces a projection."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import rnncc
from rnncc import Input, Param, State, cell, sigmoid, tanh, uniform
from rnncc.compiler import CompiledCell
from rnncc.errors import ArgumentError
from rnncc.lang.dsl import Cell
from rnncc.nn.layer import CellLayer
from tests.support.tolerances import assert_close


@cell
def zoneout(
    h: State, x: Input, mask: Input(projected=False), g: Input, dt: Input(shared=True), a: Param
):
    return mask * h + (1 - mask) * tanh(a * h * dt + x * sigmoid(g))


@cell
def echo(h: State, x: Input, t: Input(shared=True, typical=uniform(0, 2000))):
    return {"h": tanh(0.5 * h + x), "seen": t - 1000, "t": t}


@cell
def echoes(h: State, x: Input, t: Input(projected=False)):
    return {"h": tanh(0.5 * h + x), "seen": t - 1000, "t": t}


@cell
def bare(h: State, x: Input):
    return tanh(0.5 * h + x)


@functools.cache
def compiled(written: Cell) -> CompiledCell:
    return rnncc.compile(written)


def layer_of(written: Cell, input_size: int = 3, hidden_size: int = 4, **options: Any) -> CellLayer:
    torch.manual_seed(0)
    return compiled(written).layer(input_size, hidden_size, **options)


# --- inputs that are given by name -----------------------------------------------------------


def given_to(layer: CellLayer, *leading: int) -> dict[str, Tensor]:
    return {"mask": torch.rand(*leading, layer.hidden_size), "dt": torch.rand(*leading)}


def test_an_input_of_each_channel_may_be_given_by_name() -> None:
    layer, x = layer_of(zoneout), torch.rand(2, 7, 3)
    assert layer.projection.out_features == 2 * 4
    given = {name: v.requires_grad_() for name, v in given_to(layer, 2, 7).items()}
    y, h = layer(x, **given)
    u, g = layer.projection(x).chunk(2, -1)
    expected, last = compiled(zoneout)(
        x=u, mask=given["mask"], g=g, dt=given["dt"], a=layer.a, return_state=True
    )
    assert torch.equal(y, expected)
    assert torch.equal(h, last)
    leaves, weights = [*given.values(), *layer.parameters()], torch.rand_like(y)
    ours, theirs = (torch.autograd.grad(v, leaves, weights) for v in (y, expected))
    for a, b in zip(ours, theirs, strict=True):
        assert a.any()
        assert_close(a, b, torch.float32, "gradient", gradient=True)


def test_it_goes_step_by_step_both_ways_and_broadcasts() -> None:
    layer, x = layer_of(zoneout), torch.rand(2, 7, 3)
    given = given_to(layer, 2, 7)
    y, _ = layer(x, **given)
    state, rows = None, []
    for t in range(7):
        row, state = layer.step(x[:, t], state, **{name: v[:, t] for name, v in given.items()})
        rows.append(row)
    assert_close(torch.stack(rows, 1), y, torch.float32, "steps")
    both = layer_of(zoneout, bidirectional=True)
    back = layer_of(zoneout, reverse=True)
    own = both.state_dict()
    back.load_state_dict({k.replace("_reverse", ""): v for k, v in own.items() if "_reverse" in k})
    assert torch.equal(both(x, **given)[0][..., 4:], back(x, **given)[0])
    one = {"mask": torch.rand(1, 4), "dt": torch.rand(7)}
    whole = {"mask": one["mask"].expand(2, 7, 4), "dt": one["dt"].expand(2, 7)}
    assert torch.equal(layer(x, **one)[0], layer(x, **whole)[0])


def test_it_is_padded_joined_and_packed_as_x_is() -> None:
    layer, x, lengths = layer_of(zoneout), torch.rand(2, 7, 3), [3, 7]
    given = given_to(layer, 2, 7)
    y, h = layer(x, lengths=lengths, **given)
    alone = [
        layer(x[b, :n], **{k: v[b, :n] for k, v in given.items()}) for b, n in ((0, 3), (1, 7))
    ]
    assert_close(torch.cat([y[0, :3], y[1]]), torch.cat([a[0] for a in alone]), torch.float32, "y")
    assert_close(h, torch.stack([a[1] for a in alone]), torch.float32, "h")

    def joined(v: Tensor) -> Tensor:
        return torch.cat([v[0, :3], v[1]])

    z, last = layer(joined(x), cu_seqlens=[0, 3, 10], **{k: joined(v) for k, v in given.items()})
    assert torch.equal(z, joined(y))
    assert torch.equal(last, h)
    packed = {k: pack_padded_sequence(v, lengths, True, False) for k, v in given.items()}
    rows, last = layer(pack_padded_sequence(x, lengths, True, False), **packed)
    assert torch.equal(pad_packed_sequence(rows, True)[0], y)
    assert torch.equal(last, h)


GIVEN_WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "missing": (
        {"dt": torch.rand(2, 7)},
        "mask: missing.\n"
        "Fix: beside x, the layer of 'zoneout' takes these inputs by name: mask, dt",
    ),
    "one value per step": (
        {"mask": torch.rand(2, 7), "dt": torch.rand(2, 7)},
        "mask: got float32 [2, 7] on cpu, expected [2, 7, 4].\nFix: one value per step and channel",
    ),
    "of another length": (
        {"mask": torch.rand(2, 6, 4), "dt": torch.rand(2, 7)},
        "mask: got float32 [2, 6, 4] on cpu, expected [2, 7, 4].\n"
        "Fix: one value per step and channel",
    ),
    "no tensor": (
        {"mask": 1.0, "dt": torch.rand(2, 7)},
        "mask: got float, expected a torch.Tensor.\nFix: torch.as_tensor(mask)",
    ),
}


@pytest.mark.parametrize(("given", "message"), GIVEN_WRONG.values(), ids=GIVEN_WRONG)
def test_a_given_input_that_does_not_fit_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError) as refusal:
        layer_of(zoneout)(torch.rand(2, 7, 3), **given)
    assert str(refusal.value) == message


@pytest.mark.filterwarnings("ignore")  # of torch's own making
def test_it_compiles_whole_with_lengths_and_under_autocast() -> None:
    torch._dynamo.reset()
    layer, x = layer_of(zoneout, bidirectional=True), torch.rand(2, 7, 3)
    given, lengths = given_to(layer, 2, 7), torch.tensor([3, 7])

    def run(x: Tensor, **given: Tensor) -> tuple[Tensor, Tensor]:
        y, _ = layer(x, lengths=lengths, **given)
        with torch.autocast("cpu", torch.bfloat16):
            z, _ = layer(x, **given)
        return y, z

    traced = torch.compile(run, fullgraph=True, backend="aot_eager")
    for got, expected in zip(traced(x, **given), run(x, **given), strict=True):
        assert torch.equal(got, expected)


TIMES = torch.tensor([1000.0, 1001.0, 1002.5, 1003.25])
HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("written", [echo, echoes])
@pytest.mark.parametrize("dtype", HALVES)
def test_autocast_does_not_round_a_given_input(
    dtype: torch.dtype, written: Cell, reverse: bool
) -> None:
    layer, x = layer_of(written, reverse=reverse), torch.rand(1, 4, 3)
    t = (TIMES if written is echo else TIMES.unsqueeze(1)).clone().requires_grad_()
    with torch.autocast("cpu", dtype):
        (seen, same), z, h = layer(x, t=t, return_states=True)
    assert {v.dtype for v in (seen, same, z)} == {dtype}
    assert h.dtype == torch.float32
    assert torch.equal(seen[0, :, 0].float(), TIMES - 1000)
    assert torch.equal(same, TIMES.to(dtype).view(1, 4, 1).expand(1, 4, 4))
    seen.sum().backward()
    assert t.grad is not None
    assert t.grad.dtype == torch.float32
    assert (t.grad == 4).all()


@pytest.mark.parametrize("dtype", HALVES)
def test_a_layer_in_half_precision_takes_a_given_input_in_float32(dtype: torch.dtype) -> None:
    layer, x = layer_of(echo).to(dtype), torch.rand(1, 4, 3).to(dtype)
    (seen, _), h = layer(x, t=TIMES)
    assert seen.dtype == dtype
    assert torch.equal(seen[0, :, 0].float(), TIMES - 1000)
    for state in (h, h.to(dtype)):
        assert torch.equal(layer(x, state, t=TIMES.double())[0][0], seen)
    rounded, _ = layer(x, t=TIMES.to(dtype))
    assert torch.equal(rounded[0][0, :, 0].float(), TIMES.to(dtype).float() - 1000)
    other = HALVES[dtype == HALVES[0]]
    assert torch.equal(layer(x, t=(TIMES - 990).to(other))[0][1][0, :, 0], (TIMES - 990).to(dtype))
    first, _ = layer.step(x[:, 1], t=TIMES[1])
    assert torch.equal(first[0], seen[:, 1])


# --- padding ---------------------------------------------------------------------------------

LENGTHS = [3, 7, 0]
PADDED = {"forward": {}, "reverse": {"reverse": True}, "bidirectional": {"bidirectional": True}}


def spoilt(v: Tensor, value: float = float("nan")) -> Tensor:
    v = v.detach().clone()
    for b, n in enumerate(LENGTHS):
        v[b, n:] = value
    return v.requires_grad_()


@pytest.mark.parametrize("solver", ["sequential", "segmented"])
@pytest.mark.parametrize("options", PADDED)
def test_what_lies_behind_the_end_of_a_sequence_reaches_nothing(options: str, solver: str) -> None:
    chosen = {**PADDED[options], "solver": solver}
    chosen |= {"segment": 2} if solver == "segmented" else {}
    first = layer_of(zoneout, **chosen)
    second = layer_of(zoneout, 4 * len(first._directions), **chosen)
    whole = {"x": torch.rand(3, 7, 3), **given_to(first, 3, 7)}
    weights = torch.rand(3, 7, 4 * len(first._directions))
    found = []
    for value in (0.0, float("nan"), float("inf")):
        leaves = {name: spoilt(v, value) for name, v in whole.items()}
        x, given = leaves.pop("x"), leaves
        y, h = first(x, lengths=LENGTHS, **given)
        z, last = second(y, lengths=torch.tensor(LENGTHS), **given)
        results = [y, z, h, last]
        loss = (z * weights.masked_fill(spoilt(weights).isnan(), value)).nansum() + last.sum()
        inner = [*first.parameters(), *second.parameters()]
        gradients = torch.autograd.grad(loss, [x, *given.values(), *inner])
        for gradient in gradients[:3]:
            assert all((gradient[b, n:] == 0).all() for b, n in enumerate(LENGTHS))
        found.append([*results, *gradients])
    for others in found[1:]:
        for expected, got in zip(found[0], others, strict=True):
            assert torch.equal(got, expected)


def test_a_gradient_behind_the_end_of_a_sequence_reaches_nothing() -> None:
    layer, x = layer_of(bare, reverse=True), torch.rand(3, 7, 3)
    y, z, _ = layer(x, lengths=LENGTHS, return_states=True)
    upstream = [spoilt(torch.ones_like(y)).detach(), spoilt(torch.ones_like(z)).detach()]
    for gradient in torch.autograd.grad([y, z], list(layer.parameters()), upstream):
        assert gradient.isfinite().all()
        assert gradient.any()


@pytest.mark.parametrize("target", ["cpp", "emulated"], indirect=True)
def test_the_recurrence_alone_reads_nothing_behind_an_end(target: str) -> None:
    run, leading = compiled(zoneout), (3, 7)
    a = torch.rand(4, requires_grad=True)
    inputs = {name: spoilt(torch.rand(*leading, 4)) for name in ("x", "mask", "g")}
    inputs["dt"] = spoilt(torch.rand(leading))
    y = run(**inputs, a=a, lengths=LENGTHS)
    y.square().sum().backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()
    for v in inputs.values():
        assert v.grad is not None
        assert v.grad.isfinite().all()
        assert all((v.grad[b, n:] == 0).all() for b, n in enumerate(LENGTHS))


# --- a projection that was replaced ----------------------------------------------------------


class LowRank(nn.Module):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.a = base, nn.Linear(base.in_features, 2, bias=False)
        self.b = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        whole: Tensor = self.base(x) + self.b(self.a(x))
        return whole


class Widened(nn.Module):
    """As the bytes of a quantized weight: its dtype is not that of x."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight", base.weight.detach().mul(64).round().to(torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.weight, Tensor)
        return x @ (self.weight.to(x.dtype) / 64).T


def quantized(layer: CellLayer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it moves to another package
        whole = torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {nn.Linear})
    layer.projection = whole[0].projection


def by_an_mlp(layer: CellLayer) -> None:
    linear = layer.projection
    layer.projection = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, linear.out_features))  # type: ignore[assignment]


def set_projection(make: Callable[[nn.Linear], nn.Module]) -> Callable[[CellLayer], None]:
    return lambda layer: setattr(layer, "projection", make(layer.projection))


REPLACED: dict[str, Callable[[CellLayer], Any]] = {
    "dynamic quantization": quantized,
    "a low-rank part": set_projection(LowRank),
    "an mlp": by_an_mlp,
    "bytes": set_projection(Widened),
    "weight norm": lambda layer: parametrizations.weight_norm(layer.projection),
}


@pytest.mark.parametrize("written", [zoneout, bare])
@pytest.mark.parametrize("how", REPLACED)
def test_the_projection_may_be_replaced(how: str, written: Cell) -> None:
    layer, x = layer_of(written), torch.rand(2, 7, 3)
    given = given_to(layer, 2, 7) if written is zoneout else {}
    REPLACED[how](layer)
    y, h = layer(x, **given)
    rows = layer.projection(x)
    if written is bare:
        assert torch.equal(y, compiled(bare)(rows))
    assert torch.equal(copy.deepcopy(layer)(x, **given)[0], y)
    layer.step(x[:, 0], h, **{name: v[:, 0] for name, v in given.items()})
    layer.reset_parameters()


def test_a_replaced_projection_of_another_width_is_refused() -> None:
    layer = layer_of(bare)
    layer.projection = nn.Linear(3, 5)
    with pytest.raises(ArgumentError) as refusal:
        layer(torch.rand(2, 7, 3))
    assert str(refusal.value) == (
        "projection(x): got float32 [2, 7, 5] on cpu, expected [2, 7, 4], the rows of all inputs "
        "that are projected.\nFix: a module from 3 features to 4 in its place"
    )


class Positive(nn.Module):
    def forward(self, v: Tensor) -> Tensor:
        return v.exp()


def test_a_param_may_be_parametrized() -> None:
    layer, x = layer_of(zoneout), torch.rand(2, 7, 3)
    given = given_to(layer, 2, 7)
    a = layer.a.detach().clone()
    parametrize.register_parametrization(layer, "a", Positive())
    y, _ = layer(x, **given)
    plain = layer_of(zoneout)
    with torch.no_grad():
        plain.a.copy_(a.exp())
    assert torch.equal(y, plain(x, **given)[0])
    y.sum().backward()
    with pytest.raises(ArgumentError, match="x: got float64"):
        layer(x.double(), **given)


def test_a_layer_without_a_parameter_of_its_own_cannot_warm_up() -> None:
    layer = layer_of(bare)
    quantized(layer)
    with pytest.raises(ArgumentError) as refusal:
        layer.warmup()
    assert str(refusal.value) == (
        "warmup: got a layer without parameters of its own, expected one that is on a device.\n"
        "Fix: one call, which builds what it needs"
    )
