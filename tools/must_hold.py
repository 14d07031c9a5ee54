"""The speed on a CPU that must hold: measures every bound, and exits with 1 if one fails.

    python tools/must_hold.py                     all of them, about four minutes
    python tools/must_hold.py copy step           some groups; "plans 8x2048" those rows of a group
    python tools/must_hold.py --list              what there is, without measuring

Nothing else may run meanwhile. para_gru, float32, 2 threads; medians of runs in turns.
"""

from __future__ import annotations

import json
import runpy
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch
from campaign.record import write_atomically

import rnncc
from rnncc.bench import cpu, suite, workload
from rnncc.bench.programs import (
    AT_BASE,
    CHUNKS,
    COPY,
    DECODER,
    EAGER,
    LINEAR,
    RECURRENCE,
    RNNCC,
    Programs,
    function_run,
)
from rnncc.bench.rows import (
    ALIKE,
    BASE,
    BOTH,
    FORWARD,
    FUNCTION,
    LARGE,
    LAYER,
    ONE_STEP,
    PACKED,
    SINGLE,
    STEP,
    Row,
    rows,
)
from rnncc.bench.timing import interleave, quickest
from rnncc.bench.watch import Watch

CELL, THREADS = "para_gru", 2
ATTEMPTS, DISTURBED = 3, 0.05  # again where other processes took more of the processors
SLOW, QUICK = 4.0, 1.0  # seconds for a row with a rival that takes long, and for one of many plans
DEMO, SAMPLED = "sample", (1, 400, 128)  # what `make demo` writes: bytes by a model of this width
BYTE_MODEL = Path(__file__).parents[1] / "examples" / "byte_model.py"
SHORTEST, KEPT_PLANS = 64, 3  # steps of a segment; plans that are timed with `auto`, the fastest
PLANNED: tuple[tuple[int, int, int], ...] = (
    *[(8, 2048, 256), (16, 512, 512), (2, 2048, 1024), (8, 2048, 255), (32, 128, 528)],
    *[(1, 16384, 64), (1, 16384, 16), (4, 8192, 8), (1, 2048, 16), (1, 131072, 4)],
    *[(32, 512, 64), (8, 2048, 16), (64, 1024, 4), (64, 512, 64), (1, 4096, 64)],
    *[(1, 16384, 256), (4, 2048, 1024), (2, 8192, 64), (1, 2048, 4096), (1, 64, 64)],
)

Times = Mapping[str, float]


class Figure(NamedTuple):
    """A number made of times: what it says, the programs that are timed, and the number."""

    text: str
    programs: tuple[str, ...]
    of: Callable[[Row, Times], float]


class Bound(NamedTuple):
    """A figure at a row, and the least or the most that it may be."""

    group: str
    row: Row
    figure: Figure
    limit: float
    least: bool = False

    @property
    def name(self) -> str:
        """Also what an argument picks it by."""
        return f"{self.group}: {self.row.name if self.row.size else self.row.work}"

    def holds(self, measured: float) -> bool:
        """Whether a measured figure is within it."""
        return measured >= self.limit if self.least else measured <= self.limit


class Held(NamedTuple):
    """A bound with what was measured, or the reason that nothing was.

    `others`: the share of the processors' time that other processes took.
    """

    bound: Bound
    measured: float | None
    seconds: dict[str, float]
    others: float | None = None
    reason: str = ""

    @property
    def verdict(self) -> str:
        """For people."""
        if self.measured is None:
            return "skipped"
        return "ok" if self.bound.holds(self.measured) else "FAILS"


# --- figures ---------------------------------------------------------------------------------


def share(over: str, *under: str) -> Figure:
    """The time of one as a part of that of others together."""
    text = f"time / {' + '.join(under)}" if over == RNNCC else f"{over} / {' + '.join(under)}"
    return Figure(text, (over, *under), lambda _, t: t[over] / sum(t[name] for name in under))


def times_as_fast(rival: str) -> Figure:
    """How many times faster than a rival."""
    return Figure(f"times as fast as {rival}", (RNNCC, rival), lambda _, t: t[rival] / t[RNNCC])


def beyond(over: str, under: str) -> Figure:
    """Microseconds more than another."""
    return Figure(f"us, {over} - {under}", (over, under), lambda _, t: (t[over] - t[under]) * 1e6)


MICROSECONDS = Figure("us", (RNNCC,), lambda _, t: t[RNNCC] * 1e6)
BYTES_PER_SECOND = Figure("bytes per second", (DEMO,), lambda row, t: row.shape[1] / t[DEMO])
PER_ELEMENT = Figure(
    "time per element / that at 8x2048x256",
    (RNNCC, AT_BASE),
    lambda row, t: t[RNNCC] / row.size / (t[AT_BASE] / Row("", BASE, "", "").size),
)
REGRET = Figure(
    "auto / best forced plan",
    (RNNCC,),
    lambda _, t: t[RNNCC] / min(seconds for name, seconds in t.items() if name != RNNCC),
)


# --- bounds ----------------------------------------------------------------------------------


def _of(
    group: str, work: str, limits: Mapping[tuple[tuple[int, int, int], str], float], figure: Figure
) -> list[Bound]:
    return [
        Bound(group, Row(work, shape, SINGLE, direction), figure, limit)
        for (shape, direction), limit in limits.items()
    ]


N128, N512 = ONE_STEP
BOUNDS: tuple[Bound, ...] = (
    *(Bound("elements", row, PER_ELEMENT, 1.35) for row in rows(FUNCTION, ALIKE)),
    *(Bound("packed", row, PER_ELEMENT, 1.35) for row in rows(PACKED, ALIKE)),
    Bound("chunks", Row(FUNCTION, LARGE, SINGLE, FORWARD), times_as_fast(CHUNKS), 7, least=True),
    Bound("chunks", Row(FUNCTION, LARGE, SINGLE, BOTH), times_as_fast(CHUNKS), 6, least=True),
    *_of("copy", FUNCTION, {(BASE, FORWARD): 1.6, (BASE, BOTH): 2.3}, share(RNNCC, COPY)),
    *_of("copy", FUNCTION, {(LARGE, FORWARD): 2.2, (LARGE, BOTH): 2.5}, share(RNNCC, COPY)),
    *_of("step", STEP, {(N128, FORWARD): 0.75, (N512, FORWARD): 1.0}, share(RNNCC, EAGER)),
    *_of("decoder", STEP, {(N128, FORWARD): 8, (N512, FORWARD): 8}, beyond(DECODER, LINEAR)),
    *_of("call", FUNCTION, {(N128, FORWARD): 15, (N128, BOTH): 130}, MICROSECONDS),
    Bound("demo", Row(DEMO, SAMPLED, SINGLE, FORWARD), BYTES_PER_SECOND, 8000, least=True),
    *_of("layer", LAYER, {(BASE, FORWARD): 0.85}, share(RNNCC, LINEAR, RECURRENCE)),
    *_of("layer", LAYER, {(BASE, BOTH): 1.0}, share(RNNCC, LINEAR)),
    *(Bound("plans", row, REGRET, 1.2) for row in rows(FUNCTION, PLANNED)),
)
MEDIANS = {"plans": 1.05}  # of all rows of a group
GROUPS = tuple(dict.fromkeys(bound.group for bound in BOUNDS))


def picked(words: Sequence[str]) -> list[Bound]:
    """The bounds of the groups that are named, of those rows whose names hold another word.

    Raises:
        click.UsageError: there are none.
    """
    groups = [word for word in words if word in GROUPS] or GROUPS
    parts = [word for word in words if word not in GROUPS]
    found = [
        bound
        for bound in BOUNDS
        if bound.group in groups and (not parts or any(part in bound.name for part in parts))
    ]
    if not found:
        raise click.UsageError(
            f"no bound is named by {' '.join(words)!r}, expected some of {', '.join(GROUPS)}, or a "
            "part of a row's name.\nFix: --list shows all"
        )
    return found


# --- measuring -------------------------------------------------------------------------------


def measure(compiled: rnncc.CompiledCell, bounds: Sequence[Bound]) -> Iterator[Held]:
    """Each bound, then the medians."""
    figures: dict[str, float | None] = {}
    for bound in bounds:
        held = _measured(compiled, bound)
        figures[bound.name] = held.measured
        yield held
    yield from medians(figures)


def medians(figures: Mapping[str, float | None]) -> Iterator[Held]:
    """The bounds on medians of groups, from what was measured by the names of the rows' bounds."""
    for group, limit in MEDIANS.items():
        own = [b for b in BOUNDS if b.group == group]
        found = [figure for b in own if (figure := figures.get(b.name)) is not None]
        if found:
            row = Row(f"median of {len(found)} rows", (0, 0, 0), "", "")
            yield Held(Bound(group, row, own[0].figure, limit), statistics.median(found), {})


def _measured(compiled: rnncc.CompiledCell, bound: Bound) -> Held:
    plans: Programs = _plans(compiled, bound.row) if bound.figure is REGRET else {}
    wanted = tuple(dict.fromkeys((*bound.figure.programs, *plans)))
    budget = SLOW if CHUNKS in wanted else QUICK if plans else suite.SECONDS
    for _ in range(ATTEMPTS):
        if bound.row.work == DEMO:
            found = sampled(compiled, bound.row)
        else:
            found = suite.measure(compiled, bound.row, wanted, budget, plans)
        if (found.others or 0.0) <= DISTURBED:
            break
    missing = [name for name in wanted if name not in found.seconds]
    if missing:
        return Held(bound, None, {}, reason=found.skipped[missing[0]])
    seconds = dict(found.seconds)
    return Held(bound, bound.figure.of(bound.row, seconds), seconds, found.others)


def sampled(compiled: rnncc.CompiledCell, row: Row) -> suite.Found:
    """The sampling of `make demo`, by a model that wasn't trained."""
    example, (_, length, width) = runpy.run_path(str(BYTE_MODEL)), row.shape
    model = example["ByteModel"](width, 2, compiled.layer)
    generator, watch = torch.Generator().manual_seed(0), Watch()
    run = partial(example["write_on"], model, b"def ", length, generator)
    times = interleave({DEMO: run}, suite.SECONDS)[DEMO]
    return suite.Found(row, {DEMO: statistics.median(times)}, {}, len(times), 0, watch.others())


def _plans(compiled: rnncc.CompiledCell, row: Row) -> Programs:
    """The fastest of the plans that can be forced, by a quick look at all of them; and `auto`.

    All of them on the same tensors, whose places in memory are worth some percent.
    """
    steps = row.shape[1]
    segments = [steps >> n for n in range(1, 12) if steps >> n >= SHORTEST]
    options: dict[str, dict[str, Any]] = {"one pass": {"solver": "sequential"}}
    options |= {f"segments of {k}": {"solver": "segmented", "segment": k} for k in segments}
    arguments = workload.random_arguments(compiled.spec, row.shape)
    made = {n: partial(function_run, compiled, row, arguments, **of) for n, of in options.items()}
    with torch.set_grad_enabled(row.direction == BOTH):
        fastest = quickest({name: make() for name, make in made.items()}, KEPT_PLANS)
    return {RNNCC: partial(function_run, compiled, row, arguments), **{n: made[n] for n in fastest}}


# --- the command -----------------------------------------------------------------------------


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--list", "only_list", is_flag=True, help="Only say what is held.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--merge", type=click.Path(path_type=Path), help="Put the results into this file.")
@click.argument("words", nargs=-1)
def main(only_list: bool, as_json: bool, merge: Path | None, words: tuple[str, ...]) -> None:
    """Measure the bounds of the groups and rows that are named, or all of them."""
    bounds = picked(words)
    if only_list:
        for bound in bounds:
            click.echo(f"{bound.name}: {limit_text(bound)} {bound.figure.text}")
        return
    cpu.use_threads(THREADS)
    compiled, start, helds = rnncc.compile(CELL), time.perf_counter(), []
    for held in measure(compiled, bounds):
        helds.append(held)
        if not as_json:
            click.echo(line(held))
    seconds = time.perf_counter() - start
    head = {"cell": CELL, "machine": cpu.machine(), "seconds": seconds}
    found = {**head, "bounds": [data(held) for held in helds]}
    if merge:
        merge_into(merge, found)
    if as_json:
        click.echo(json.dumps(found, indent=1))
    else:
        click.echo(f"{summary(helds)}; {seconds:.0f} s, {torch.get_num_threads()} threads")
    sys.exit(any(held.verdict == "FAILS" for held in helds))


def merge_into(file: Path, found: dict[str, Any]) -> None:
    """Put results into a file, in the place of earlier ones of the same names."""
    before = json.loads(file.read_text(encoding="utf-8"))["bounds"] if file.exists() else []
    by_name = {b["name"]: b for b in (*before, *found["bounds"])}
    rows = [by_name[bound.name] for bound in BOUNDS if bound.name in by_name]
    middle = [data(held) for held in medians({b["name"]: b["measured"] for b in rows})]
    text = json.dumps({"machine": found["machine"], "bounds": rows + middle}, indent=1)
    write_atomically(file, text + "\n")


def limit_text(bound: Bound) -> str:
    """Its limit with its sign."""
    return f"{'>=' if bound.least else '<='} {bound.limit:g}"


def line(held: Held) -> str:
    """A held bound for people, in columns."""
    bound = held.bound
    measured = "-" if held.measured is None else f"{held.measured:.3g}"
    row = f"{held.verdict:<7}  {bound.name:<55}  {measured:>7}  {limit_text(bound):<8}"
    times = ", ".join(f"{name} {1e3 * s:.3g} ms" for name, s in held.seconds.items())
    notes = held.reason or bound.figure.text + (f" ({times})" if times else "")
    if (held.others or 0.0) > DISTURBED:
        notes += f"; disturbed: other processes took {held.others:.0%} of the processors"
    return f"{row}  {notes}"


def summary(helds: Sequence[Held]) -> str:
    """How many hold."""
    verdicts = [held.verdict for held in helds]
    counts = ((verdicts.count(word), word) for word in ("ok", "FAILS", "skipped"))
    return ", ".join(f"{count} {word}" for count, word in counts)


def data(held: Held) -> dict[str, Any]:
    """For machines; milliseconds."""
    bound = held.bound
    return {
        "name": bound.name,
        "figure": bound.figure.text,
        "measured": held.measured,
        "limit": bound.limit,
        "sign": ">=" if bound.least else "<=",
        "verdict": held.verdict,
        "reason": held.reason,
        "others": held.others,
        "ms": {name: seconds * 1e3 for name, seconds in held.seconds.items()},
    }


if __name__ == "__main__":
    main()
