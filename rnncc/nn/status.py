"""Status: the operators' report of a solve, read from the device only on demand."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from rnncc.ir.abi import NO_STEP, STATUS
from rnncc.ir.choices import SOLVERS


class Solve:
    """How the last call was solved; reading a value waits for the device that computed it.

    Attributes:
        solver: "sequential", "segmented" or "newton".
        segment: steps of a segment; all of them for "sequential".
        sweeps: passes over all segments, 1 for "sequential"; for "newton" its iterations and the
            last pass, which writes the outputs.
        mismatch: how much the last scan would still change an initial state of a segment, at most,
            relative to the state's own size; for "newton" the residual, relative to
            max(1, |state|) or, if that is more, to the state's largest size in the sequence.
        converged: whether the result is within tolerance; False only for "newton".
        sequential_from: the step from which one pass over time solved the rest, or None.
    """

    def __init__(self, status: Tensor) -> None:
        self._status = status

    @cached_property
    def _values(self) -> dict[str, float]:
        return read_status(self._status.detach())

    @property
    def solver(self) -> str:
        return SOLVERS[int(self._values["solver"])]

    @property
    def segment(self) -> int:
        return int(self._values["segment"])

    @property
    def sweeps(self) -> int:
        return int(self._values["sweeps"])

    @property
    def mismatch(self) -> float:
        return self._values["mismatch"]

    @property
    def converged(self) -> bool:
        return bool(self._values["converged"])

    @property
    def sequential_from(self) -> int | None:
        step = int(self._values["sequential_from"])
        return None if step == NO_STEP else step

    def __repr__(self) -> str:
        rest = self.sequential_from
        return (
            f"<{self.solver}: {self.sweeps} sweep{'s' if self.sweeps != 1 else ''} over segments "
            f"of {self.segment} steps, mismatch {self.mismatch:.2g}"
            f"{'' if self.converged else ', not converged'}"
            f"{'' if rest is None else f', one pass from step {rest} on'}>"
        )


_NAMES = [field.name for field in STATUS.fields]


def read_status(status: Tensor) -> dict[str, float]:
    """The numbers of the struct Status by name."""
    return dict(zip(_NAMES, status.tolist(), strict=True))


def write_status(status: Tensor, **values: float) -> None:
    """Change some of them."""
    for name, value in values.items():
        status[_NAMES.index(name)].fill_(value)


def worst_status(each: Tensor) -> Tensor:
    """Of several calls [M, ...] that of the one with the largest mismatch."""
    return each[each[:, _NAMES.index("mismatch")].argmax()]
