"""The campaign on a GPU: steps get their time, none stops another, nothing found is lost."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.campaign import campaign, machine, plan, process, record, schedule, sink

Ended, Result = process.Ended, record.Result


class Machine:
    """A clock that moves only when a process runs, and processes that do as they are told.

    Attributes:
        acts: for a step, what each of its processes does in turn.
        limits: what each process was given.
    """

    def __init__(self, **acts: list[Callable[..., Any]]) -> None:
        self.time, self.acts = 0.0, acts
        self.limits: list[tuple[str, float]] = []
        self.said: list[str] = []
        self.tools = schedule.Tools(self.start, lambda: self.time, dict, self.said.append)

    def start(self, name: str, file: Path, limit: float, watch: Callable[[], str]) -> Any:
        self.limits.append((name, round(limit, 1)))
        act = self.acts[name].pop(0) if self.acts.get(name) else finds("a")
        return act(self, file, limit, watch)


def finds(*keys: str, seconds: float = 1.0, left: int = 0) -> Callable[..., Any]:
    """A process that ends well."""

    def act(machine: Machine, file: Path, limit: float, watch: Callable[[], str]) -> Any:
        with file.open("a") as lines:
            for key in keys:
                lines.write(json.dumps({"begin": key, "limit": 60}) + "\n")
                lines.write(json.dumps({"key": key, "state": "ok"}) + "\n")
            lines.write(json.dumps({"end": True, "left": left}) + "\n")
        machine.time += seconds
        return Ended(0, "", "all well")

    return act


def crashes(*keys: str, at: str = "", seconds: float = 1.0) -> Callable[..., Any]:
    """A process that finds something, then dies, in the middle of a result if one is named."""

    def act(machine: Machine, file: Path, limit: float, watch: Callable[[], str]) -> Any:
        finds(*keys)(machine, file, limit, watch)
        text = file.read_text().splitlines()[:-1]
        text += [json.dumps({"begin": at, "limit": 60})] if at else []
        file.write_text("\n".join(text) + "\n")
        machine.time += seconds - 1
        return Ended(-11, "", "Segmentation fault")

    return act


def hangs(at: str, most: float = 60.0) -> Callable[..., Any]:
    """A process that never comes to the end of a result."""

    def act(machine: Machine, file: Path, limit: float, watch: Callable[[], str]) -> Any:
        with file.open("a") as lines:
            lines.write(json.dumps({"begin": at, "limit": most}) + "\n")
        for _ in range(int(limit)):
            reason = watch()
            if reason:
                return Ended(None, reason, "...")
            machine.time += 1
        return Ended(None, f"it took longer than its {limit:.0f} s", "...")

    return act


def run(machine: Machine, folder: Path, found: Any = None, seconds: float = 520.0) -> Any:
    found = found or record.Campaign()
    schedule.run(found, plan.PARTS, seconds, folder, machine.tools)
    assert record.load(folder) == found
    return found


# --- time ------------------------------------------------------------------------------------


def test_steps_share_the_seconds_and_get_what_others_leave(tmp_path: Path) -> None:
    steps = Machine()
    run(steps, tmp_path)
    weights = [part.weight for part in plan.PARTS]
    total, given = sum(weights), dict(steps.limits)
    assert [name for name, _ in steps.limits] == list(plan.NAMES)
    assert given["doctor"] == pytest.approx(520 * weights[0] / total, abs=0.1)
    assert given["agreement"] == pytest.approx(519 * weights[1] / (total - weights[0]), abs=0.1)
    assert given["peers"] == pytest.approx(520 - (len(weights) - 1), abs=0.1)


def test_all_steps_end_within_the_seconds_even_if_each_hangs(tmp_path: Path) -> None:
    steps = Machine(**{name: [hangs("a", 1e6)] for name in plan.NAMES})
    found = run(steps, tmp_path, seconds=300.0)
    assert steps.time <= 300
    assert {step.state for step in found.steps.values()} == {"killed"}
    assert {step.results[0].state for step in found.steps.values()} == {"killed"}


def test_a_process_stops_by_itself_before_it_is_ended() -> None:
    assert plan.soft(100) == 94
    assert plan.soft(10) == 8.5


def test_what_time_cut_off_gets_the_seconds_that_are_left_at_the_end(tmp_path: Path) -> None:
    acts = [finds("a", left=2, seconds=50), finds("b", left=1, seconds=50), finds("c")]
    steps = Machine(times=acts)
    times = run(steps, tmp_path).steps["times"]
    assert [name for name, _ in steps.limits] == [*plan.NAMES, "times", "times"]
    assert steps.limits[-1][1] == 520 - 100 - (len(plan.NAMES) - 1)
    assert (times.state, [r.key for r in times.results]) == ("complete", ["a", "b", "c"])


def test_a_result_that_time_cut_off_gets_the_seconds_that_are_left_too(tmp_path: Path) -> None:
    steps = Machine(times=[hangs("a", 1e6), finds("a", "b")])
    found = run(steps, tmp_path)
    assert [name for name, _ in steps.limits].count("times") == 2
    states = {r.key: r.state for r in found.steps["times"].results}
    assert states == {"a": "ok", "b": "ok"}


def test_a_step_that_finds_nothing_more_is_not_run_forever(tmp_path: Path) -> None:
    steps = Machine(times=[finds("a", left=2)] + [finds(left=2)] * 9)
    assert run(steps, tmp_path).steps["times"].state == "partial"
    assert [name for name, _ in steps.limits].count("times") == 2


# --- faults ----------------------------------------------------------------------------------


def test_a_step_that_fails_at_once_stops_no_other_and_is_not_repeated(tmp_path: Path) -> None:
    steps = Machine(doctor=[crashes()])
    found = run(steps, tmp_path)
    doctor = found.steps["doctor"]
    assert (doctor.state, doctor.tail) == ("failed", "Segmentation fault")
    assert doctor.reason == "its process ended early by signal 11: Segmentation fault"
    assert {found.steps[name].state for name in plan.NAMES[1:]} == {"complete"}
    assert len(steps.limits) == len(plan.NAMES)


def test_a_step_that_crashes_at_a_result_goes_on_with_the_next(tmp_path: Path) -> None:
    steps = Machine(times=[crashes("a", at="b"), finds("c")])
    times = run(steps, tmp_path).steps["times"]
    assert [(r.key, r.state) for r in times.results] == [("a", "ok"), ("b", "killed"), ("c", "ok")]
    assert (times.state, times.restarts, times.reason) == ("complete", 1, "")


def test_a_result_that_hangs_is_ended_at_its_own_limit(tmp_path: Path) -> None:
    steps = Machine(times=[hangs("a", 20), finds("b")])
    times = run(steps, tmp_path).steps["times"]
    assert [(r.key, r.state) for r in times.results] == [("a", "killed"), ("b", "ok")]
    assert times.results[0].reason == "a took longer than its 20 s"
    assert 20 <= times.results[0].seconds <= 22
    assert times.state == "complete"


def test_a_step_that_crashes_again_and_again_ends(tmp_path: Path) -> None:
    acts = [crashes(f"{n}") for n in range(1000)]
    steps = Machine(times=acts)
    times = run(steps, tmp_path).steps["times"]
    assert times.state == "failed"
    assert times.restarts == schedule.MOST_RESTARTS
    assert len(times.results) == schedule.MOST_RESTARTS + 1


def test_the_clocks_are_looked_at_while_a_step_runs(tmp_path: Path) -> None:
    steps = Machine(times=[hangs("a", 50), finds("b")])
    steps.tools = dataclasses.replace(steps.tools, clocks=lambda: {"clocks.sm": "990 MHz"})
    found = run(steps, tmp_path)
    assert list(found.steps["times"].clocks) == ["before", "15 s", "30 s", "45 s", "after"]
    assert list(found.steps["peers"].clocks) == ["before", "after"]


# --- going on --------------------------------------------------------------------------------


def test_complete_steps_stay_and_partial_ones_go_on(tmp_path: Path) -> None:
    first = Machine(times=[finds("a", left=2, seconds=600)])
    found = run(first, tmp_path)
    assert found.steps["times"].state == "partial"
    assert found.steps["times"].reason == "2 left, as the time was up"
    second = Machine(times=[finds("b", "c")])
    found = run(second, tmp_path, record.load(tmp_path))
    assert [name for name, _ in second.limits] == ["times"]
    assert second.limits[0][1] == 520  # nobody else needs it
    assert [r.key for r in found.steps["times"].results] == ["a", "b", "c"]
    assert found.steps["times"].state == "complete"


def test_what_a_campaign_that_was_cut_off_had_found_is_there(tmp_path: Path) -> None:
    lines = [{"key": "a", "state": "ok"}, {"begin": "b", "limit": 60}]
    text = "\n".join(map(json.dumps, lines)) + '\n{"key": "c", "sta'
    (tmp_path / "times.jsonl").write_text(text)
    found = run(Machine(times=[finds("d")]), tmp_path)
    states = {r.key: r.state for r in found.steps["times"].results}
    assert states == {"a": "ok", "d": "ok"}


def test_a_result_that_was_cut_off_is_tried_once_more(tmp_path: Path) -> None:
    run(Machine(times=[hangs("a", 1e6)], peers=[finds("p", seconds=600)]), tmp_path)
    found = run(Machine(times=[finds("a")]), tmp_path, record.load(tmp_path))
    assert [(r.key, r.state) for r in found.steps["times"].results] == [("a", "ok")]


def test_a_result_that_hangs_again_is_not_tried_a_third_time(tmp_path: Path) -> None:
    run(Machine(times=[hangs("a", 1e6)], peers=[finds("p", seconds=600)]), tmp_path)
    run(Machine(times=[hangs("a", 1e6)]), tmp_path, record.load(tmp_path))
    found = run(Machine(times=[finds("b")]), tmp_path, record.load(tmp_path))
    states = {r.key: r.state for r in found.steps["times"].results}
    assert states == {"a": "killed", "b": "ok"}


def test_a_campaign_that_is_interrupted_saves_what_it_has(tmp_path: Path) -> None:
    def interrupted(steps: Machine, file: Path, limit: float, watch: Callable[[], str]) -> Any:
        crashes("a", at="b")(steps, file, limit, watch)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Machine(agreement=[interrupted]), tmp_path)
    found = record.load(tmp_path)
    assert [r.key for r in found.steps["agreement"].results] == ["a"]
    assert found.steps["doctor"].state == "complete"


def test_only_the_campaign_remains_in_the_folder(tmp_path: Path) -> None:
    run(Machine(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [record.FILE]


# --- the file of a step ----------------------------------------------------------------------


def test_a_sink_leaves_out_what_is_known_and_what_there_is_no_time_for(tmp_path: Path) -> None:
    file, now = tmp_path / "times.jsonl", [0.0]
    record.write_lines(file, [Result("a", "ok", data={"x": 1})])
    found = sink.Sink(file, 10.0, now=lambda: now[0])

    def find() -> dict[str, Any]:
        now[0] += 6
        return {"y": 2}

    for key in ("a", "b", "c", "d"):
        found.take(key, find, needs=3)
    found.end()
    lines = record.read_lines(file)
    assert {key: r.data for key, r in lines.results.items()} == {
        **{"a": {"x": 1}, "b": {"y": 2}, "c": {"y": 2}}
    }
    assert (lines.ended, lines.left, lines.pending) == (True, 1, None)


def test_a_sink_says_why_there_is_no_result(tmp_path: Path) -> None:
    file = tmp_path / "times.jsonl"
    found = sink.Sink(file, 10.0)

    def absent() -> dict[str, Any]:
        raise sink.UnavailableError("ncu is nowhere")

    found.take("absent", absent)
    found.take("wrong", lambda: {"x": 1 / 0})
    states = {k: (r.state, r.reason) for k, r in record.read_lines(file).results.items()}
    assert states == {
        "absent": ("unavailable", "ncu is nowhere"),
        "wrong": ("failed", "ZeroDivisionError: division by zero"),
    }


def test_what_the_time_of_a_step_cuts_off_is_left_for_later(tmp_path: Path) -> None:
    file = tmp_path / "times.jsonl"
    found = sink.Sink(file, 10.0)

    def slow() -> dict[str, Any]:
        raise sink.TimeUpError

    found.take("slow", slow)
    found.end()
    lines = record.read_lines(file)
    assert (lines.results, lines.pending, lines.left) == ({}, None, 1)


def test_a_process_that_can_go_no_further_ends_and_asks_for_another(tmp_path: Path) -> None:
    found = sink.Sink(tmp_path / "times.jsonl", 10.0, broken=lambda: True)
    with pytest.raises(SystemExit) as left:
        found.take("wrong", lambda: {"x": 1 / 0})
    assert left.value.code == sink.AGAIN
    assert list(record.read_lines(tmp_path / "times.jsonl").results) == ["wrong"]


# --- processes -------------------------------------------------------------------------------

CHILD = "import subprocess, sys, time\nprint('here', flush=True)\n"
LEAVES = """
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"])
print(child.pid, flush=True)
"""


def start(code: str, folder: Path, limit: float, **given: Any) -> Any:
    log = folder / "log"
    return process.run([sys.executable, "-c", code], log, limit, folder=folder, env={}, **given)


def is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(("then", "status"), [("time.sleep(99)", None), ("", 0)])
def test_a_process_is_ended_with_all_that_it_started(
    tmp_path: Path, then: str, status: int | None
) -> None:
    ended = start(CHILD + LEAVES + then, tmp_path, 1.0 if then else 60.0)
    here, child = ended.tail.split()
    assert (ended.status, here, is_running(child)) == (status, "here", False)
    assert ended.reason == ("it took longer than its 1 s" if then else "")


def test_a_process_that_ignores_a_polite_request_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "GRACE", 0.3)
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + CHILD
    assert start(code + "time.sleep(99)", tmp_path, 1.0).status is None


def test_a_process_inside_a_step_is_ended_at_its_limit(tmp_path: Path) -> None:
    code = CHILD + LEAVES + "time.sleep(99)"
    ended = process.run_inside([sys.executable, "-c", code], tmp_path / "log", 1.0)
    assert ended.status is None
    assert not is_running(ended.tail.split()[1])
    well = process.run_inside([sys.executable, "-c", "print('{}')"], tmp_path / "log", 20)
    assert (well.status, process.lines_of(tmp_path / "log")) == (0, [{}])


ORPHAN = """
import os, subprocess, sys, time
from campaign import process
process.PATIENCE = 0.05
process.end_with_parent()
inside = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"])
print(os.getpid(), inside.pid, flush=True)
time.sleep(99)
"""
STARTS = """
import os, signal, subprocess, sys
command = [sys.executable, "-c", sys.argv[1]]
child = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, text=True)
print(child.stdout.readline(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_ends_with_the_campaign_that_was_killed() -> None:
    command = [sys.executable, "-c", STARTS, ORPHAN]
    env = {"PYTHONPATH": str(Path(process.__file__).parents[1])}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    pids = done.stdout.split()
    assert len(pids) == 2, done.stderr
    for _ in range(1000):
        if not any(map(is_running, pids)):
            break
        time.sleep(0.02)
    assert not any(map(is_running, pids))


def test_a_process_can_be_watched(tmp_path: Path) -> None:
    ended = start(CHILD + "time.sleep(99)", tmp_path, 50, watch=lambda: "seen enough")
    assert (ended.status, ended.reason) == (None, "seen enough")


# --- packages --------------------------------------------------------------------------------

TOML = """
dependencies = [
    "torch>=2.6",
    "pydantic>=2.6",
]
[project.optional-dependencies]
dev = [
    "pytest>=8.2",
    "ruff>=0.9",
    "cupy-cuda13x>=14; sys_platform == 'linux'",
]
"""


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    versions = {"torch": "2.11.0+cu130", "pytest": "8.0", "typing-extensions": "4.0"}
    monkeypatch.setattr(machine, "_version", versions.get)
    return versions


def test_missing_packages_come_with_their_parts(installed: dict[str, str]) -> None:
    assert machine.requirements(TOML) == ["torch>=2.6", "pydantic>=2.6", "pytest>=8.2"]
    found = machine.missing()
    assert "torch>=2.6" not in found
    assert {"pydantic>=2.6", "pydantic-core", "typing-inspection", "platformdirs>=4"} <= set(found)
    assert "typing-extensions" not in found
    assert {"pytest>=8.2", "hypothesis>=6.100", "cupy-cuda13x"} <= set(found)
    line = machine.pip_line(found)
    assert "-m pip install --no-deps -c constraints.txt " in line
    assert ' "pydantic>=2.6" ' in line
    assert machine.pip_line(["torch>=2.6", "rich>=13"]).startswith("torch as pytorch.org says")
    assert '"torch' not in machine.pip_line(["torch>=2.6", "rich>=13"])


def test_here_nothing_is_missing() -> None:
    assert machine.missing() == []


# --- the command -----------------------------------------------------------------------------


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "about", lambda: {"name": "NVIDIA Test", "torch": "2.11.0"})
    monkeypatch.setattr(machine, "commit", lambda: "0123456789ab")
    monkeypatch.setattr(machine, "has_gpu", lambda: True)


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    assert campaign.main([str(a) for a in arguments]) == campaign.WRONG
    return capsys.readouterr().err


def test_the_steps_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert campaign.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(plan.NAMES)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--part", "tiems"], r"argument --part: invalid choice: 'tiems' \(choose from"),
        (["--seconds", "0"], "argument --seconds: got 0, expected seconds, 1 or more"),
        (["--seconds", "nan"], "argument --seconds: got nan, expected seconds, 1 or more"),
        (["--seconds", "soon"], "argument --seconds: invalid seconds value: 'soon'"),
    ],
)
def test_a_wrong_option_is_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        campaign.main(arguments)
    assert left.value.code == campaign.WRONG
    message = capsys.readouterr().err
    assert re.search(said, message), message


def test_a_machine_without_a_gpu_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "has_gpu", lambda: False)
    message = refused(capsys, "--out", tmp_path)
    assert "no GPU: neither nvidia-smi nor /dev shows one.\nFix: --rehearse emulates" in message


@pytest.mark.usefixtures("here")
def test_a_folder_that_does_not_fit_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert "File exists.\nFix: another folder" in refused(capsys, "--out", tmp_path / "file")
    assert "Fix: another folder" in refused(capsys, "--out", "/proc")  # nobody can write there
    folder = tmp_path / "folder"
    folder.mkdir()
    record.Campaign(commit="fedcba987654", machine={"name": "NVIDIA Test"}).save(folder)
    message = refused(capsys, "--out", folder)
    assert "holds a campaign already.\nFix: --resume, or another folder" in message
    message = refused(capsys, "--out", folder, "--resume")
    assert "was measured with commit = fedcba987654, here it is 0123456789ab" in message
    message = refused(capsys, "--out", folder, "--resume", "--commit", "fedcba987654")
    assert "was measured with torch = None, here it is 2.11.0" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "can't be read: Expecting property name"),
        ("[]", "is of version None, expected 1"),
        ('{"version": 2}', "is of version 2, expected 1"),
        ('{"version": 1}', "is no campaign: 'steps'"),
        ('{"version": 1, "steps": {}, "cell": 1}', "is no campaign: .*'cell'"),
    ],
)
def test_a_file_that_is_no_campaign_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / record.FILE).write_text(text)
    with pytest.raises(record.CampaignError, match=said):
        record.load(tmp_path)
