"""The speed on a CPU: measures the rows of docs/speed.md, and writes the page and README's table.

    python tools/speed.py                            from what was measured before
    python tools/speed.py --measure                  first what has changed or was disturbed
    python tools/speed.py --measure --seconds 80     for about so long; once more goes on
    python tools/speed.py --measure wide half        some suites

Nothing else may run meanwhile. 2 threads; medians of runs in turns.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch
from campaign.record import write_atomically
from rich.console import Console
from speed_page import BEGIN, END, page, readme_block

import rnncc
from rnncc.bench import cpu, suite
from rnncc.bench.programs import CHUNKS
from rnncc.bench.rows import BASE, FUNCTION, SUITES, Row, rows

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "measured" / "epyc"
FILE, BOUNDS = FOLDER / "speed.json", FOLDER / "must_hold.json"
PAGE, README = ROOT / "docs" / "speed.md", ROOT / "README.md"
CELL, THREADS = "para_gru", 2
OTHER_CELLS = {name: rows(FUNCTION, (BASE,)) for name in ("slstm", "para_lstm")}
COMPILED = ("wide", "short")  # suites that are compared with the loop under torch.compile
# What a commit must have changed for its times to be others.
MEASURED = ("rnncc", "templates", "cells", ":!rnncc/bench", ":!rnncc/cli", ":!rnncc/doctor")
ATTEMPTS, DISTURBED = 3, 0.05  # again where other processes took more of the processors


class Job(NamedTuple):
    """A row of a suite, or of another cell."""

    cell: str
    suite: str
    row: Row

    @property
    def key(self) -> list[Any]:
        """By which its result is found again."""
        row = self.row
        return [self.cell, self.suite, row.work, list(row.shape), row.dtype, row.direction]


def key_of(result: dict[str, Any]) -> list[Any]:
    """The key of the job that gave it."""
    return [result[name] for name in ("cell", "suite", "work", "shape", "dtype", "pass")]


def jobs(suites: Sequence[str]) -> list[Job]:
    """All of the suites; of all suites if none is named."""
    found = {name: [Job(CELL, name, row) for row in own] for name, own in SUITES.items()}
    found["cells"] = [Job(cell, "cells", row) for cell, own in OTHER_CELLS.items() for row in own]
    return [job for name in suites or found for job in found[name]]


KEYS = [job.key for job in jobs(())]  # in the order of the file


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--measure", "wanted", is_flag=True, help="Measure rows first.")
@click.option("--seconds", type=float, default=1e9, help="Begin no row after so long.")
@click.argument("suites", nargs=-1, type=click.Choice([*SUITES, "cells"]))
def main(wanted: bool, seconds: float, suites: tuple[str, ...]) -> None:
    """Write docs/speed.md and README's table, from rows that were measured now or before."""
    if wanted:
        cpu.use_threads(THREADS)
        left = measure_into(FILE, jobs(suites), commit(), time.perf_counter() + seconds)
        click.echo(f"{FILE.relative_to(ROOT)}: written, {left} rows left")
    measured = json.loads(FILE.read_text(encoding="utf-8"))
    bounds = json.loads(BOUNDS.read_text(encoding="utf-8")) if BOUNDS.exists() else None
    write_atomically(PAGE, page(measured, bounds))
    readme = with_block(README.read_text(encoding="utf-8"), readme_block(measured))
    write_atomically(README, readme)
    click.echo(f"{PAGE.relative_to(ROOT)}, {README.name}: written")


def with_block(text: str, block: str) -> str:
    """A text with another block between the marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def commit() -> str:
    """The last that changed what is measured; with a + if it has been changed since."""
    changed = _git("status", "--porcelain", "--", *MEASURED)
    return _git("log", "-1", "--format=%h", "--", *MEASURED) + ("+" if changed else "")


def _git(*words: str) -> str:
    run = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return run.stdout.strip()


def measure_into(file: Path, wanted: Sequence[Job], commit: str, end: float) -> int:
    """Measure what this commit hasn't, or not undisturbed, row by row into the file.

    Returns: the number of rows that are left.
    """
    machine = cpu.machine()
    by_key = {_text(key_of(result)): result for result in _read(file, machine)}
    todo = [job for job in wanted if not _measured_well(by_key.get(_text(job.key)), commit)]
    left = len(todo)
    with Console(stderr=True).status("measuring") as status:
        for job, found in _measured(todo, end, status.update):
            about = {"cell": job.cell, "suite": job.suite, "commit": commit}
            by_key[_text(job.key)] = {**about, **found.data()}
            _write(file, machine, [by_key[k] for k in map(_text, KEYS) if k in by_key])
            left -= 1
    return left


def _measured_well(result: dict[str, Any] | None, commit: str) -> bool:
    return (
        result is not None and result["commit"] == commit and (result["others"] or 0) <= DISTURBED
    )


def _write(file: Path, machine: dict[str, Any], results: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"machine": machine, "results": results}, indent=1)
    write_atomically(file, text + "\n")


def _text(key: list[Any]) -> str:
    return json.dumps(key)


def _read(file: Path, machine: dict[str, Any]) -> list[dict[str, Any]]:
    """What was measured on this machine before; of another nothing is kept."""
    if not file.exists():
        return []
    found = json.loads(file.read_text(encoding="utf-8"))
    alike = all(found["machine"][name] == machine[name] for name in ("device", "threads", "torch"))
    return list(found["results"]) if alike else []


def _measured(todo: Sequence[Job], end: float, say: Any) -> Iterator[tuple[Job, suite.Found]]:
    compiled = {job.cell: rnncc.compile(job.cell) for job in todo}
    for job in todo:
        if time.perf_counter() > end:
            return
        say(f"{job.cell} {job.suite}: {job.row.name}")
        torch.compiler.reset()  # beyond some shapes it would compile no more
        programs = (*suite.USUAL, *([CHUNKS] if job.suite in COMPILED else []))
        for _ in range(ATTEMPTS):
            found = suite.measure(compiled[job.cell], job.row, programs)
            if (found.others or 0.0) <= DISTURBED:
                break
        yield job, found


if __name__ == "__main__":
    main()
