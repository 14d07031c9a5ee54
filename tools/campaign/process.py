"""Process: a command -> how it ended; within a limit, and with all that it started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TAIL = 3000  # characters of output that are shown
POLL = 0.1  # seconds
GRACE = 2.0  # seconds to die in, after each signal
PATIENCE = 1.0  # seconds in which a process sees that its parent is gone


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        status: its exit status, negative for a signal; None if it was ended from here.
        reason: why it was ended.
        tail: the end of its output.
    """

    status: int | None
    reason: str
    tail: str


def run(
    command: Sequence[str],
    log: Path,
    limit: float,
    watch: Callable[[], str] = lambda: "",
    *,
    folder: Path,
    env: Mapping[str, str],
) -> Ended:
    """Run a command in a session of its own.

    Args:
        log: its output goes there.
        limit: seconds.
        watch: called again and again; a reason to end it, if there is one.
    """
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    reason = "stopped from outside"
    try:
        reason = _wait(child, limit, watch)
    finally:  # also what it left running when it ended by itself
        if end_all(lambda: _session(child)):
            child.wait()
        elif reason:
            reason += "; it could not be ended"
    return Ended(None if reason else child.returncode, reason, tail(log))


def run_inside(
    command: Sequence[str], log: Path, limit: float, env: Mapping[str, str] | None = None
) -> Ended:
    """Run a command in this process's session, which ends it too, but in a group of its own."""
    with log.open("wb") as output:
        child = subprocess.Popen(
            command,
            env=None if env is None else dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=os.setpgrp,  # no threads run between fork and exec here
        )
    reason = _wait(child, limit, lambda: "")
    if end_all(lambda: _group(child)):
        child.wait()
    return Ended(None if reason else child.returncode, reason, tail(log))


def _wait(child: subprocess.Popen[bytes], limit: float, watch: Callable[[], str]) -> str:
    until = time.monotonic() + limit
    while child.poll() is None:
        reason = watch()
        if reason:
            return reason
        left = until - time.monotonic()
        if left <= 0:
            return f"it took longer than its {limit:.0f} s"
        try:
            child.wait(min(POLL, left))
        except subprocess.TimeoutExpired:
            continue
    return ""


def end_all(members: Callable[[], list[int]]) -> bool:
    """End processes, first politely; whether all are gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + GRACE
        for member in members():
            _send(member, number)
        while members():
            if time.monotonic() > until:
                break
            time.sleep(0.02)
        else:
            return True
    return False


def _send(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # gone meanwhile
        os.kill(process, number)


def end_with_parent() -> None:
    """End the session that this process leads as soon as its parent is gone, by SIGKILL say."""
    parent, here = os.getppid(), os.getpid()

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(PATIENCE)
        for member in {*_living(here, 3)} - {here}:
            _send(member, signal.SIGKILL)
        _send(here, signal.SIGKILL)

    if os.getsid(0) == here:  # else it is a user's, who runs a step by hand
        threading.Thread(target=follow, daemon=True).start()


def _session(child: subprocess.Popen[bytes]) -> list[int]:
    child.poll()
    return _living(child.pid, 3)


def _group(child: subprocess.Popen[bytes]) -> list[int]:
    child.poll()
    return _living(child.pid, 2)


def _living(leader: int, column: int) -> list[int]:
    """The processes whose group or session, a column of their stat, has that leader."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[column]) == leader and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def tail(log: Path) -> str:
    """The end of an output."""
    try:
        return log.read_text(encoding="utf-8", errors="replace").strip()[-TAIL:]
    except OSError:
        return ""


def lines_of(log: Path) -> list[dict[str, Any]]:
    """The lines of JSON of an output; one that was cut short isn't one."""
    found = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("{"):
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return found
