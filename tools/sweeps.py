"""How many sweeps cells take in hard cases, by the number of segments, and Newton's iterations.

    python tools/sweeps.py [--seeds 5] [--write]

`--write` puts the figures into docs/sweeps.json and docs/sweeps.md.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console

import rnncc
from rnncc.analysis.probe import draw
from rnncc.analysis.sweeps import (
    EARLY,
    NEWTON_LIMIT,
    SEGMENTS,
    TOLERANCE,
    Newton,
    count_newton,
    count_sweeps,
)
from rnncc.lang.loader import find

DOCS = Path(__file__).resolve().parents[1] / "docs"
STEPS, CHANNELS = 1024, 64


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
        weights: params are drawn from U(-weights, weights); None for the cell's inits.
        shift: added to inputs, by name.
        designed: the sweeps that the design gives for SEGMENTS, where it does.
    """

    text: str
    cell: str
    weights: float | None = None
    shift: Mapping[str, float] = field(default_factory=dict)
    designed: tuple[int, ...] | None = None


CASES = (
    Case("GRU, params in U(-1, 1)", "para_gru", 1, designed=(2, 3, 5)),
    Case("GRU, params in U(-3, 3)", "para_gru", 3, designed=(4, 5, 12)),
    Case("GRU, slow gate (bias -3)", "para_gru", 1, {"xz": -3.0}, designed=(5, 6, 7)),
    Case("LSTM, params in U(-1, 1)", "lstm", 1, designed=(3, 4, 7)),
    Case("LSTM with coupled gates, params in U(-3, 3)", "para_lstm", 3, designed=(4, 5, 13)),
    Case("sLSTM, params in U(-1, 1)", "slstm", 1, designed=(3, 3, 5)),
    Case("FitzHugh-Nagumo", "fitzhugh_nagumo", designed=(15, 27, 83)),
    Case("Elman, bistable, params in U(-3, 3)", "elman", 3, designed=(16, 32, 128)),
)


@dataclass(frozen=True)
class Row:
    """The counts of a case: an entry for each seed.

    Attributes:
        sweeps: by the number of segments.
    """

    case: Case
    newton: tuple[Newton, ...]
    sweeps: dict[int, tuple[int, ...]]

    @property
    def medians(self) -> tuple[float, ...]:
        return tuple(statistics.median(counts) for counts in self.sweeps.values())

    @property
    def more(self) -> list[str]:
        """Where the median is above the design's figure."""
        rows = zip(SEGMENTS, self.medians, self.case.designed or self.medians, strict=True)
        return [
            f"{self.case.text}, {segments} segments: {median:g} against {designed}"
            for segments, median, designed in rows
            if median > designed
        ]

    def data(self) -> dict[str, Any]:
        errors = [newton.error if math.isfinite(newton.error) else None for newton in self.newton]
        return {
            "case": self.case.text,
            "cell": self.case.cell,
            "weights": self.case.weights,
            "shift": dict(self.case.shift),
            "newton": {
                "iterations": [newton.iterations for newton in self.newton],
                f"error_after_{EARLY}": errors,
            },
            "sweeps": {str(segments): list(counts) for segments, counts in self.sweeps.items()},
            "designed": self.case.designed and list(self.case.designed),
        }


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="Draws a row.")
@click.option("--write", is_flag=True, help="Write docs/sweeps.json and docs/sweeps.md.")
def main(seeds: int, write: bool) -> None:
    """Count sweeps for the design's cases; docs/cells.md has each shipped cell."""
    with Console(stderr=True).status("counting") as status:
        rows = count(CASES, seeds, lambda text: status.update(f"counting: {text}"))
    text = table(rows)
    click.echo(text)
    click.echo(more_text(rows))
    if write:
        head = {"steps": STEPS, "channels": CHANNELS, "tolerance": TOLERANCE, "seeds": seeds}
        found = {**head, "newton_limit": NEWTON_LIMIT, "rows": [row.data() for row in rows]}
        (DOCS / "sweeps.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        (DOCS / "sweeps.md").write_text(page(text, seeds), encoding="utf-8")


def count(wanted: Sequence[Case], seeds: int, say: Callable[[str], None]) -> list[Row]:
    """Run every case."""
    rows = []
    for case in wanted:
        say(case.text)
        compiled = rnncc.compile(find(case.cell))
        drawn = [draw(compiled, STEPS, CHANNELS, case.weights, seed) for seed in range(seeds)]
        for arguments in drawn:
            for name, shift in case.shift.items():
                arguments[name] += shift
        sweeps = {
            segments: tuple(count_sweeps(compiled, a, segments).sweeps for a in drawn)
            for segments in SEGMENTS
        }
        rows.append(Row(case, tuple(count_newton(compiled, a) for a in drawn), sweeps))
    return rows


# --- as text ---------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> str:
    """In Markdown."""
    heads = ["", "Newton", *(f"{segments} segments" for segments in SEGMENTS), "design"]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        designed = ", ".join(map(str, row.case.designed or ()))
        counts = [_range(counts) for counts in row.sweeps.values()]
        lines.append([row.case.text, _newton(row.newton), *counts, designed])
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |"
        for line in lines
    )


def _range(counts: Sequence[int]) -> str:
    """The median, and the fewest and most where they differ."""
    median = f"{statistics.median(counts):g}"
    return median if len(set(counts)) == 1 else f"{median} ({min(counts)}-{max(counts)})"


def _newton(found: Sequence[Newton]) -> str:
    """Iterations in the middle of all draws, and the error that goes with them."""
    ranked = sorted(found, key=lambda n: (n.iterations or math.inf, n.diverges, n.error))
    middle = ranked[len(ranked) // 2]
    return f"{middle} ({middle.error:.0e})"


def more_text(rows: Sequence[Row]) -> str:
    """Where there are more sweeps than designed."""
    more = [line for row in rows for line in row.more]
    return "\n".join(["More than designed:", *more] if more else ["Nowhere more than designed."])


PAGE = """\
# Sweeps

The number of sweeps over all segments until neighbours agree to {tolerance:g}, in float64, with
{steps} steps, {channels} channels and standard normal inputs: the median of {seeds} draws, with the
fewest and the most in parentheses. As many sweeps as segments always suffice, for every cell.
*Newton* is the iteration of DEER and ParaRNN over all steps at once, from h = f(0, x), at most
{limit} times; in parentheses its error after {early} iterations. *design* is the number that rnncc
was designed to need, at 16, 32 and 128 segments.

{table}

Every draw is in [sweeps.json](sweeps.json); `python tools/sweeps.py --write` recounts them.
[The cells](cells.md) has the sweeps of every shipped cell with its params at their init.

FitzHugh-Nagumo runs on a limit cycle and never forgets its phase. There, and wherever there are
about as many sweeps as segments, one pass over time is the right solver; segments give the right
answer all the same.

## The verdicts of `rnncc check CELL --probe`

The probe draws inputs that are typical of the cell, and params from their init. It counts the same
sweeps, and follows small differences between states by the largest Lyapunov exponent per step,
from the products of the emitted Jacobians. The exponent is above 0 if a difference grows more than
T times over all T steps, below 0 if it fades to {forgotten:g}, else 0. The verdict is the first of
these that holds:

- **unstable**: states don't stay finite; or an exponent is above 0, and the states of the last
  quarter are {growing} times those of the first half.
- **spiking**: the cell contains a `spike`, and the Jacobian says nothing about its jumps.
- **undecided**: the Jacobian itself does not stay finite, so there is no exponent.
- **chaotic**: the exponent of a channel is above 0.
- **limit cycle**: the cell is not affine, and with its inputs held at their means a channel
  oscillates forever: after {held} steps, over as many more, its exponent is 0, it comes back
  {returns} times or more, and its swing fades by less than {fades:.0%}.
- **marginal**: the exponent of a channel is 0. It remembers, or integrates.
- **multistable**: all exponents are below 0, but two solves from different initial states (the
  cell's own, and the final state of the neighbouring channel) still differ after the last step.
- **contracting**: those two solves meet, after the number of steps that the probe prints.
"""


def page(rows: str, seeds: int) -> str:
    """docs/sweeps.md."""
    from rnncc.analysis import behaviour

    return PAGE.format(
        tolerance=TOLERANCE,
        steps=STEPS,
        channels=CHANNELS,
        seeds=seeds,
        limit=NEWTON_LIMIT,
        early=EARLY,
        table=rows,
        growing=behaviour.GROWING,
        held=behaviour.HELD_STEPS // 2,
        returns=behaviour.RETURNS,
        fades=1 - behaviour.UNDAMPED,
        forgotten=behaviour.FORGOTTEN,
    )


if __name__ == "__main__":
    main()
