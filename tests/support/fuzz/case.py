"""Case: a seed -> a random cell, its calls, and all that came of them."""

from __future__ import annotations

import random
import re
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

import rnncc
from rnncc.errors import CellError, ConvergenceError
from rnncc.runtime.cpu import build
from tests.support import emulation_build
from tests.support.emulated import emulated
from tests.support.fuzz import questions
from tests.support.fuzz.calls import (
    RandomCall,
    Setting,
    long_call,
    random_call,
    random_leaves,
    random_setting,
)
from tests.support.fuzz.cells import RandomCell
from tests.support.fuzz.draw import random_cell
from tests.support.fuzz.judge import Question, judge, less_finite
from tests.support.fuzz.layers import by_layer
from tests.support.fuzz.poison import poisoned
from tests.support.fuzz.shrink import shrink
from tests.support.fuzz.widen import SHARE, widened

CALLS = 3
BUDGET, LONG = 4_000, 80_000  # operations x steps of a loop; the last call of some cells is long
REFUSED_NAME = re.compile(
    "has the name of|needs the name|reserved|is the name of|starts with|is not used"
)  # rightly: h - h is 0


@dataclass
class Finding:
    """A disagreement, or a failure.

    Attributes:
        kind: "wrong", "raises", "poisoned" or "less finite".
        what: of the ways to run a cell.
    """

    kind: str
    what: str
    text: str
    cell: RandomCell
    call: RandomCall | None

    @property
    def sort(self) -> tuple[str, str]:
        """Alike for findings of one cause, often."""
        first = self.text.splitlines()[0] if self.kind == "raises" else ""
        error = re.sub(r"'[^']*'|\S*/\S*|\d+", "", first)
        return f"{self.kind} {error}", self.what.split(" = ")[0].split(", cut")[0]

    def as_dict(self) -> dict[str, Any]:
        call = None if self.call is None else self.call.as_dict()
        return {"kind": self.kind, "what": self.what, "text": self.text, "call": call,
                "cell": self.cell.source}  # fmt: skip


@dataclass
class Outcome:
    """What came of a case; `states` counts verdicts, `solvers` are those of the plain calls."""

    seed: str
    cell: RandomCell
    setting: Setting
    findings: list[Finding] = field(default_factory=list)
    states: dict[str, int] = field(default_factory=dict)
    solvers: list[str] = field(default_factory=list)

    def count(self, state: str) -> None:
        self.states[state] = self.states.get(state, 0) + 1


def run_case(
    seed: str,
    cell: RandomCell | None = None,
    call: RandomCall | None = None,
    wide: bool = False,
) -> Outcome:
    """Run the case of a seed.

    Args:
        cell, call: in the place of those that the seed gives.
        wide: every cell has vectors, delays or learned starts, not only some.
    """
    drawn = cell or widened(seed, random_cell(seed), 1.0 if wide else SHARE)
    outcome = Outcome(seed, drawn, random_setting(seed))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rnncc-fuzz-")))
        stack.enter_context(quick_builds(outcome.setting.level))
        if outcome.setting.emulated:
            stack.enter_context(emulated())
        calls = _calls(outcome) if call is None else iter([call])
        _run(outcome, folder, calls)
    return outcome


def shrunk(outcome: Outcome, finding: Finding, seconds: float) -> Finding:
    """A smaller cell and call with a finding of the same sort."""
    found = finding

    def fails(cell: RandomCell, call: RandomCall) -> bool:
        nonlocal found
        alike = [f for f in run_case(outcome.seed, cell, call).findings if f.sort == finding.sort]
        found = alike[0] if alike else found
        return bool(alike)

    call = finding.call or next(_calls(outcome))
    shrink(outcome.cell, call, fails, seconds)
    return found


def report(outcome: Outcome) -> str:
    """All findings, as a person reads them."""
    parts = [
        f"{f.kind}: {f.what}\n{f.text}\n{f.cell.source}call: {f.as_dict()['call']}"
        for f in outcome.findings
    ]
    seed, _, case = outcome.seed.partition("/")
    return "\n".join([*parts, f"Repeat: make fuzz SEED={seed} CASE={case}"])


def _calls(outcome: Outcome) -> Iterator[RandomCall]:
    for i in range(CALLS):
        seed, budget = f"{outcome.seed}/{i}", BUDGET // (4 if outcome.setting.emulated else 1)
        call = random_call(seed, outcome.cell, outcome.setting, budget)
        is_long = i == CALLS - 1 and random.Random(f"long {seed}").random() < 0.06
        yield long_call(call, outcome.cell, LONG) if is_long else call


def _run(outcome: Outcome, folder: Path, calls: Iterator[RandomCall]) -> None:
    cell = outcome.cell
    c = _guarded(outcome, "compile", None, lambda: questions.compiled(cell, folder))
    if c is None:
        return
    for call in calls:
        plain = questions.question(cell, call, random_leaves(cell, call), c)
        state = _ask(outcome, plain)
        for solver in plain.solvers[:1]:
            asked = call.options.get("solver", "auto")
            outcome.solvers.append(solver if solver == asked else f"{asked}: {solver}")
        if state == "raises":
            return  # so do the others
        if state in ("infinite", "unsteady") and "segmented" in plain.solvers:
            _hold_to_one_pass(outcome, plain, c)
        if state == "right":
            for other in _others(outcome, plain, c, folder):
                _ask(outcome, other)


def _hold_to_one_pass(outcome: Outcome, plain: Question, c: rnncc.CompiledCell) -> None:
    """What overflows, or is chaotic, is still as finite in segments as in one pass."""
    kept = {k: v for k, v in plain.call.options.items() if k in ("checkpoint", "reverse")}
    call = replace(plain.call, options={**kept, "solver": "sequential"})
    kernel = partial(questions.by_kernel, outcome.cell, call, c)
    text = _guarded(outcome, "in one pass", call, lambda: less_finite(plain, kernel))
    if text:
        found = Finding("less finite", "call", "\n".join(text), outcome.cell, plain.call)
        outcome.findings.append(found)


def _others(
    outcome: Outcome, plain: Question, c: rnncc.CompiledCell, folder: Path
) -> Iterator[Question]:
    """Other ways to run a call that went well, few of them each time."""
    call, rng = plain.call, random.Random(f"others {plain.call.seed}")
    for share, make in _ways(outcome.cell, plain, c, folder):
        if rng.random() < share:
            made = _guarded(outcome, "another way", call, partial(_listed, make))
            yield from made or []
    if rng.random() < 0.25 and call.form != "inference":
        text = _guarded(outcome, "poison", call, lambda: poisoned(outcome.cell, plain)) or []
        outcome.count("poisoned")
        for t in text:
            outcome.findings.append(Finding("poisoned", "a NaN", t, outcome.cell, call))


def _listed(make: Callable[[], Iterable[Question]]) -> list[Question]:
    return list(make())


def _ways(
    cell: RandomCell, plain: Question, c: rnncc.CompiledCell, folder: Path
) -> list[tuple[float, Callable[[], Any]]]:
    plain_dtype = getattr(torch, plain.call.dtype)  # a half layer rounds what it projects
    return [
        (0.15, lambda: questions.in_chunks(cell, plain, c)),
        (0.06, lambda: questions.as_package(cell, plain, c, folder)),
        (0.03, lambda: questions.with_an_output_more(cell, plain, folder)),
        (0.03, lambda: questions.scaled(cell, plain, folder)),
        (0.12 * (plain.compute == plain_dtype), lambda: [by_layer(cell, plain.call, c)]),
    ]


def _ask(outcome: Outcome, question: Question) -> str:
    """The state of the verdict, which is counted; "raises" if there is none."""
    what, call = question.what, question.call
    verdict = _guarded(outcome, what, call, lambda: _judged(question))
    if verdict is None:
        return "raises"
    state, complaints = verdict
    outcome.count(state)
    if complaints:
        text = "\n".join(complaints)
        outcome.findings.append(Finding("wrong", what, text, outcome.cell, call))
    return str(state)


def _judged(question: Question) -> tuple[str, list[str]]:
    """With "unconverged" where newton says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            verdict = judge(question)
        except (ConvergenceError, UserWarning) as error:
            if "has not converged" in str(error):
                return "unconverged", []
            raise
    return verdict.state, verdict.complaints


def _guarded(outcome: Outcome, what: str, call: RandomCall | None, run: Callable[[], Any]) -> Any:
    """None, and a finding, if it raises."""
    try:
        return run()
    except Exception as error:
        if isinstance(error, CellError) and REFUSED_NAME.search(str(error)):
            outcome.count("refused")
            return None
        lines = traceback.format_exc().strip().splitlines()
        text = f"{type(error).__name__}: {error}\n" + "\n".join(lines[-9:-1])
        outcome.findings.append(Finding("raises", what, text, outcome.cell, call))
        outcome.count("raises")
        return None


@contextmanager
def quick_builds(level: str) -> Iterator[None]:
    """Another optimisation level than -O3, which takes four times as long to compile as -O0.

    The emulation's -O1 takes three times as long.
    """
    usually = ((build, "FLAGS", "-O3"), (emulation_build, "FOR_KERNELS", "-O1"))
    with ExitStack() as stack:
        for module, flags, usual in usually:
            others = type(getattr(module, flags))(
                level if f == usual else f for f in getattr(module, flags)
            )
            stack.enter_context(patch.object(module, flags, others))
        yield
