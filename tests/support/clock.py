"""Clock: one for devices whose work is done when a call returns, as that of the emulation is."""

from __future__ import annotations

import time

import torch

from rnncc.bench.timing import Place, Run


class HostClock:
    """By the host's clock, on which the device takes `slower` times as long; it needs no warm-up.

    As on a GPU that is busy, calls then return before their work would be done.
    """

    warm = 0.0

    def __init__(self, slower: float = 2.0) -> None:
        self.slower = slower

    def wait(self) -> None:
        """Everything is done."""

    def mark(self) -> float:
        return time.perf_counter()

    def between(self, begin: float, end: float) -> float:
        return self.slower * (end - begin)

    def replay(self, run: Run) -> Run:
        return run


HERE = Place(torch.device("cpu"), HostClock())
