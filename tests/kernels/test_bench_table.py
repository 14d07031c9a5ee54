"""The table of docs/cuda.md, rehearsed: emulated kernels, a stub clock, small shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from rnncc.bench import gpu, peers, table, timing, workload
from rnncc.bench.baselines import UnavailableError
from rnncc.bench.cuda import FEW_STEPS, LOOP
from rnncc.bench.table import Row
from tests.support.clock import HERE
from tests.support.emulated import emulated
from tests.support.runs import compiled

FORWARD = Row((2, 70, 8), "float32", "forward")
BOTH = Row((2, 70, 8), "float32", "forward+backward")
HALF = Row((2, 70, 8), "bfloat16", "forward")
DECODE = Row((2, 1, 8), "float32", "decode")


@pytest.fixture(autouse=True)
def emulation(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(timing, "MOST_ROUNDS", 3)
    monkeypatch.setattr(timing, "MOST_CALLS", 2)
    monkeypatch.setattr(table, "PATIENCE", 100.0)
    with emulated():
        yield


def test_the_table_measures_every_row_as_it_comes() -> None:
    found = list(table.measure(compiled("elman"), HERE, rows=(FORWARD, BOTH, HALF, DECODE)))
    assert [m.row for m in found] == [FORWARD, BOTH, HALF, DECODE]
    for measured in found:
        assert measured.timing is not None, measured.reason
        assert {LOOP, "nn.GRU", "nn.LSTM"} <= set(measured.timing.baselines)
        data = measured.data()
        assert (data["dtype"], data["pass"]) == (measured.row.dtype, measured.row.direction)
        assert 0 < data["share_of_copy"] == pytest.approx(1 / data["copy_ratio"])
        assert data["reason"] == ""


def test_a_shape_is_checked_once_for_each_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: Counter[Any] = Counter()

    def check(_: Any, __: Any, arguments: Any, *___: Any) -> None:
        checked[arguments["x"].dtype] += arguments["x"].shape[1] == FEW_STEPS

    monkeypatch.setattr(workload, "check", check)
    list(table.measure(compiled("elman"), HERE, rows=(FORWARD, BOTH, HALF), peers=False))
    assert sorted(checked.values()) == [1, 1]


def test_a_row_that_fails_gives_its_reason_and_the_others_come() -> None:
    odd = Row((2, 8, 6), "float32", "forward")
    fits = Row((2, 8, 8), "float32", "forward")
    found = list(table.measure(compiled("block_elman"), HERE, rows=(odd, fits), peers=False))
    assert found[0].timing is None
    assert "got 6 channels, expected a multiple of 4" in found[0].reason
    assert found[0].data()["reason"] == found[0].reason
    assert found[1].timing is not None


def test_rows_that_time_does_not_reach_say_so() -> None:
    found = list(table.measure(compiled("elman"), HERE, budget=0.0, rows=(FORWARD, BOTH)))
    assert [m.reason for m in found] == ["not reached within 0 s"] * 2


@pytest.mark.parametrize("error", [UnavailableError("none"), KeyError("none"), ValueError("none")])
def test_whatever_a_peer_raises_is_a_reason(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(peers, "PEERS", {"nn.GRU": peers.Peer(lambda _: True, fails)})
    (found,) = table.measure(compiled("elman"), HERE, rows=(DECODE,))
    assert found.timing is not None
    assert "none" in found.timing.skipped["nn.GRU"]


def test_rows_without_peers_have_the_loop_alone() -> None:
    (found,) = table.measure(compiled("elman"), HERE, rows=(FORWARD,), peers=False)
    assert found.timing is not None
    assert set(found.timing.baselines) == {LOOP}
    assert found.timing.skipped == {}


@pytest.mark.parametrize("budget", [1000.0, 50.0])
def test_baselines_that_compile_for_long_are_timed_at_one_shape_if_time_is_left(
    budget: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = peers.Peer(lambda _: True, lambda *_: lambda: None, builds=True)
    monkeypatch.setattr(peers, "PEERS", {"slow to build": fast})
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(table, "CHUNKED", HALF.shape)
    other = Row((2, 8, 8), "float32", "forward")
    rows = (FORWARD, HALF, other)
    found = [m.timing for m in table.measure(compiled("elman"), HERE, budget, rows)]
    timed = [set(t.baselines) - {LOOP} for t in found if t]
    if budget > table.COMPILING:
        assert timed == [{"torch.compile", "slow to build"}, {"slow to build"}, set()]
    else:
        assert timed == [set(), set(), set()]
    assert found[2] is not None
    assert found[2].skipped == {"slow to build": "compiles for long; not at every shape"}


@pytest.mark.gpu
def test_rows_are_measured_on_a_gpu() -> None:
    rows = (Row((2, 512, 64), "bfloat16", "forward+backward"), Row((4, 1, 64), "float32", "decode"))
    for measured in table.measure(compiled("para_gru"), gpu.gpu(), rows=rows):
        assert measured.timing is not None, measured.reason
        assert "nn.GRU" in measured.timing.baselines, measured.timing.skipped
