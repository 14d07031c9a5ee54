"""Schedule: the parts of a campaign, one after another -> their results, saved after each.

A part that fails or hangs stops no other. One that crashes or hangs in the middle goes on in a new
process, without the result that it stuck at.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from campaign import plan
from campaign.plan import Part
from campaign.process import Ended
from campaign.record import Campaign, Result, Step, read_lines, write_lines

LEAST = 3.0  # seconds that a process is worth starting for
CUT_OFF = "cut off"  # of a result that was ended for no fault of its own
WORTH_IT = 20.0  # seconds that are worth another process for a part that time cut off
MOST_RESTARTS = 20
SAMPLED = 15.0  # seconds from one look at the GPU's clocks to the next


class Start(Protocol):
    """Runs the process of a step until it ends, or `limit` or `watch` ends it."""

    def __call__(self, name: str, file: Path, limit: float, watch: Callable[[], str]) -> Ended: ...


@dataclass(frozen=True)
class Tools:
    """What the schedule needs from outside.

    Attributes:
        now: a clock.
        clocks: those of the GPU.
        say: a line for whoever waits.
    """

    start: Start
    now: Callable[[], float]
    clocks: Callable[[], Mapping[str, str]]
    say: Callable[[str], None]


def run(
    campaign: Campaign, parts: Sequence[Part], seconds: float, folder: Path, tools: Tools
) -> None:
    """Run the parts that aren't complete; again those that time cut off, while there is some."""
    until = tools.now() + seconds
    for part in parts:
        if _state(campaign, part.name) == "complete":
            tools.say(f"{part.name}: complete already")
    _round(
        campaign, [p for p in parts if _state(campaign, p.name) != "complete"], until, folder, tools
    )
    left = [p for p in parts if _was_cut(campaign, p.name)]
    while left and until - tools.now() > WORTH_IT:
        before = _found(campaign)
        _round(campaign, left, until, folder, tools)
        left = [p for p in left if _was_cut(campaign, p.name)]
        if _found(campaign) == before:
            break


def _round(
    campaign: Campaign, parts: Sequence[Part], until: float, folder: Path, tools: Tools
) -> None:
    """Run each part once, and save the campaign after it."""
    for i, part in enumerate(parts):
        limit = max(LEAST, plan.share(parts[i:], until - tools.now()))
        step = campaign.steps.setdefault(part.name, Step(part.name))
        tools.say(f"{part.name}: {limit:.0f} s at most")
        try:
            _Run(step, limit, folder, tools).all()
        finally:
            campaign.save(folder)
        (folder / f"{part.name}.jsonl").unlink(missing_ok=True)  # it is in the campaign now
        tools.say(f"{part.name}: {told(step)}")


def _state(campaign: Campaign, name: str) -> str:
    return campaign.steps[name].state if name in campaign.steps else ""


def _was_cut(campaign: Campaign, name: str) -> bool:
    """Whether nothing but time kept a step from going on."""
    step = campaign.steps[name]
    cut = any(result.data.get(CUT_OFF) for result in step.results)
    return step.state == "partial" or (step.state == "killed" and cut)


def _found(campaign: Campaign) -> int:
    return sum(len(step.results) for step in campaign.steps.values())


def told(step: Step) -> str:
    """A step in a line."""
    counts = dict.fromkeys(("ok", "failed", "killed", "unavailable"), 0)
    for result in step.results:
        counts[result.state] += 1
    found = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    reason = f"; {step.reason}" if step.reason else ""
    return f"{step.state} in {step.seconds:.0f} s: {found or 'no results'}{reason}"


@dataclass
class _Run:
    """One step in this call of the campaign."""

    step: Step
    limit: float
    folder: Path
    tools: Tools
    tried: set[str] = field(default_factory=set)

    def all(self) -> None:
        """Fill in the step, whatever happens to its processes."""
        step, tools = self.step, self.tools
        began = tools.now()
        step.began, step.restarts = date(), 0
        step.limit = round(step.limit + self.limit, 1)
        self.look("before")
        self.recall()
        try:
            while self.again(began):
                step.restarts += 1
        finally:
            step.results = list(read_lines(self.file).results.values())
            step.seconds = round(step.seconds + self.since(began), 1)
            self.look("after")

    def look(self, when: str) -> None:
        """Note the clocks of the GPU, if there is one."""
        seen = dict(self.tools.clocks())
        if seen:
            self.step.clocks[when] = seen

    @property
    def file(self) -> Path:
        return self.folder / f"{self.step.name}.jsonl"

    def recall(self) -> None:
        """Begin from what the campaign knows, and what a call that was cut off left in the file.

        A result that was under way when the time of all was up gets one more try.
        """
        known = {result.key: result for result in self.step.results}
        left = read_lines(self.file)
        known |= left.results
        self.tried = {key for key, result in known.items() if result.data.get(CUT_OFF)}
        if left.pending is not None:
            self.tried.add(left.pending[0])
        write_lines(self.file, [r for r in known.values() if r.key not in self.tried])

    def again(self, began: float) -> bool:
        """Run one process; whether another should follow it."""
        step, before = self.step, len(read_lines(self.file).results)
        left = self.limit - self.since(began)
        if left < LEAST and step.restarts:
            return False
        watch = _Watch(
            self.file,
            self.tools.now,
            lambda: self.look(f"{step.seconds + self.since(began):.0f} s"),
        )
        ended = self.tools.start(step.name, self.file, max(left, LEAST), watch)
        found = read_lines(self.file)
        if found.ended:
            step.state = "partial" if found.left else "complete"
            step.left, step.tail = found.left, ""
            step.reason = f"{found.left} left, as the time was up" if found.left else ""
            return False
        step.tail = ended.tail
        step.reason = ended.reason or _crash(ended)
        if found.pending is not None:
            key = found.pending[0]
            cut = ended.status is None and not watch.late and key not in self.tried
            data = {CUT_OFF: True} if cut else {}
            found.results[key] = Result(key, "killed", watch.waited, step.reason, data)
        write_lines(self.file, found.results.values())
        step.state = "killed" if ended.status is None else "failed"
        # one that was ended for a result which took too long, or crashed at one, can go on
        grown = len(found.results) > before
        late = self.limit - self.since(began) < LEAST
        return grown and not late and step.restarts < MOST_RESTARTS

    def since(self, began: float) -> float:
        return self.tools.now() - began


class _Watch:
    """Follows a step's file: ends the process if one result takes longer than it may.

    Args:
        look: called every SAMPLED seconds.
    Attributes:
        late: it did.
    """

    def __init__(self, file: Path, now: Callable[[], float], look: Callable[[], None]) -> None:
        self._file, self._now, self._look, self._looked = file, now, look, now()
        self._pending: tuple[str, float] | None = None
        self._since, self._size = now(), -1
        self.late = False

    @property
    def waited(self) -> float:
        return round(self._now() - self._since, 3) if self._pending else 0.0

    def __call__(self) -> str:
        if self._now() - self._looked >= SAMPLED:
            self._looked = self._now()
            self._look()
        size = self._file.stat().st_size if self._file.is_file() else 0
        if size != self._size:
            self._size, pending = size, read_lines(self._file).pending
            if pending != self._pending:
                self._pending, self._since = pending, self._now()
        if self._pending is None or self.waited <= self._pending[1]:
            return ""
        key, limit = self._pending
        self.late = True
        return f"{key} took longer than its {limit:.0f} s"


def _crash(ended: Ended) -> str:
    """How it ended, and its last words."""
    status = ended.status or 0
    how = f"by signal {-status}" if status < 0 else f"with status {status}"
    words = ended.tail.splitlines()[-1:]
    return ": ".join([f"its process ended early {how}", *words])


def date() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
