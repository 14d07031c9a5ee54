"""Fuzz: random cells of the whole language, by all solvers and options, against a plain loop.

    make fuzz SECONDS=600            # SEED=..., JOBS=..., CELLS=...
    make fuzz SEED=20261127 CASE=17  # one case of a run once more
    make fuzz ARGS=--wide            # only cells with vectors, delays or learned starts

A case is a cell, three calls of it, and other ways to make some of them: in chunks, as a layer,
from the generated package, with one more output, at another scale, with a NaN. The seed and the
number of a case give all of it.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import resource
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 600.0
PROGRESS = 20.0  # seconds between lines
PATIENCE = 900.0  # seconds that a case may take on a busy machine
LIFE = 150  # cases of a worker; a process can't unload its kernels
SHRINK = 45.0  # seconds for the first finding of a sort
THREADS = 2  # that the planner sees: of a process when it first uses rnncc


def main() -> int:
    options = _parser().parse_args()
    if options.worker:
        return work(options.seed, options.wide)
    run = Run(options)
    try:
        run.all()
        code = int(bool(run.findings))
    except KeyboardInterrupt:
        code = 130
    run.end()
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fuzz", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--seconds", type=float, default=SECONDS, metavar="N", help=f"how long [{SECONDS:.0f}]")
    add("--cells", type=int, default=0, metavar="N", help="end after so many cells")
    add("--seed", default="", help="of the run; drawn and printed by default")
    add("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes at once")
    add("--case", type=int, action="append", metavar="I", help="only this case; repeatable")
    add("--wide", action="store_true", help="only cells with vectors, delays or learned starts")
    add("--json", action="store_true", help="print the results as JSON; the rest goes to stderr")
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser


# --- the process that runs cases ---------------------------------------------------------------


def work(seed: str, wide: bool) -> int:
    """Run the cases whose numbers come in, a line each; answer with a line of JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what anything prints is no answer
    import torch

    torch.set_num_threads(THREADS)
    from tests.support.fuzz.case import run_case, shrunk

    seen: set[tuple[str, str]] = set()
    for line in sys.stdin:
        outcome = run_case(f"{seed}/{int(line)}", wide=wide)
        found = []
        for finding in outcome.findings:
            smaller = finding
            if finding.sort not in seen and finding.kind != "poisoned":
                smaller = shrunk(outcome, finding, SHRINK)
            seen.add(finding.sort)
            found.append(
                {
                    **finding.as_dict(),
                    "smaller": smaller.as_dict() if smaller is not finding else None,
                }
            )
        setting = [f"{name} {value}" for name, value in vars(outcome.setting).items()]
        setting += [f"states {len(outcome.cell.states)}", *(f"solver {s}" for s in outcome.solvers)]
        answers.write(
            json.dumps({"findings": found, "verdicts": outcome.states, "setting": setting}) + "\n"
        )
        answers.flush()
    return 0


class Worker:
    """A process for cases, begun anew after a while or when one of them ends it."""

    def __init__(self, seed: str, cache: str, wide: bool = False) -> None:
        self.seed, self.left, self.wide = seed, 0, wide
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self.env = {**os.environ, "PYTHONPATH": paths, "RNNCC_CACHE_DIR": cache}
        self.process: subprocess.Popen[str] | None = None

    def run(self, case: int) -> dict[str, Any]:
        process = self._process()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(f"{case}\n")
            process.stdin.flush()
        except BrokenPipeError:
            return self._died("before it began")
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
        line = process.stdout.readline() if ready else ""
        if line:
            self.left -= 1
            found: dict[str, Any] = json.loads(line)
            return found
        return self._died("died" if ready else f"took more than {PATIENCE:.0f} s")

    def _process(self) -> subprocess.Popen[str]:
        if self.process is None or self.left <= 0:
            self.end()
            command = [sys.executable, __file__, "--worker", "--seed", self.seed]
            command += ["--wide"] if self.wide else []
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, text=True, env=self.env
            )
            self.left = LIFE
        return self.process

    def _died(self, how: str) -> dict[str, Any]:
        code = None
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self.process.wait(timeout=1)
        self.end()
        text = f"the process {how}; its exit status: {code}"
        return {
            "findings": [{"kind": "dies", "what": "case", "text": text}],
            "verdicts": {"dies": 1},
        }

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


# --- the run -----------------------------------------------------------------------------------


@dataclass
class Run:
    """All cases, over several workers."""

    options: argparse.Namespace
    findings: list[dict[str, Any]] = field(default_factory=list)
    verdicts: collections.Counter[str] = field(default_factory=collections.Counter)
    settings: collections.Counter[str] = field(default_factory=collections.Counter)
    done: int = 0
    stopped: bool = False

    def __post_init__(self) -> None:
        self.seed = self.options.seed or f"{secrets.randbelow(10**6)}"
        self.began, self.lock, self.given = time.monotonic(), threading.Lock(), 0
        self.out: IO[str] = sys.stderr if self.options.json else sys.stdout
        self.cache = tempfile.TemporaryDirectory(prefix="rnncc-fuzz-kernels-")
        self.workers = [
            Worker(self.seed, self.cache.name, self.options.wide) for _ in range(self.options.jobs)
        ]

    def say(self, text: str) -> None:
        print(text, file=self.out, flush=True)

    def all(self) -> None:
        self.say(f"fuzz: seed {self.seed}, {self.options.jobs} at once")
        threads = [
            threading.Thread(target=self._serve, args=(w,), daemon=True) for w in self.workers
        ]
        for thread in threads:
            thread.start()
        last = time.monotonic()
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.2)
            if time.monotonic() > last + PROGRESS:
                self.say(self.progress())
                last = time.monotonic()

    def _serve(self, worker: Worker) -> None:
        while (case := self._next()) is not None:
            answer = worker.run(case)
            with self.lock:
                if self.stopped:  # which ended the worker
                    return
                self.done += 1
                self.verdicts.update(answer["verdicts"])
                self.settings.update(answer.get("setting", ()))
                for finding in answer["findings"]:
                    self._found(case, finding)

    def _next(self) -> int | None:
        with self.lock:
            cases, case = self.options.case, self.given
            most = len(cases) if cases else self.options.cells or 10**9
            late = time.monotonic() > self.began + self.options.seconds
            if self.stopped or case >= most or (late and not cases):
                return None
            self.given += 1
            return int(cases[case]) if cases else case

    def _found(self, case: int, finding: dict[str, Any]) -> None:
        self.findings.append({"case": case, **finding})
        smaller = finding.get("smaller")
        self.say(
            f"\n--- disagreement {len(self.findings)}: case {case}, {finding['kind']}: "
            f"{finding['what']}"
        )
        self._show(finding)
        if smaller:
            self.say(f"--- smaller: {smaller['what']}")
            self._show(smaller)
        wide = " ARGS=--wide" if self.options.wide else ""
        self.say(f"--- once more: make fuzz SEED={self.seed} CASE={case}{wide}\n")

    def _show(self, finding: dict[str, Any]) -> None:
        if "cell" in finding:
            self.say(finding["cell"].rstrip())
            self.say(f"call: {finding['call']}")
        self.say(finding["text"])

    def progress(self) -> str:
        seconds = time.monotonic() - self.began
        runs = sum(self.verdicts.values())
        parts = ", ".join(f"{count} {name}" for name, count in sorted(self.verdicts.items()))
        rate = 60 * self.done / max(seconds, 1e-3)
        return (
            f"fuzz: {seconds:.0f} s, {self.done} cells, {runs} runs ({parts}), "
            f"{len(self.findings)} disagreements, {rate:.0f} cells a minute"
        )

    def data(self) -> dict[str, Any]:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            "seed": self.seed,
            "seconds": round(time.monotonic() - self.began, 1),
            "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
            "cells": self.done,
            "verdicts": dict(self.verdicts),
            "settings": dict(sorted(self.settings.items())),
            "findings": self.findings,
        }

    def end(self) -> None:
        """Say what was found, also of a run that was stopped."""
        with self.lock:
            self.stopped = True
        for worker in self.workers:
            worker.end()
        self.cache.cleanup()
        self.say(self.progress())
        if self.options.json:
            print(json.dumps(self.data()), flush=True)


def _interrupted(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupted)
    sys.exit(main())
