"""Record: the data of a campaign, as its steps write it and its report reads it; JSON.

Needs nothing but Python, as do all modules that the parent process imports.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VERSION = 1
FILE = "campaign.json"
# Of a result: measured; it failed or was wrong; it can't be had here; its process was ended.
RESULT_STATES = ("ok", "failed", "unavailable", "killed")
# Of a step: all of it; a part, as its time was up; it failed; its process was ended at its limit.
STEP_STATES = ("complete", "partial", "failed", "killed")


class CampaignError(Exception):
    """A folder, file or option that a campaign can't use; says what was seen, and the fix."""


@dataclass(frozen=True)
class Result:
    """One thing that a step found.

    Attributes:
        key: its name, unique within the step: what is to be measured, and `--resume` leaves out.
        state: one of RESULT_STATES.
        seconds: that finding it took.
        reason: why there is no value; empty if there is one.
        data: what was found.
    """

    key: str
    state: str
    seconds: float = 0.0
    reason: str = ""
    data: dict[str, Any] = field(default_factory=dict)


@dataclass
class Step:
    """What a step has come to, over all calls of the campaign.

    Attributes:
        state: one of STEP_STATES.
        began: the date and time of its last process.
        seconds, limit: that it took and that it was given, all its runs together.
        reason: why it isn't complete; `tail` is the end of its output then.
        clocks: of the GPU before, during and after it, as nvidia-smi says.
        left: how many of its results are still to be had, where it knows.
        restarts: processes that followed one that crashed or hung.
    """

    name: str
    state: str = "partial"
    began: str = ""
    seconds: float = 0.0
    limit: float = 0.0
    reason: str = ""
    tail: str = ""
    left: int | None = None
    restarts: int = 0
    clocks: dict[str, dict[str, str]] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)


@dataclass
class Campaign:
    """All that was found on one machine.

    Attributes:
        rehearsal: nothing ran on a GPU, and no time means anything.
        began: the date and time of the first call.
        commit: of the text that ran; empty if unknown. "+" at its end: with changes.
        machine: GPU, driver and versions.
        missing: packages that aren't there, as requirements.
        steps: by name.
    """

    rehearsal: bool = False
    began: str = ""
    commit: str = ""
    machine: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    steps: dict[str, Step] = field(default_factory=dict)
    version: int = VERSION

    def save(self, folder: Path) -> None:
        """Write FILE, whole or not at all."""
        write_atomically(folder / FILE, json.dumps(self.data(), indent=1) + "\n")

    def data(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


def load(folder: Path) -> Campaign:
    """The campaign of a folder, with what the step found that was under way when it was ended.

    Raises:
        CampaignError: there is none, or none that can be read.
    """
    file = folder / FILE
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CampaignError(f"{file}: is missing.\nFix: make gpu ARGS='--out {folder}'") from None
    except (OSError, ValueError) as error:
        raise CampaignError(f"{file}: can't be read: {error}.\nFix: another folder") from None
    seen = given.get("version") if isinstance(given, dict) else None
    if seen != VERSION:
        raise CampaignError(
            f"{file}: is of version {seen}, expected {VERSION}.\nFix: another folder"
        )
    try:
        steps = {name: _step(step) for name, step in given.pop("steps").items()}
        found = Campaign(**given, steps=steps)
    except (KeyError, TypeError, AttributeError) as error:
        raise CampaignError(f"{file}: is no campaign: {error}.\nFix: another folder") from None
    for lines in sorted(folder.glob("*.jsonl")):
        _recover(found.steps.setdefault(lines.stem, Step(lines.stem)), read_lines(lines))
    return found


def _step(given: dict[str, Any]) -> Step:
    results = [Result(**result) for result in given.pop("results")]
    return Step(**given, results=results)


def _recover(step: Step, lines: Lines) -> None:
    known = {result.key: result for result in step.results} | lines.results
    step.results, step.state = list(known.values()), "partial"
    step.reason = "it was under way when the campaign was ended"


def write_atomically(file: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as target:
            target.write(text)
        os.chmod(name, 0o644)
        os.replace(name, file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


# --- lines -----------------------------------------------------------------------------------


@dataclass
class Lines:
    """A step's own file: a line as each result begins, one as it ends or is cut, one at the end.

    Attributes:
        results: by key.
        pending: the key that has begun and not ended, and the seconds that it may take.
        ended: whether the step came to its end by itself; `left` says with how much to do.
    """

    results: dict[str, Result] = field(default_factory=dict)
    pending: tuple[str, float] | None = None
    ended: bool = False
    left: int = 0

    def take(self, line: str) -> None:
        """Add what a line says; one that was cut short says nothing."""
        try:
            given = json.loads(line)
        except ValueError:
            return
        if "begin" in given:
            self.pending = (given["begin"], given["limit"])
        elif "cut" in given:
            self.pending = None
        elif "end" in given:
            self.ended, self.left = True, given["left"]
        else:
            result = Result(**given)
            self.results[result.key] = result
            self.pending = None


def read_lines(file: Path) -> Lines:
    """All that a step's file says."""
    found = Lines()
    if file.is_file():
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            found.take(line)
    return found


def write_lines(file: Path, results: Iterable[Result]) -> None:
    """A step's file that says what is known already."""
    text = "".join(json.dumps(dataclasses.asdict(result)) + "\n" for result in results)
    write_atomically(file, text)
