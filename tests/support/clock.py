"""Clock: one for devices whose work is done when a call returns, as that of the emulation is."""

from __future__ import annotations

import time

import torch

from rnncc.bench.timing import Place


class HostClock:
    """By the host's clock; nothing has to warm up."""

    warm = 0.0

    def wait(self) -> None:
        """Everything is done."""

    def mark(self) -> float:
        return time.perf_counter()

    def between(self, begin: float, end: float) -> float:
        return end - begin


HERE = Place(torch.device("cpu"), HostClock())
