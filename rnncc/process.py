"""Process: whether it was forked after rnncc was imported."""

from __future__ import annotations

import os

_IMPORTED_IN = os.getpid()


def is_forked() -> bool:
    """Threads that were begun before the fork, as those of PyTorch's pool, don't exist here."""
    return os.getpid() != _IMPORTED_IN
