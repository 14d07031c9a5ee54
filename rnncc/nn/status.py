"""Status: what the operators report of a solve, read only when somebody looks."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from rnncc.planner.choices import SOLVERS


class Solve:
    """How the last call was solved; reading a value waits for the device that computed it.

    Attributes:
        solver: "sequential", "segmented" or "newton".
        segment: steps of a segment; all of them for "sequential".
        sweeps: passes over all segments, 1 for "sequential"; for "newton" its iterations and the
            last pass, which writes the outputs.
        mismatch: the largest between the end of a segment and the start of the next, relative to
            max(1, |state|); for "newton" it is the residual.
        converged: whether the result is within tolerance; only "newton" may say no.
        sequential_from: the step from which one pass over time did the rest, or None.
    """

    def __init__(self, status: Tensor) -> None:
        self._status = status.detach()

    @cached_property
    def _values(self) -> list[float]:
        return self._status.tolist()

    @property
    def solver(self) -> str:
        return SOLVERS[int(self._values[4])]

    @property
    def segment(self) -> int:
        return int(self._values[5])

    @property
    def sweeps(self) -> int:
        return int(self._values[0])

    @property
    def mismatch(self) -> float:
        return self._values[1]

    @property
    def converged(self) -> bool:
        return bool(self._values[2])

    @property
    def sequential_from(self) -> int | None:
        return None if self._values[3] < 0 else int(self._values[3])

    def __repr__(self) -> str:
        rest = self.sequential_from
        return (
            f"<{self.solver}: {self.sweeps} sweep{'s' if self.sweeps != 1 else ''} over segments "
            f"of {self.segment} steps, mismatch {self.mismatch:.2g}"
            f"{'' if self.converged else ', not converged'}"
            f"{'' if rest is None else f', one pass from step {rest} on'}>"
        )
