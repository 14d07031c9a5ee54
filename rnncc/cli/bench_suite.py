"""Bench, suites: the rows of a table of times on a CPU, measured and shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rnncc import __version__
from rnncc.cli import render, terminal
from rnncc.cli.options import Shape

if TYPE_CHECKING:
    from rnncc.bench.rows import Row
    from rnncc.bench.suite import Found
    from rnncc.compiler import CompiledCell

DISTURBED = 0.05  # of the processors, by other processes


def show(
    compiled: CompiledCell,
    wanted: tuple[Sequence[str], Sequence[Shape], str | None],
    against_compile: bool,
    json: bool,
) -> None:
    """Measure and print suites, a table each.

    Args:
        wanted: the suites' names, and shapes and a dtype in the place of their own.
        against_compile: also the loop under torch.compile.
    """
    from rnncc.bench import cpu
    from rnncc.bench.rows import of_suites

    suites = of_suites(*wanted)
    found = {
        name: list(_measure(compiled, rows, against_compile, not json))
        for name, rows in suites.items()
    }
    machine = cpu.machine()
    if json:
        head = {"cell": compiled.name, "rnncc": __version__, "machine": machine}
        results = [{"suite": name, **f.data()} for name, each in found.items() for f in each]
        terminal.as_json({**head, "results": results})
        return
    about = f"{machine['device']}, {machine['threads']} threads, PyTorch {machine['torch']}"
    terminal.line(f"{compiled.name}, {about}; milliseconds, medians of runs in turns")
    for each in found.values():
        terminal.line()
        _print(each)


def _measure(
    compiled: CompiledCell, rows: Sequence[Row], against_compile: bool, wanted: bool
) -> Iterator[Found]:
    from rnncc.bench import suite
    from rnncc.bench.programs import CHUNKS

    programs = (*suite.USUAL, *([CHUNKS] if against_compile else []))
    for row in rows:
        with terminal.progress(f"timing {compiled.name}: {row.name}", wanted):
            yield suite.measure(compiled, row, programs)


def _print(found: Sequence[Found]) -> None:
    """The rows of a suite, then why programs were left out."""
    names = list(dict.fromkeys(name for f in found for name in f.rivals))
    headers = ("called", "shape", "dtype", "pass", "rnncc", "ns / element", "of copy", *names)
    terminal.table(headers, [_row(f, names) for f in found])
    for note in dict.fromkeys(f"{n}: {why}." for f in found for n, why in f.skipped.items()):
        terminal.line(note)
    most = max((f.others or 0.0 for f in found), default=0.0)
    if most > DISTURBED:
        terminal.line(f"Disturbed: other processes took up to {most:.0%} of the processors.")


def _row(found: Found, names: Sequence[str]) -> render.Row:
    row, own = found.row, found.seconds.get("rnncc")
    return (
        row.work,
        "x".join(map(str, row.shape)),
        row.dtype,
        row.direction,
        "-" if own is None else f"{own * 1e3:.3g}",
        "-" if own is None else f"{found.per_element:.3g}",
        "-" if found.share is None else f"{found.share:.0%}",
        *(_rival(found, name) for name in names),
    )


def _rival(found: Found, name: str) -> str:
    """Its time, and how many times as long as rnncc's."""
    seconds, own = found.rivals.get(name), found.seconds.get("rnncc")
    if seconds is None or own is None:
        return "-"
    return f"{seconds * 1e3:.3g} ({seconds / own:.2g}x)"
