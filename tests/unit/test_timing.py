"""Timing on a GPU, with a clock that stands still."""

from __future__ import annotations

from typing import Any

from rnncc.bench import timing


class Warming:
    """A device that needs a quarter of a second of work, and whose every call takes 1/64 s."""

    warm = 0.25

    def __init__(self) -> None:
        self.calls = 0

    def run(self) -> None:
        self.calls += 1

    def wait(self) -> None:
        pass

    def mark(self) -> Any:
        return self.calls

    def between(self, begin: Any, end: Any) -> float:
        return float(end - begin) / 64


def test_runs_warm_the_device_together(monkeypatch: Any) -> None:
    monkeypatch.setattr(timing, "once", lambda run, clock: 1 / 64)
    clock = Warming()
    for count in (1, 4):
        clock.calls = 0
        runs = {str(n): clock.run for n in range(count)}
        found = timing.interleave_on_gpu(runs, clock, budget=-1.0)
        assert {s.device for samples in found.values() for s in samples} == {1 / 64}
        sampled = timing.LEAST_ROUNDS * count
        assert clock.calls == 16 + count + sampled  # warm-up, the first call of each, samples
