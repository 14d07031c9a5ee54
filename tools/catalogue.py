"""The catalogue of the cells that ship: docs/cells.md, from the cells and from docs/cells.json.

python tools/catalogue.py                     write the page and its pictures (make docs)
python tools/catalogue.py --check             print how the files differ from it
python tools/catalogue.py --measure [CELL...] measure cells: those named, or all new ones
"""

from __future__ import annotations

import datetime
import difflib
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
from catalogue_page import Entry, entry, files
from rich.console import Console

import rnncc
from rnncc.analysis.probe import probe
from rnncc.analysis.sweeps import TOLERANCE
from rnncc.bench import cpu
from rnncc.bench.baselines import plain
from rnncc.bench.timing import interleave
from rnncc.bench.workload import forward, forward_backward, fused_loop, random_arguments
from rnncc.lang.loader import shipped
from rnncc.runtime.cpu import build

DOCS = Path(__file__).resolve().parents[1] / "docs"
STEPS, CHANNELS, SEED = 1024, 64, 0  # of a probe
TIMED = (8, 256, 64)  # batch, steps, channels
SECONDS = 0.5  # for each of the two passes; three rounds are run in any case
WAYS = {"forward": forward, "forward+backward": forward_backward}
UNPROBED = {
    "verdict": "not probed",
    "reason": "one pass over time solves it, without Jacobians",
    "sweeps": {},
    "newton": "none",
}
SHOWN = 20  # lines of a difference

Data = dict[str, Any]


class CatalogueError(Exception):
    """The page can't be written, or is out of date."""


# --- measuring -------------------------------------------------------------------------------


def measure(each: Entry) -> Data:
    """The measurements of one cell, without machine and date."""
    compiled = rnncc.compile(each.function)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda dtype: _build(compiled, dtype), ("float32", "float64")))
    channels = _whole(CHANNELS, each.spec.group)
    seen = UNPROBED if compiled.spec.one_pass else probed(compiled, channels)
    return {"fingerprint": each.fingerprint, "probe": seen, "speed": speed(compiled)}


def probed(compiled: rnncc.CompiledCell, channels: int) -> Data:
    """What differences between states do, and the sweeps that segments take."""
    found = probe(compiled, steps=STEPS, channels=channels, seed=SEED)
    return {
        "verdict": found.verdict,
        "reason": found.reason,
        "sweeps": {str(cut.segments): cut.sweeps for cut in found.sweeps},
        "newton": str(found.newton),
    }


def _build(compiled: rnncc.CompiledCell, dtype: str) -> None:
    """Called before the timed runs."""
    build.load(compiled.name, compiled.source("cpp"), dtype)


def speed(compiled: rnncc.CompiledCell) -> Data:
    """Median milliseconds of the kernel and of the plain loop, in turns."""
    batch, steps, channels = TIMED
    shape = (batch, steps, _whole(channels, compiled.spec.group))
    arguments = random_arguments(compiled.spec, shape)
    loops = {"rnncc": fused_loop(compiled), "loop": plain(compiled.stages.cell)}
    found: Data = {"shape": list(shape)}
    for way, run in WAYS.items():
        times = interleave({name: run(loop, arguments) for name, loop in loops.items()}, SECONDS)
        ours, theirs = (1e3 * statistics.median(times[name]) for name in ("rnncc", "loop"))
        found[way] = {"rnncc_ms": ours, "loop_ms": theirs, "ratio": theirs / ours}
    return found


def _whole(channels: int, group: int) -> int:
    """Rounded up to whole groups."""
    return -(-channels // group) * group


def measure_into(file: Path, names: Sequence[str], everything: bool, say: Any) -> Iterator[str]:
    """Measure cells and write the file after each; gives their names.

    Args:
        names: of the cells; if there are none, those that the file lacks or has of other equations.
        everything: all of them; the file is discarded.
        say: called with the progress, in words.
    """
    entries = {each.name: each for each in all_entries()}
    if unknown := [name for name in names if name not in entries]:
        raise CatalogueError(f"{', '.join(unknown)}: no such cell ships.\nFix: rnncc list")
    data = read(file) if file.exists() and not everything else _empty()
    data["cells"] = {name: cell for name, cell in data["cells"].items() if name in entries}
    stale = [name for name in entries if _stale(entries[name], data["cells"])]
    for name in names or stale:
        say(f"measuring {name}")
        found = measure(entries[name])
        today = datetime.date.today().isoformat()
        data["cells"][name] = {"machine": _machine(data), "date": today, **found}
        data["cells"] = {key: data["cells"][key] for key in sorted(data["cells"])}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        yield name


def _empty() -> Data:
    """The values that hold for all cells."""
    cut = {"steps": STEPS, "channels": CHANNELS, "seed": SEED, "tolerance": TOLERANCE}
    return {"machines": [], "probe": cut, "speed": {"shape": list(TIMED)}, "cells": {}}


def _machine(data: Data) -> int:
    """The place of this machine among those that cells were measured on."""
    machine = cpu.machine()
    if machine not in data["machines"]:
        data["machines"].append(machine)
    return int(data["machines"].index(machine))


# --- the page --------------------------------------------------------------------------------


def all_entries() -> list[Entry]:
    """Of every cell that ships."""
    return [entry(file) for file in shipped()]


def read(file: Path) -> Data:
    """The measurements."""
    if not file.exists():
        raise CatalogueError(f"{file}: is missing.\nFix: python tools/catalogue.py --measure")
    data = json.loads(file.read_text(encoding="utf-8"))
    assert isinstance(data, dict)
    return data


def expected(entries: Sequence[Entry], data: Data) -> dict[str, str]:
    """The page and its pictures, path below docs/ -> text.

    Raises:
        CatalogueError: a cell was not measured, or not since its equations changed.
    """
    cells = data["cells"]
    if stale := [each.name for each in entries if _stale(each, cells)]:
        changed = [name for name in stale if name in cells]
        what = f" ({', '.join(changed)}: changed since)" if changed else ""
        raise CatalogueError(
            f"cells that were not measured: {', '.join(stale)}{what}.\n"
            "Fix: python tools/catalogue.py --measure"
        )
    if orphans := sorted(cells.keys() - {each.name for each in entries}):
        raise CatalogueError(
            f"measured cells that don't ship: {', '.join(orphans)}.\n"
            "Fix: python tools/catalogue.py --measure, which drops them"
        )
    return files(entries, cells, data)


def _stale(each: Entry, cells: Mapping[str, Any]) -> bool:
    return each.name not in cells or cells[each.name]["fingerprint"] != each.fingerprint


def differences(folder: Path, wanted: Mapping[str, str]) -> list[str]:
    """How the files below docs/ differ from those that would be written."""
    pictures = {f"structure/{path.name}" for path in (folder / "structure").glob("*")}
    found = []
    for name in sorted({*wanted, *pictures}):
        path = folder / name
        old = path.read_text(encoding="utf-8") if path.is_file() else None
        if name not in wanted:
            found.append(f"{name}: no cell has it")
        elif old is None:
            found.append(f"{name}: missing")
        elif old != wanted[name]:
            lines = difflib.unified_diff(
                old.splitlines(),
                wanted[name].splitlines(),
                name,
                "as it would be",
                lineterm="",
                n=0,
            )
            found.append("\n".join([f"{name}: differs", *list(lines)[:SHOWN]]))
    return found


def write(folder: Path, wanted: Mapping[str, str]) -> None:
    """Write all files, and delete pictures that no cell has."""
    (folder / "structure").mkdir(parents=True, exist_ok=True)
    for path in (folder / "structure").glob("*"):
        if f"structure/{path.name}" not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text, encoding="utf-8")


# --- the command -----------------------------------------------------------------------------


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--measure", "measuring", is_flag=True, help="Measure CELLs, or all new ones.")
@click.option(
    "--all", "everything", is_flag=True, help="Measure all cells, also those already measured."
)
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 if anything differs.")
@click.option("--docs", type=click.Path(path_type=Path), default=DOCS, help="In place of docs/.")
@click.argument("cells", nargs=-1)
def main(
    measuring: bool, everything: bool, check: bool, docs: Path, cells: tuple[str, ...]
) -> None:
    """Write docs/cells.md and docs/structure/, or measure their values."""
    if bool(cells) > measuring or everything > measuring or (check and measuring):
        raise click.UsageError("CELLs and --all are of --measure, which goes without --check")
    try:
        if measuring:
            _measure(docs / "cells.json", cells, everything)
            return
        wanted = expected(all_entries(), read(docs / "cells.json"))
        changed = differences(docs, wanted)
        if not check:
            write(docs, wanted)
    except CatalogueError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    names = ", ".join(text.partition(":")[0] for text in changed) or "nothing"
    click.echo("\n".join(changed) if check and changed else f"catalogue: changed: {names}")
    sys.exit(1 if check and changed else 0)


def _measure(file: Path, names: Sequence[str], everything: bool) -> None:
    with Console(stderr=True).status("reading the cells") as status:
        for name in measure_into(file, names, everything, status.update):
            click.echo(f"{name}: measured")


if __name__ == "__main__":
    main()
