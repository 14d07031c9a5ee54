"""Watch: what other processes did while something was timed."""

from __future__ import annotations

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, interrupts of both kinds, stolen by a hypervisor


class Watch:
    """From when it is made."""

    def __init__(self) -> None:
        self._start, self._busy, self._own = time.perf_counter(), _busy(), _own()

    def others(self) -> float | None:
        """The share of the processors' time that other processes took; None if that is unknown."""
        busy, seconds = _busy(), time.perf_counter() - self._start
        if busy is None or self._busy is None or not seconds:
            return None
        theirs = busy - self._busy - (_own() - self._own)
        return max(0.0, theirs / (seconds * (os.cpu_count() or 1)))


def _busy() -> float | None:
    """Seconds that all processors worked, since the machine was started."""
    try:
        ticks = STAT.read_text().split("\n", 1)[0].split()[1:]
        return sum(int(ticks[k]) for k in BUSY) / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError):
        return None  # not Linux


def _own() -> float:
    times = os.times()
    return times.user + times.system
