"""Decoders and short steps: what the layer gives over the whole sequence, in kept memory."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rnncc
from rnncc import Input, Param, State, cell, constant, tanh
from rnncc.errors import ArgumentError
from rnncc.ir.choices import Choices
from rnncc.nn import steps
from rnncc.nn.decoder import Decoder
from rnncc.nn.layer import CellLayer
from rnncc.runtime.cuda import graph
from tests.support.emulated import emulated
from tests.support.runs import CELLS, compiled, fitting, listed
from tests.support.tolerances import assert_close

T, FEATURES = 6, 3
DAILY = ["para_gru", "lstm", "clocked", "block_elman", "block_linear"]
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in CELLS if name not in DAILY]
each_cell = pytest.mark.parametrize("name", [*DAILY, *OTHERS])
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
no_grad = torch.no_grad()


def layer_of(name: str, dtype: torch.dtype = torch.float32, **options: Any) -> CellLayer:
    torch.manual_seed(0)
    size = fitting(name, 8)
    sizes = (size,) if options.get("projection", "") is None else (FEATURES, size)
    return compiled(name).layer(*sizes, dtype=dtype, **options)


def given_of(layer: CellLayer, B: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """All that a call of the layer takes, [B, T, ...]."""
    generator, found = torch.Generator().manual_seed(1), {}
    for name, rank in layer._takes.ranks.items():
        last = FEATURES if name == "x" and layer.input_size else layer.hidden_size
        shape = (B, T) if rank == 1 else (B, T, last)
        found[name] = torch.rand(shape, generator=generator).to(dtype)
    return found


def at(given: dict[str, Tensor], t: int) -> dict[str, Tensor]:
    return {name: value[:, t].clone() for name, value in given.items()}


def same(one: Any, other: Any) -> bool:
    pairs = list(zip(listed(one), listed(other), strict=True))
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


# --- the same results ------------------------------------------------------------------------


def check_steps(layer: CellLayer, given: dict[str, Tensor], dtype: torch.dtype) -> None:
    """A decoder, short steps and steps as sequences give the same bits, and what the layer does."""
    B = next(iter(given.values())).shape[0]
    decoder, state, plain = layer.decoder(B), None, None
    whole, last = layer(**given)
    for t in range(T):
        now = at(given, t)
        y, plain = steps._as_sequence(layer, (), plain, now)
        alone = [now["x"]] if layer._takes.alone else []
        z, state = layer.step(*alone, state=state, **({} if alone else now))
        assert same((*listed(y), *listed(plain)), (*listed(z), *listed(state))), t
        z = decoder(**now)
        assert same((*listed(y), *listed(plain)), (*listed(z), *listed(decoder.state))), t
        for row, expected in zip(listed(y), listed(whole), strict=True):
            assert_close(row, expected[:, t], dtype, "output")
    for row, expected in zip(listed(state), listed(last), strict=True):
        assert_close(row, expected, dtype, "state")


@no_grad
@pytest.mark.parametrize("dtype", DTYPES)
@each_cell
def test_each_step_is_that_of_the_layer(name: str, dtype: torch.dtype) -> None:
    layer = layer_of(name, dtype)
    check_steps(layer, given_of(layer, 2, dtype), dtype)


@no_grad
@pytest.mark.parametrize("options", [{"num_layers": 3}, {"projection": None}, {"bias": False}])
@pytest.mark.parametrize("name", ["para_gru", "lstm", "clocked"])
def test_so_it_is_of_stacked_layers_and_of_those_without_a_projection(
    name: str, options: dict[str, Any]
) -> None:
    layer = layer_of(name, **options)
    check_steps(layer, given_of(layer, 2), torch.float32)


@cell
def held(
    h: State(size=2, init=Param),
    d: State(delay=2, init=Param(init=constant(0.3))),
    e: Input(size=2),
    w: Param(size=2),
):
    return {"h": tanh(w * h + e), "d": 0.5 * d.ago(2) + sum(h), "y": 2 * h, "s": d}


@no_grad
def test_so_it_is_of_vectors_delays_and_learned_starts() -> None:
    layer = rnncc.compile(held).layer(4, projection=None)
    e, state = torch.rand(T, 3, 4, 2), None
    decoder = layer.decoder(3)
    for row in e:
        y, state = layer.step(row, state=state)
        assert same(y, decoder(row))
        assert same(state, decoder.state)
    decoder.reset([2])
    rows = [
        torch.cat([old[:2], new[2:]])
        for old, new in zip(layer.step(e[0], state=state)[0], layer.step(e[0])[0], strict=True)
    ]
    assert same(tuple(rows), decoder(e[0]))


@no_grad
def test_inputs_in_float32_beside_half_precision_are_not_rounded() -> None:
    layer = layer_of("clocked", torch.bfloat16)
    given = given_of(layer, 2, torch.bfloat16)
    given["dt"] = torch.rand(2, T)
    check_steps(layer, given, torch.bfloat16)


@no_grad
def test_the_bits_are_those_of_one_thread() -> None:
    layer, found, threads = layer_of("para_gru"), [], torch.get_num_threads()
    x = torch.rand(5, 300, FEATURES)
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            decoder = layer.decoder(300)
            found.append([decoder(row).clone() for row in x])
    finally:
        torch.set_num_threads(threads)
    assert all(map(torch.equal, *found))


@no_grad
@pytest.mark.parametrize("solver", ["segmented", "newton"])
def test_a_step_is_one_pass_whatever_the_solver(solver: str) -> None:
    layer = layer_of("para_gru", solver=solver)
    plain = layer_of("para_gru")
    x = torch.rand(2, FEATURES)
    assert torch.equal(layer.decoder(2)(x), plain.decoder(2)(x))
    assert_close(layer.step(x)[0], plain.step(x)[0], torch.float32, "y")


@no_grad
def test_autocast_has_no_effect_and_a_compiled_function_breaks_its_graph() -> None:
    decoder, x = layer_of("para_gru").decoder(2), torch.rand(2, FEATURES)
    expected = decoder(x).clone()
    decoder.reset()
    with torch.autocast("cpu", torch.bfloat16):
        assert same(decoder(x), expected)
    decoder.reset()
    assert torch.equal(torch.compile(lambda v: 2 * decoder(v), backend="eager")(x), 2 * expected)


@no_grad
def test_autocast_has_no_effect_on_a_module_in_the_projections_place() -> None:
    layer, x = layer_of("para_gru"), torch.rand(2, FEATURES)
    by_a_module(layer)
    decoder = layer.decoder(2)
    expected = decoder(x).clone()
    decoder.reset()
    with torch.autocast("cpu", torch.bfloat16):
        assert same(decoder(x), expected)


# --- its states ------------------------------------------------------------------------------


@no_grad
@pytest.mark.parametrize("name", ["para_gru", "lstm"])
def test_states_go_in_and_out_and_begin_anew_by_rows(name: str) -> None:
    layer = layer_of(name, num_layers=2)
    x = torch.rand(4, 3, FEATURES)
    decoder = layer.decoder(3)
    first = copy.deepcopy(decoder(x[0]))
    held = decoder.state
    later = copy.deepcopy(decoder(x[1]))
    decoder.state = held
    assert same(decoder(x[1]), later)
    decoder.reset([1])
    mixed = decoder(x[0]).clone()
    assert torch.equal(mixed[1], first[1])
    assert not torch.equal(mixed[0], first[0])
    decoder.reset(torch.tensor([0, 2], dtype=torch.uint8))
    decoder.reset([])
    decoder.reset(torch.tensor([True, False, True]))
    decoder.reset(1)
    assert same(decoder(x[0]), first)
    decoder(x[1])
    decoder.reset()
    assert same(decoder(x[0]), first)


@no_grad
def test_a_sequence_is_read_by_the_layer_and_gone_on_with() -> None:
    layer = layer_of("para_lstm")
    x = torch.rand(2, T, FEATURES)
    whole, _ = layer(x)
    _, held = layer(x[:, :-1])
    decoder = layer.decoder(2)
    decoder.state = held
    assert_close(decoder(x[:, -1]), whole[:, -1], torch.float32, "y")


@no_grad
def test_an_output_may_be_the_next_input() -> None:
    layer = compiled("para_gru").layer(8, 8)
    decoder, y, state = layer.decoder(2), torch.rand(2, 8), None
    z = y
    for _ in range(T):
        z, (y, state) = decoder(z), layer.step(y, state)
    assert torch.equal(y, z)


def test_nothing_is_recorded_and_the_memory_is_kept() -> None:
    layer, x = layer_of("para_gru"), torch.rand(2, FEATURES, requires_grad=True)
    decoder = layer.decoder(2)
    one, other = decoder(x), decoder(x)
    assert one is other
    assert not one.requires_grad
    with torch.inference_mode():
        decoder(x)
        inner = layer.decoder(2)
    assert inner(x) is inner(x)


def test_a_copy_has_memory_of_its_own() -> None:
    decoder = layer_of("para_gru").decoder(2)
    x = torch.rand(2, FEATURES)
    decoder(x)
    for other in (copy.deepcopy(decoder), copy.copy(decoder), pickle.loads(pickle.dumps(decoder))):
        before = decoder.state
        expected = other(x).clone()
        assert torch.equal(decoder.state, before)
        decoder.state = before
        assert torch.equal(decoder(x), expected)
        decoder.state = before


# --- changes of the layer --------------------------------------------------------------------


def in_place(layer: CellLayer) -> None:
    for p in layer.parameters():
        p.mul_(1.5)


def by_data(layer: CellLayer) -> None:
    for p in layer.parameters():
        p.data = p.data * 1.5


def by_data_in_place(layer: CellLayer) -> None:
    for p in layer.parameters():
        p.data.mul_(1.5)


def by_state_dict(layer: CellLayer) -> None:
    own = layer.state_dict()
    layer.load_state_dict({k: v * 1.5 if v.is_floating_point() else v for k, v in own.items()})


def by_assignment(layer: CellLayer) -> None:
    own = layer.state_dict()
    own = {k: v * 1.5 if v.is_floating_point() else v for k, v in own.items()}
    layer.load_state_dict(own, assign=True)


def by_another_projection(layer: CellLayer) -> None:
    layer.projection = nn.Linear(FEATURES, layer.projection.out_features, dtype=layer.az.dtype)


def by_a_module(layer: CellLayer) -> None:
    layer.projection = nn.Sequential(layer.projection, nn.Tanh())


def by_a_hook(layer: CellLayer) -> None:
    layer.projection.register_forward_hook(lambda module, args, y: 2 * y)


def by_parametrization(layer: CellLayer) -> None:
    nn.utils.parametrize.register_parametrization(layer, "az", nn.Tanh())
    nn.utils.parametrize.register_parametrization(layer.projection, "weight", nn.Tanh())


CHANGES = [
    in_place, by_data, by_data_in_place, by_state_dict, by_assignment, by_another_projection,
    by_a_module, by_a_hook, by_parametrization,
]  # fmt: skip


@no_grad
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_the_layer_are_followed(
    change: Callable[[CellLayer], None], dtype: torch.dtype
) -> None:
    layer = layer_of("para_gru", dtype)
    x = torch.rand(2, FEATURES).to(dtype)
    decoder = layer.decoder(2)
    _, state = layer.step(x)
    layer.step(x, state)
    before = decoder(x).clone()
    change(layer)
    for _ in range(2):
        expected, after = steps._as_sequence(layer, (x,), state, {})
        assert same(layer.step(x, state), (expected, after))
        assert torch.equal(decoder(x), expected)
        assert not torch.equal(expected, before)
        in_place(layer)  # once more, now that it is another
        state = after


@no_grad
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_so_is_another_view_of_the_same_memory(dtype: torch.dtype) -> None:
    layer = layer_of("block_elman", dtype)
    x, turned = torch.rand(2, FEATURES).to(dtype), [p for p in layer.parameters() if p.dim() == 3]
    decoder = layer.decoder(2)
    assert turned
    y, state = layer.step(x)
    for _ in range(3):
        assert torch.equal(decoder(x), y)
        for p in turned:
            p.data = p.data.transpose(1, 2)
        y, state = layer.step(x, state)
        assert same((y, state), steps._as_sequence(layer, (x,), decoder.state, {}))


@no_grad
def test_another_dtype_is_followed_with_the_states() -> None:
    layer = layer_of("para_gru")
    x = torch.rand(2, FEATURES)
    decoder = layer.decoder(2)
    decoder(x)
    state = decoder.state
    layer.double()
    y, _ = layer.step(x.double(), state.double())
    assert torch.equal(decoder(x.double()), y)


# --- short steps -----------------------------------------------------------------------------


@no_grad
def test_a_step_takes_the_short_way_from_the_second_on(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = layer_of("para_gru"), torch.rand(2, FEATURES)
    _, state = layer.step(x)
    solve = repr(layer.last_solve)
    monkeypatch.setattr(steps, "_as_sequence", None)
    layer.step(x, state)
    layer.step(x, state=state)
    assert repr(layer.last_solve) == solve
    assert layer.step(x, state)[1].data_ptr() != layer.step(x, state)[1].data_ptr()


OTHERWISE: dict[str, Callable[[CellLayer, Tensor, Tensor], Any]] = {
    "gradients": lambda layer, x, h: torch.enable_grad()(layer.step)(x, h),
    "autocast": lambda layer, x, h: torch.autocast("cpu", torch.bfloat16)(layer.step)(x, h),
    "a hook": lambda layer, x, h: (
        layer.register_forward_hook(lambda m, a, y: (2 * y[0], y[1])),
        layer.step(x, h),
    )[1],
    "vmap": lambda layer, x, h: torch.func.vmap(
        lambda a, b: [v[0] for v in layer.step(a[None], b[None])]
    )(x, h),
    "a state not in one piece": lambda layer, x, h: layer.step(x, h.t().contiguous().t()),
    "choices": lambda layer, x, h: (
        setattr(layer, "choices", Choices(solver="segmented", segment=1)),
        layer.step(x, h),
    )[1],
}


@no_grad
@pytest.mark.parametrize("kind", OTHERWISE)
def test_other_calls_go_as_they_did(kind: str) -> None:
    layer, x = layer_of("para_gru"), torch.rand(2, FEATURES)
    _, state = layer.step(x)
    layer.step(x, state)
    found = OTHERWISE[kind](layer, x, state)
    layer._known.clear()
    for hook in list(layer._forward_hooks):
        del layer._forward_hooks[hook]
    expected = OTHERWISE[kind](layer, x, state)
    assert same(tuple(found), tuple(expected))


def test_pickles_and_copies_hold_nothing_of_the_short_way() -> None:
    layer, x = layer_of("para_gru"), torch.rand(2, FEATURES)
    with torch.no_grad():
        _, state = layer.step(x)
        assert layer._known
        other = copy.deepcopy(layer)
        assert not other._known
        assert same(other.step(x, state), layer.step(x, state))


# --- on a GPU --------------------------------------------------------------------------------


class Graph:
    """A CUDA graph on the host: what is captured doesn't run, and a replay runs it."""

    made: list[Graph]
    run: Callable[[], None]

    def __init__(self, run: Callable[[], None]) -> None:
        self.run, self.replays = run, 0

    def replay(self) -> None:
        self.replays += 1
        self.run()


@no_grad
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["para_gru", "lstm"])
def test_a_step_on_a_gpu_is_one_replay(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x = layer_of(name, dtype, num_layers=2), torch.rand(T, 2, FEATURES).to(dtype)
    graphs: list[Graph] = []

    def record(backend: Any, run: Callable[[], None], device: torch.device) -> Any:
        run()  # ahead of the capture
        graphs.append(Graph(run))
        return graphs[-1].replay

    with emulated() as launches:
        monkeypatch.setattr("tests.support.emulated.Emulation.record", record)
        decoder, plain, state = layer.decoder(2), layer.decoder(2, graph=False), None
        for row in x:
            y, state = layer.step(row, state)
            assert same(y, decoder(row))
            assert same(state, decoder.state)
            assert same(y, plain(row))
        assert [graph.replays for graph in graphs] == [T // 2, T // 2]
        launches.clear()
        decoder(x[0])
        assert launches == [f"{name}_forward"] * 2
        in_place(layer)
        y, _ = layer.step(x[1], decoder.state)
        assert same(decoder(x[1]), y)
        assert len(graphs) == 2
        by_data(layer)
        y, _ = layer.step(x[1], decoder.state)
        assert same(decoder(x[1]), y)
        assert len(graphs) == 4


def test_a_graph_is_captured_on_a_stream_of_its_own_after_a_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []

    class Noting:
        """Any object of torch.cuda: notes what is done with it."""

        def __init__(self, name: str, *of: Any) -> None:
            self.name = name
            seen.append(f"{name}({', '.join(str(getattr(o, 'name', o)) for o in of)})")

        def __enter__(self) -> None:
            seen.append(f"within {self.name}")

        def __exit__(self, *error: Any) -> None:
            seen.append(f"end of {self.name}")

        def wait_stream(self, other: Any) -> None:
            seen.append(f"{self.name} waits for {other.name}")

        def replay(self) -> None:
            seen.append("replay")

    for attribute, name in {
        "device": "device", "Stream": "side", "stream": "stream", "current_stream": "current",
        "CUDAGraph": "CUDAGraph", "graph": "capture",
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, attribute, partial(Noting, name))
    graph.record(lambda: seen.append("run"), torch.device("cuda"))()
    runs = [k for k, what in enumerate(seen) if what == "run"]
    assert len(runs) == 2
    assert "side waits for current" in seen[: runs[0]]
    assert seen[runs[0] - 1] == "within stream"
    assert "current waits for side" in seen[runs[0] :]
    assert seen[runs[1] - 1] == "within capture"
    assert seen[-1] == "replay"


# --- what is refused -------------------------------------------------------------------------

STATE = torch.zeros(1, 8)
REFUSED: list[tuple[str, Callable[[], Any], Callable[[], Any]]] = [
    (
        "batch: got 0, expected an int of at least 1.\nFix: layer.decoder(1)",
        lambda: layer_of("para_gru").decoder(0),
        lambda: layer_of("para_gru").decoder(1),
    ),
    (
        "decoder: got a layer with bidirectional=True, which begins at the last step of a "
        "sequence, expected one that runs forward.\nFix: layer(x) on the whole sequence",
        lambda: layer_of("para_gru", bidirectional=True).decoder(),
        lambda: layer_of("para_gru", bidirectional=True)(torch.rand(2, T, FEATURES)),
    ),
    (
        "decoder: got a layer with reverse=True, which begins at the last step of a sequence, "
        "expected one that runs forward.\nFix: layer(x) on the whole sequence",
        lambda: layer_of("para_gru", reverse=True).decoder(),
        lambda: layer_of("para_gru", reverse=True)(torch.rand(2, T, FEATURES)),
    ),
    (
        "x: got float32 [2, 3] on cpu, expected [1, input_size] with input_size=3.\n"
        "Fix: layer.decoder(2)",
        lambda: layer_of("para_gru").decoder()(torch.rand(2, 3)),
        lambda: layer_of("para_gru").decoder(2)(torch.rand(2, 3)),
    ),
    (
        "x: got float32 [3] on cpu, expected [1, input_size] with input_size=3.\n"
        "Fix: x.unsqueeze(0)",
        lambda: layer_of("para_gru").decoder()(torch.rand(3)),
        lambda: layer_of("para_gru").decoder()(torch.rand(3).unsqueeze(0)),
    ),
    (
        "x: got float64 [1, 3] on cpu, expected float32, as the layer's parameters.\n"
        "Fix: x.to(torch.float32) or layer.to(torch.float64)",
        lambda: layer_of("para_gru").decoder()(torch.rand(1, 3).double()),
        lambda: layer_of("para_gru").decoder()(torch.rand(1, 3).double().to(torch.float32)),
    ),
    (
        "state: got float32 [1, 8] on cpu, expected none: the decoder holds it.\n"
        "Fix: decoder.state = state",
        lambda: layer_of("para_gru").decoder()(torch.rand(1, 3), torch.rand(1, 8)),
        lambda: setattr(layer_of("para_gru").decoder(), "state", torch.rand(1, 8)),
    ),
    (
        "state: got one by its place, after x, and one by its name, expected one of them.\n"
        "Fix: leave out state=, or what stands after x",
        lambda: layer_of("para_gru").step(torch.rand(1, 3), STATE, state=STATE),
        lambda: layer_of("para_gru").step(torch.rand(1, 3), STATE),
    ),
    (
        "dt: got float32 [2] on cpu, expected [1].\nFix: dt of [1]",
        lambda: layer_of("clocked").decoder()(torch.rand(1, 3), dt=torch.rand(2)),
        lambda: layer_of("clocked").decoder()(torch.rand(1, 3), dt=torch.rand(1)),
    ),
    (
        "state: got float32 [2, 8] on cpu, expected [1, 8].\n"
        "Fix: one state per sequence; batch_first= says which dimension of x is that of sequences",
        lambda: setattr(layer_of("para_gru").decoder(), "state", torch.rand(2, 8)),
        lambda: setattr(layer_of("para_gru").decoder(), "state", torch.rand(1, 8)),
    ),
    (
        "rows: got [3], expected sequences of the batch, 0 to 1, or bools [2].\n"
        "Fix: decoder.reset([0])",
        lambda: layer_of("para_gru").decoder(2).reset([3]),
        lambda: layer_of("para_gru").decoder(2).reset([0]),
    ),
    (
        "rows: got 'all', expected sequences of the batch, 0 to 1, or bools [2].\n"
        "Fix: decoder.reset([0])",
        lambda: layer_of("para_gru").decoder(2).reset("all"),
        lambda: layer_of("para_gru").decoder(2).reset(),
    ),
    (
        "projection(x): got float32 [1, 1, 16] on cpu, expected float32 [1, 1, 24], the rows of "
        "all inputs that are projected.\nFix: a module from 3 features to 24 in its place; another "
        "dtype than that of the layer's params is taken by layer.step",
        lambda: narrowed(16)(torch.rand(1, 3)),
        lambda: narrowed(24)(torch.rand(1, 3)),
    ),
    (
        "projection(x): got float32 [1, 1, 24] on cpu, expected bfloat16 [1, 1, 24], the rows of "
        "all inputs that are projected.\nFix: a module from 3 features to 24 in its place; another "
        "dtype than that of the layer's params is taken by layer.step",
        lambda: widened().decoder()(torch.rand(1, 3).bfloat16()),
        lambda: widened().step(torch.rand(1, 3).bfloat16()),
    ),
]


class Wide(nn.Linear):
    """Its rows are in float32."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).float()


def narrowed(width: int) -> Decoder:
    """A decoder whose layer gets another projection once it runs."""
    layer = layer_of("para_gru")
    decoder = layer.decoder()
    decoder(torch.rand(1, FEATURES))
    layer.projection = nn.Linear(FEATURES, width)
    return decoder


def widened() -> CellLayer:
    layer = layer_of("para_gru", torch.bfloat16)
    layer.projection = Wide(FEATURES, layer.projection.out_features, dtype=torch.bfloat16)
    return layer


@no_grad
def test_a_decoder_follows_a_parameter_into_any_view_of_its_memory() -> None:
    layer, x, places = layer_of("para_gru"), torch.rand(2, FEATURES), torch.rand(500, 6 * FEATURES)
    places = places[: layer.projection.out_features]
    first, *others = (
        lambda: places[:, : 2 * FEATURES : 2],
        lambda: places[:, : 3 * FEATURES : 3],
        lambda: places[:, :FEATURES]._neg_view(),
    )
    layer.projection.weight.data = first()
    decoder = layer.decoder(2)
    decoder(x)
    for view in others:
        layer.projection.weight.data = view()
        decoder.reset()
        assert_close(decoder(x), layer(x[:, None])[0][:, 0], torch.float32, "y")


@no_grad
def test_a_replica_steps_by_its_own_weights() -> None:
    layer, x, state = layer_of("para_gru"), torch.rand(2, FEATURES), None
    for _ in range(3):
        _, state = layer.step(x, state)
    replica = layer._replicate_for_data_parallel()
    for name, p in layer.named_parameters(recurse=False):
        setattr(replica, name, p * 0.5)
    for own in (replica, layer, replica):
        y, _ = own.step(x, state)
        expected, _ = own(x[:, None], state)
        assert_close(y, expected[:, 0], torch.float32, "y")


@no_grad
def test_a_parametrized_layer_can_be_copied_after_steps() -> None:
    layer, x, state = layer_of("para_gru"), torch.rand(2, FEATURES), None
    nn.utils.parametrize.register_parametrization(layer, "az", nn.Tanh())
    for _ in range(3):
        y, state = layer.step(x, state)
    other, state = copy.deepcopy(layer), None
    for _ in range(3):
        z, state = other.step(x, state)
    assert same(y, z)


@no_grad
def test_a_decoder_takes_as_many_threads_as_there_are_now() -> None:
    layer, x, threads = layer_of("para_gru"), torch.rand(2, FEATURES), torch.get_num_threads()
    decoder = layer.decoder(2)
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            decoder(x)
            assert decoder._form.threads == count
    finally:
        torch.set_num_threads(threads)


@no_grad
@pytest.mark.parametrize(("message", "call", "fixed"), REFUSED)
def test_what_is_refused_and_how_it_is_fixed(
    message: str, call: Callable[[], Any], fixed: Callable[[], Any]
) -> None:
    with pytest.raises(ArgumentError) as raised:
        call()
    assert str(raised.value) == message
    fixed()
