"""Sink: a step's results -> lines of its file, as they come, within its time.

The process may be ended at any moment; what was written stays.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from campaign.record import Result, read_lines

AGAIN = 75  # the exit status of a process that asks to be started again, to go on
LIMIT = 60.0  # seconds of one result, unless it says otherwise


class UnavailableError(Exception):
    """What is to be measured can't be had on this machine; says why."""


class TimeUpError(Exception):
    """A result was under way when the step's time was up: it is left for later."""


class Sink:
    """Where a step puts its results.

    Args:
        file: may hold results of an earlier process, which are not found again.
        seconds: until the step should stop by itself.
        broken: whether nothing more can run in this process, asked after a failure.
        now: a clock.
    """

    def __init__(
        self,
        file: Path,
        seconds: float,
        broken: Callable[[], bool] = lambda: False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file, self._broken, self._now = file, broken, now
        self._until = now() + seconds
        self.known = read_lines(file).results
        self._began = now()
        self.left_out = 0

    @property
    def left(self) -> float:
        """Seconds."""
        return self._until - self._now()

    def begin(self, key: str, limit: float = LIMIT) -> None:
        """Say what comes next: it is ended with its process if it takes longer than `limit`."""
        self._began = self._now()
        self._write({"begin": key, "limit": limit})

    def put(self, result: Result) -> None:
        self.known[result.key] = result
        self._write(dataclasses.asdict(result))

    def take(
        self,
        key: str,
        find: Callable[[], dict[str, Any]],
        *,
        limit: float = LIMIT,
        needs: float = 0.0,
    ) -> None:
        """Find one result, unless it is known or there is no time.

        Args:
            needs: seconds that it takes in any case.
        Raises:
            SystemExit: nothing more can run in this process.
        """
        if key in self.known:
            return
        if self.left <= needs:
            self.left_out += 1
            return
        self.begin(key, limit)
        try:
            self.finish(key, "ok", data=find())
        except TimeUpError:
            self.left_out += 1
            self._write({"cut": key})
        except UnavailableError as error:
            self.finish(key, "unavailable", str(error))
        except Exception as error:  # the next result is another matter
            self.finish(key, "failed", f"{type(error).__name__}: {error}")
            self.leave_if_broken()

    def finish(
        self, key: str, state: str, reason: str = "", data: dict[str, Any] | None = None
    ) -> None:
        """Put the result that was begun."""
        seconds = round(self._now() - self._began, 3)
        self.put(Result(key, state, seconds, reason[-2000:], data or {}))

    def is_unavailable(self, key: str) -> bool:
        """Whether it is known that a result can't be had on this machine."""
        return key in self.known and self.known[key].state == "unavailable"

    def is_broken(self) -> bool:
        """Whether nothing more can run in this process."""
        return self._broken()

    def leave_if_broken(self) -> None:
        """End the process then; the next one goes on.

        Raises:
            SystemExit: it is.
        """
        if self.is_broken():
            raise SystemExit(AGAIN)

    def end(self) -> None:
        """Say that the step came to its end."""
        self._write({"end": True, "left": self.left_out})

    def _write(self, line: dict[str, Any]) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=str) + "\n")
