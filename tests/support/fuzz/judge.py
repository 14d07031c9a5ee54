"""Judge: what a kernel returned against a loop over the trees, within docs/numerics.md."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from tests.support.fuzz.calls import RandomCall, with_gradients
from tests.support.fuzz.loop import Probe
from tests.support.tolerances import TOLERANCES, limits

Results = dict[str, Tensor]
PROBES = 4
MOST_LIMITS = 30.0  # beyond it a step-by-step computation says nothing
UNITS = {torch.float32: 6e-8, torch.float64: 1.2e-16}  # of rounding
NEAR = {torch.float32: 1e-4, torch.float64: 1e-11}  # to a jump or kink


@dataclass
class Question:
    """One call, and the loop that says what is right.

    Attributes:
        what: of the call, in words.
        loop: leaves -> results.
        kernel: leaves -> results.
        solvers: those that took the kernel's calls.
    """

    what: str
    call: RandomCall
    leaves: Results
    loop: Callable[[Results, Probe | None], Results]
    kernel: Callable[[Results], Results]
    solvers: list[str] = field(default_factory=list)
    _expected: dict[str, Results] = field(default_factory=dict)

    @property
    def compute(self) -> torch.dtype:
        return torch.float64 if self.call.dtype == "float64" else torch.float32

    def wide(self, noise: int | None = None) -> Results:
        """The leaves in float64, disturbed in their last places."""
        if noise is None:
            return {n: t.double() for n, t in self.leaves.items()}
        generator = torch.Generator().manual_seed(noise)
        size = 2e-7 if self.compute == torch.float32 else 1e-15
        return {
            n: t.double()
            * (1 + size * torch.randn(t.shape, generator=generator, dtype=torch.float64))
            for n, t in self.leaves.items()
        }

    def by_loop(self, leaves: Results, probe: Probe | None = None) -> Results:
        return with_gradients(lambda own: self.loop(own, probe), leaves, self.call)

    @property
    def expected(self) -> Results:
        if not self._expected:
            self._expected["float64"] = self.by_loop(self.wide())
        return self._expected["float64"]

    @property
    def expected_results(self) -> list[str]:
        """The names of all but the gradients, in order."""
        return [n for n in self.expected if not n.startswith("gradient")]

    def alike(self, what: str, kernel: Callable[[Results], Results]) -> Question:
        """Another way to the same results."""
        return Question(
            what, self.call, self.leaves, self.loop, kernel, self.solvers, self._expected
        )


@dataclass
class Verdict:
    """What came of a question.

    Attributes:
        state: "right", "wrong", "unsteady" (a loop misses the limits too), "infinite" (the loop's
            results aren't finite; what comes before is right).
    """

    state: str
    complaints: list[str] = field(default_factory=list)


def judge(question: Question) -> Verdict:
    """Run both and compare.

    Raises:
        Exception: whatever the kernel raises.
    """
    whole = question.expected
    got = with_gradients(question.kernel, question.leaves, question.call)
    if got.keys() != whole.keys():
        return Verdict("wrong", [f"got {sorted(got)}, expected {sorted(whole)}"])
    finite = all(whole[n].isfinite().all() for n in question.expected_results)
    held = list(whole) if finite else held_till_infinite(question)
    seen = (lambda found: found) if finite else partial(until_infinite, question)
    got, expected = seen(got), seen(whole)
    errors = {n: error_of(n, got[n], expected[n], got[n].dtype) for n in held}
    over = {n: got[n].dtype for n, error in errors.items() if error > 1}
    if not over:
        return Verdict("right" if finite else "infinite")
    loops = [seen(loop) for loop in _uncertain_loops(question)]
    theirs = {
        n: max(error_of(n, loop[n], expected[n], dtype) for loop in loops)
        for n, dtype in over.items()
    }
    wrong = [n for n in over if theirs[n] <= MOST_LIMITS and errors[n] > max(1.0, 4 * theirs[n])]
    if not wrong or _is_near_a_jump(question):
        return Verdict("unsteady")
    return Verdict("wrong", [complaint(n, got[n], expected[n], theirs[n]) for n in wrong])


def held_till_infinite(question: Question) -> list[str]:
    """The results with a step for each step, if time has one order."""
    call = question.call
    if call.lengths is not None or call.cu_seqlens is not None or call.reset:
        return []
    return [n for n in question.expected_results if not n.startswith("last ")]


def until_infinite(question: Question, results: Results) -> Results:
    """NaN from the first step on at which a row of the loop's results isn't finite."""
    names, found = held_till_infinite(question), dict(results)
    if names:
        time = len(question.call.leading)
        fine = torch.stack(
            [question.expected[n].isfinite().flatten(time + 1).all(-1) for n in names]
        ).all(0)
        is_reverse = bool(question.call.options.get("reverse"))
        steps = fine.flip(-1) if is_reverse else fine
        before = steps.long().cumprod(-1).bool()
        before = before.flip(-1) if is_reverse else before
        for n in names:
            behind = (1,) * (results[n].dim() - before.dim())
            found[n] = results[n].where(before.reshape(*before.shape, *behind), torch.nan)
    return found


def error_of(name: str, got: Tensor, expected: Tensor, dtype: torch.dtype) -> float:
    """The largest error, in limits of a dtype; 0 for a gradient that isn't finite."""
    if got.shape != expected.shape:
        return math.inf
    if name.startswith("gradient") and not expected.isfinite().all():
        return 0.0
    error, limit = _error_and_limit(name, got, expected, dtype)
    return float((error / limit).max()) if error.numel() else 0.0


def _error_and_limit(
    name: str, got: Tensor, expected: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    a, e, info = got.double(), expected.double(), torch.finfo(dtype)
    e = torch.where(e.abs() > info.max, torch.copysign(torch.tensor(math.inf).double(), e), e)
    tiny = info.smallest_normal * info.eps
    same = (a == e) | (a.isnan() & e.isnan()) | ((a - e).abs() <= tiny)
    error = torch.where(same, 0.0, (a - e).abs()).nan_to_num(math.inf, math.inf)
    tolerance = TOLERANCES[dtype]
    limit = limits(e, tolerance, name.startswith("gradient"))
    # below the normal numbers a step rounds to a multiple of the smallest, not to so many digits
    return error, limit.clamp(min=tolerance.gradient * info.smallest_normal)


def _uncertain_loops(question: Question) -> list[Results]:
    """A float32 loop, and rough loops that are given what differs in the last places."""
    unit = UNITS[question.compute]
    loops = [
        question.by_loop(question.wide(noise), Probe(unit=unit * (noise > 0), seed=noise))
        for noise in (range(PROBES) if question.call.steps < 1000 else (1,))
    ]
    if question.compute == torch.float32:
        loops.append(question.by_loop({n: t.float() for n, t in question.leaves.items()}))
    return loops


def _is_near_a_jump(question: Question) -> bool:
    probe = Probe(margin=1.0)
    question.by_loop(question.wide(), probe)
    return probe.margin is not None and probe.margin < NEAR[question.compute]


def complaint(name: str, got: Tensor, expected: Tensor, theirs: float) -> str:
    if got.shape != expected.shape:
        return f"{name}: shape {list(got.shape)}, expected {list(expected.shape)}"
    error, limit = _error_and_limit(name, got, expected, got.dtype)
    where = torch.unravel_index((error / limit).argmax(), error.shape)
    at = [int(i) for i in where]
    over = int((error > limit).sum())
    return (
        f"{name} {at}: got {float(got[where]):.9g}, expected {float(expected[where]):.9g}; error "
        f"{float(error[where]):.3g}, limit {float(limit[where]):.3g}; a loop misses it by "
        f"{theirs:.2g} limits; {over} of {error.numel()} over"
    )


def less_finite(question: Question, one_pass: Callable[[Results], Results]) -> list[str]:
    """The results that aren't finite where those of one pass over time are."""
    expected = with_gradients(one_pass, question.leaves, question.call)
    got = with_gradients(question.kernel, question.leaves, question.call)
    bad = {n: int((e.isfinite() & ~got[n].isfinite()).sum()) for n, e in expected.items()}
    return [
        f"{n}: {count} entries aren't finite, but are in one pass"
        for n, count in bad.items()
        if count
    ]
