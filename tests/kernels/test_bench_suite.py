"""`rnncc bench --suite`: each program computes what it is timed for; the command, small."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from rnncc.bench import programs, suite, timing, workload
from rnncc.bench.programs import (
    AT_BASE,
    CHUNKS,
    COPY,
    DECODER,
    EAGER,
    GRU_CELL,
    KEPT,
    LINEAR,
    LOOP,
    RECURRENCE,
    RNNCC,
)
from rnncc.bench.rows import BOTH, DIRECTIONS, FORWARD, FUNCTION, LAYER, PACKED, STEP, Row
from rnncc.cli.main import main
from rnncc.errors import RnnccError
from rnncc.nn.layer import CellLayer
from tests.support.runs import compiled
from tests.support.tolerances import assert_close

SHAPE = (2, 20, 8)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "MOST_ROUNDS", 3)
    monkeypatch.setattr(suite, "CALLS", 2)


def made(name: str, work: str, direction: str = FORWARD, dtype: str = "float32") -> dict[str, Any]:
    shape = (2, 1, 8) if work == STEP else SHAPE
    row = Row(work, shape, dtype, direction)
    found = programs.programs(compiled(name), row)
    runs = {n: make() for n, make in found.items() if n not in (CHUNKS, AT_BASE)}
    with torch.set_grad_enabled(direction == BOTH):
        return {name: run() for name, run in runs.items()}


def whole(results: Any) -> list[Tensor]:
    return [results] if isinstance(results, Tensor) else list(results)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_function_is_the_loop(direction: str) -> None:
    found = made("lstm", FUNCTION, direction)
    assert list(found) == [RNNCC, COPY, LOOP]
    ours, loops = whole(found[RNNCC]), whole(found[LOOP])
    spec = compiled("lstm").spec
    if direction == BOTH:
        ours = [dict(zip(spec.arguments, ours, strict=True))[n] for n in _order("lstm")]
    for a, b in zip(ours, loops, strict=True):
        assert_close(a, b, torch.float32, "result")


def _order(name: str) -> list[str]:
    return list(workload.random_arguments(compiled(name).spec, SHAPE))


@pytest.mark.parametrize("name", ["para_gru", "lif"])
def test_packed_inputs_give_what_the_others_give(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = compiled(name).layer(8 * len(compiled(name).spec.inputs), 8)
    arguments = workload.random_arguments(compiled(name).spec, SHAPE)
    for param in compiled(name).spec.params:
        getattr(layer, param.name).data = arguments[param.name]
    monkeypatch.setattr(programs, "_layer_of", lambda *_: layer)
    assert_close(made(name, PACKED)[RNNCC], made(name, FUNCTION)[RNNCC], torch.float32, "packed")


def test_packed_inputs_have_gradients_in_one_tensor() -> None:
    gradients = made("para_gru", PACKED, BOTH)[RNNCC]
    assert [tuple(g.shape) for g in gradients] == [(2, 20, 24), (8,), (8,), (8,)]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_layer_is_timed_with_its_linear(direction: str) -> None:
    torch.manual_seed(0)
    found = made("para_gru", LAYER, direction)
    assert list(found) == [RNNCC, LINEAR, KEPT, RECURRENCE]
    if direction == FORWARD:
        assert found[RNNCC].shape == SHAPE
        assert found[LINEAR].shape == (2, 20, 24)
    else:
        assert len(found[RNNCC]) == 3 + 3
        assert len(found[LINEAR]) == 3


def test_a_linear_into_kept_memory_is_the_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    results: list[Tensor] = []
    empty = programs.allocator.empty

    def recorded(*given: Any) -> Tensor:
        results.append(empty(*given))
        return results[-1]

    monkeypatch.setattr(programs.allocator, "empty", recorded)
    linear = made("para_gru", LAYER)[LINEAR]
    assert_close(results[0].view(2, 20, 24), linear, torch.float32, "kept")


def test_a_step_in_plain_pytorch_is_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = compiled("para_gru").layer(8, 8)
    arguments = workload.random_arguments(compiled("para_gru").spec, (2, 1, 8))
    for param in compiled("para_gru").spec.params:
        getattr(layer, param.name).data = arguments[param.name]
    monkeypatch.setattr(programs, "_layer_of", lambda *_: layer)
    # from the state before the first step, as the plain one
    step = layer.step
    monkeypatch.setattr(layer, "step", lambda x, _: step(x))
    found = made("para_gru", STEP)
    assert list(found) == [RNNCC, DECODER, EAGER, GRU_CELL, LINEAR]
    (eager,) = found[EAGER][1]
    assert_close(found[RNNCC][0], eager, torch.float32, "step")


def test_a_decoder_is_made_for_the_batch_and_given_x(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def decoder(_: Any, batch: int) -> Any:
        return lambda x: seen.append((batch, tuple(x.shape)))

    monkeypatch.setattr(CellLayer, "decoder", decoder)
    row = Row(STEP, (3, 1, 8), "float32", FORWARD)
    programs.programs(compiled("para_gru"), row)[DECODER]()()
    assert seen == [(3, (3, 8))]


def test_one_step_is_sampled_by_several_calls() -> None:
    row = Row(FUNCTION, (1, 1, 8), "float32", FORWARD)
    found = suite.measure(compiled("elman"), row)
    assert set(found.seconds) == {RNNCC, LOOP}
    calls: list[bool] = []
    suite._sampled(row, lambda: calls.append(torch.is_grad_enabled()))()
    assert calls == [False, False]
    suite._sampled(row._replace(shape=SHAPE, direction=BOTH), lambda: calls.append(True))()
    assert len(calls) == 3


def test_a_layer_that_is_given_more_than_x_is_left_out_with_the_reason() -> None:
    found = suite.measure(compiled("driven"), Row(LAYER, SHAPE, "float32", FORWARD))
    assert found.seconds == {}
    assert "timed of layers of x alone; this cell is given " in found.skipped[RNNCC]


def test_a_wrong_kernel_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        workload, "fused_loop", lambda c: lambda given: [y + 1 for y in c(**given)[None]]
    )
    with pytest.raises(RnnccError, match="the output 'h' of the kernel differs from the plain"):
        suite.measure(compiled("elman"), Row(FUNCTION, SHAPE, "float32", FORWARD))


# --- the command -----------------------------------------------------------------------------


def call(*words: str) -> Any:
    result = CliRunner().invoke(main, ["bench", *words], prog_name="rnncc")
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_prints_a_table_for_each_suite() -> None:
    words = [w for name in ("wide", "packed", "decode") for w in ("--suite", name)]
    out = call("elman", *words, "--shape", "2x20x8", "--dtype", "bfloat16")
    assert out.startswith("elman, ")
    head, wide, packed, decode = out.split("\n\n")[:4]
    assert head.endswith("; milliseconds, medians of runs in turns")
    assert wide.split("\n")[0].split("  ")[-1] == LOOP
    assert [line.split()[:4] for line in wide.split("\n")[1:3]] == [
        ["function", "2x20x8", "bfloat16", direction] for direction in DIRECTIONS
    ]
    assert packed.split("\n")[1].split()[:2] == ["packed", "2x20x8"]
    assert decode.split("\n")[1].split()[:2] == ["step", "2x1x8"]


def test_the_command_gives_data() -> None:
    found = json.loads(call("elman", "--suite", "layer", "--shape", "2x20x8", "--json"))
    assert found["cell"] == "elman"
    assert {"device", "threads", "torch"} <= set(found["machine"])
    assert [r["pass"] for r in found["results"]] == list(DIRECTIONS)
    for r in found["results"]:
        assert r["suite"] == "layer"
        assert set(r["ms"]) == {RNNCC, LINEAR, KEPT, RECURRENCE}
        assert r["runs"] >= 3
