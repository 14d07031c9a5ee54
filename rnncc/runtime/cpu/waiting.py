"""Waiting: for a compiler, or for another process that builds; not in silence, not for ever."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import filelock

from rnncc.errors import BuildError

LIMIT_VARIABLE = "RNNCC_BUILD_TIMEOUT"
LIMIT = 600.0  # seconds
FIRST_WORD, NEXT_WORD = 10.0, 60.0  # seconds
LOG = logging.getLogger("rnncc")


def limit() -> float:
    """Seconds that a build may take.

    Raises:
        BuildError: the variable isn't a number above 0.
    """
    given = os.environ.get(LIMIT_VARIABLE, "")
    with contextlib.suppress(ValueError):
        seconds = float(given or LIMIT)
        if seconds > 0:
            return seconds
    raise BuildError(
        f"the variable {LIMIT_VARIABLE} is {given!r}, expected seconds above 0 (or inf).\n"
        f"Fix: {LIMIT_VARIABLE}={LIMIT:.0f}, or unset it"
    )


def run(command: Sequence[str], task: str, seconds: float) -> tuple[int, str]:
    """Run a program to its end: its exit status and all that it printed.

    Args:
        task: what it does, for the words while it takes long.
    Raises:
        OSError: it can't be run.
        TimeoutError: it took longer than `seconds`; it was ended, with those that it started.
    """
    with tempfile.TemporaryFile() as printed:  # not a pipe, which a grandchild may keep open
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group, to end it as a whole
        )

        def ended(timeout: float) -> bool:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout)
            return process.returncode is not None

        try:
            _wait(ended, task, seconds)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        printed.seek(0)
        return process.returncode, printed.read().decode(errors="replace")


@contextlib.contextmanager
def locked(path: Path, task: str, seconds: float) -> Iterator[None]:
    """Hold the lock of a file, which is let go when the process ends, however it does.

    Raises:
        OSError: the lock can't be made there.
        TimeoutError: another process held it for longer than `seconds`.
    """
    lock = filelock.FileLock(path)

    def acquired(timeout: float) -> bool:
        with contextlib.suppress(filelock.Timeout):
            lock.acquire(timeout=timeout)
        return lock.is_locked

    try:
        _wait(acquired, task, seconds)
    except NotImplementedError as error:
        raise OSError(f"its file system has no locks ({error})") from error
    try:
        yield
    finally:
        lock.release()


def _wait(done: Callable[[float], bool], task: str, seconds: float) -> None:
    """Until `done(seconds to wait)`; a word after a while, and again each minute."""
    begin, word = time.monotonic(), FIRST_WORD
    while not done(max(0.0, min(word, begin + seconds - time.monotonic()))):
        passed, word = time.monotonic() - begin, NEXT_WORD
        if passed >= seconds:
            raise TimeoutError
        until = "" if math.isinf(seconds) else f", at most {seconds:.0f} s ({LIMIT_VARIABLE})"
        LOG.warning("%s: %.0f s so far%s", task, passed, until)
