"""Cache: the user's folder for kernels, measurements and traces, and the key of a machine."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path

import platformdirs


def cache_dir() -> Path:
    """RNNCC_CACHE_DIR, else the user's cache folder."""
    given = os.environ.get("RNNCC_CACHE_DIR")
    return Path(given).expanduser() if given else Path(platformdirs.user_cache_dir("rnncc"))


@functools.cache
def cpu_identity() -> str:
    """The CPU as -march=native sees it: a shared home never serves another machine's code."""
    text = f"{platform.system()} {platform.machine()} {platform.processor()}"
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return text
    wanted = ("flags", "Features", "model name", "CPU part")
    return text + "".join(sorted({line for line in lines if line.startswith(wanted)}))
