"""The text of docs/cells.md and its pictures: each cell's properties and measurements."""

from __future__ import annotations

import contextlib
import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rnncc.calculus.analyse import analyse
from rnncc.calculus.cost import Cost, cost
from rnncc.cli.render import structure_words
from rnncc.codegen.kernel_spec import kernel_spec
from rnncc.export.latex import latex
from rnncc.export.symbolic_constants import with_symbolic_constants
from rnncc.ir.program import Argument, CellIR, Compiled
from rnncc.ir.spec import KernelSpec
from rnncc.lang.docstring import fields_of, source_of
from rnncc.lang.dsl import Cell
from rnncc.lang.loader import find
from rnncc.lang.trace import trace
from rnncc.planner.cpu import plan
from rnncc.planner.machine import MEASURED

Shape = tuple[int, int, int]
Measured = Mapping[str, Any]

PLANNED: tuple[Shape, ...] = ((8, 512, 64), (1, 16384, 16), (1, 131072, 4))
THREADS = 2  # of the machine that is planned for
FIELDS = ("language models", "time series", "neuroscience", "dynamical systems")


@dataclass(frozen=True)
class Entry:
    """A cell on the page: everything that needs no measurement.

    Attributes:
        cell: its trace.
    """

    function: Cell
    cell: CellIR

    @property
    def name(self) -> str:
        return self.cell.name

    @property
    def what(self) -> str:
        return self.cell.doc.partition("\n")[0]

    @property
    def fields(self) -> tuple[str, ...]:
        return fields_of(self.cell.doc)

    @property
    def equations(self) -> str:
        return latex(with_symbolic_constants(self.function), "aligned")

    @cached_property
    def stages(self) -> Compiled:
        return analyse(self.cell)

    @cached_property
    def spec(self) -> KernelSpec:
        return kernel_spec(self.stages)

    @cached_property
    def cost(self) -> Cost:
        every = plan(self.spec, (1, 1, self.spec.group), itemsize=4, threads=1).checkpoint
        return cost(self.stages, self.spec, every)

    @property
    def words(self) -> list[str]:
        """Of the structure: kind, blocks, affine or not, smooth or not."""
        return structure_words(self.stages.structure)

    @property
    def fingerprint(self) -> str:
        """Of the recurrence and its inits, on which measured values depend."""
        cell = self.cell
        text = [f"{let.name} = {let.expr}" for let in cell.lets]
        text += [f"{name}: {expr}" for name, expr in (*cell.next.items(), *cell.outputs.items())]
        text += [
            f"{a.name} {a.kind} {a.shared} {a.block} {_start(a)} {a.typical}"
            for a in cell.arguments
        ]
        return hashlib.sha256("\n".join(text).encode()).hexdigest()[:16]


def _start(argument: Argument) -> str:
    """In the form that the fingerprints of docs/cells.json were made of."""
    if argument.kind == "state":
        return f"{argument.init} None"
    return f"0.0 {argument.init or argument.bias}"


def entry(file: Path) -> Entry:
    """Of a cell's file."""
    with contextlib.redirect_stdout(sys.stderr):
        function = find(str(file))
        return Entry(function, trace(function))


def place(each: Entry) -> tuple[int, str]:
    """By field, then by name."""
    first = each.fields[0] if each.fields else ""
    return (FIELDS.index(first) if first in FIELDS else len(FIELDS)), each.name


def files(
    entries: Sequence[Entry], measured: Mapping[str, Measured], head: Measured
) -> dict[str, str]:
    """Path below docs/ -> text.

    Args:
        measured: by cell.
        head: the values that hold for all cells: see `catalogue.HEAD`.
    """
    ordered = sorted(entries, key=place)
    sections: dict[str, list[str]] = {}
    for each in ordered:
        first = (each.fields or ("other",))[0]
        sections.setdefault(first, []).append(section(each, measured[each.name], head))
    days = sorted({cell["date"] for cell in measured.values()})
    text = PAGE.format(
        count=len(entries),
        table=table([summary_row(each, measured[each.name]) for each in ordered]),
        sections="\n".join(
            f"## {name[0].upper()}{name[1:]}\n\n" + "\n".join(parts)
            for name, parts in sections.items()
        ),
        shapes=", ".join(map(_shape, PLANNED)),
        threads=THREADS,
        timed=_shape(head["speed"]["shape"]),
        machine=machine_text(head["machines"][0]),
        days=" to ".join(dict.fromkeys((days[0], days[-1]))),
        **head["probe"],
    )
    pictures = {picture_name(each): picture(each) for each in entries}
    return {"cells.md": text} | {f"structure/{name}": pictures[name] for name in sorted(pictures)}


# --- the table -------------------------------------------------------------------------------

HEADERS = (
    *("cell", "field", "states", "structure", "in the state", "sweeps", "it is"),
    *("operations", "forward", "both"),
)


def summary_row(each: Entry, measured: Measured) -> tuple[str, ...]:
    speed = measured["speed"]
    states = ", ".join(state.name for state in each.cell.states)
    return (
        f"[{each.name}](#{each.name})",
        ", ".join(each.fields),
        states,
        each.words[0],
        ", ".join(each.words[2:]),
        ", ".join(map(str, measured["probe"]["sweeps"].values())),
        measured["probe"]["verdict"],
        f"{each.cost.forward.operations:g}",
        *(_times(speed[way]["ratio"]) for way in ("forward", "forward+backward")),
    )


def table(rows: Sequence[Sequence[str]], headers: Sequence[str] = HEADERS) -> str:
    """In Markdown."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --- a cell ----------------------------------------------------------------------------------


def section(each: Entry, measured: Measured, head: Measured) -> str:
    """The section of one cell."""
    cell = each.cell
    name = picture_name(each)
    constants = ", ".join(f"{key} = {value:g}" for key, value in cell.constants.items())
    rows = [
        ("states", ", ".join(f"{state.name} (init {state.init:g})" for state in cell.states)),
        *([("constants", constants)] if constants else []),
        ("structure", ", ".join(each.words)),
        ("sweeps", sweeps_text(measured["probe"])),
        ("it is", f"{measured['probe']['verdict']}: {measured['probe']['reason']}"),
        ("auto takes", "; ".join(f"{took} at {_shape(at)}" for at, took in plans(each))),
        *cost_rows(each),
        ("speed", speed_text(measured, head)),
    ]
    lines = [
        f"### {each.name}",
        "",
        escaped(each.what),
        "",
        f"{', '.join(each.fields)} · {linked(source_of(cell.doc))} · "
        f"[cells/{each.name}.py](../cells/{each.name}.py)",
        "",
        "```math",
        each.equations,
        "```",
        "",
        f"![Jacobian: {each.words[0]}](structure/{name})",
        "",
        table([(key, escaped(value)) for key, value in rows], ("", "")),
        "",
    ]
    return "\n".join(lines)


def sweeps_text(probe: Measured) -> str:
    """By the number of segments, and Newton's iterations."""
    if not probe["sweeps"]:
        return "none: one pass over time"
    counts = [f"{sweeps} with {cut} segments" for cut, sweeps in probe["sweeps"].items()]
    return f"{', '.join(counts)}; Newton over all steps: {probe['newton']}"


def plans(each: Entry) -> list[tuple[Shape, str]]:
    """The solver that `auto` takes at each shape, channels rounded up to whole groups."""
    spec, found = each.spec, []
    for batch, steps, channels in PLANNED:
        shape = (batch, steps, -(-channels // spec.group) * spec.group)
        chosen = plan(spec, shape, itemsize=4, threads=THREADS, machine=MEASURED)
        segment = chosen.forward.tiling.segment
        cut = f" ({-(-steps // segment)} of {segment} steps)" if segment < steps else ""
        found.append((shape, chosen.solver + cut))
    return found


def cost_rows(each: Entry) -> list[tuple[str, str]]:
    """Operations and bytes of each pass, for one channel and step."""
    rows = []
    for way, work in (("forward", each.cost.forward), ("backward", each.cost.backward)):
        calls = ", ".join(f"{count:g} {name}" for name, count in work.functions.items())
        reads, writes = sum(work.reads.values()), sum(work.writes.values())
        text = f"{work.operations:g} operations" + (f", {calls}" if calls else "")
        rows.append((way, f"{text}; reads {reads:g} B, writes {writes:g} B"))
    return rows


def speed_text(measured: Measured, head: Measured) -> str:
    """Milliseconds, and how many times faster than the plain loop."""
    speed, parts = measured["speed"], []
    for way in ("forward", "forward+backward"):
        times = speed[way]
        loop = f"the plain loop {times['loop_ms']:.3g} ms"
        parts.append(f"{way} {times['rnncc_ms']:.3g} ms, {loop}, {_times(times['ratio'])}")
    elsewhere = measured["machine"] != 0
    where = f" ({machine_text(head['machines'][measured['machine']])})" if elsewhere else ""
    return f"{_shape(speed['shape'])}{where}: {'; '.join(parts)}"


def machine_text(machine: Measured) -> str:
    """The machine that was measured, in words."""
    return f"{machine['device']}, {machine['threads']} threads, PyTorch {machine['torch']}"


# --- the picture -----------------------------------------------------------------------------

SIZE, GAP = 10, 1  # of an entry, and between two
FILLED = {"x": 'fill="#3b7dc4"', "1": 'fill="#3b7dc4" fill-opacity="0.3"'}


def picture_name(each: Entry) -> str:
    """Cells of one pattern share a picture."""
    if each.spec.one_pass:
        return f"{each.name}.svg"  # as long patterns make no name of a file
    return f"{'-'.join(each.stages.structure.pattern)}.svg"


def picture(each: Entry) -> str:
    """The Jacobian over a few groups of channels: blocks on the diagonal, 0 left empty."""
    pattern = each.stages.structure.pattern
    width = len(pattern)
    blocks = 3 if width <= 4 else 2
    side = blocks * width * SIZE
    frame = 'fill="none" stroke="#888888"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{side + 2}" height="{side + 2}" '
        f'viewBox="-1 -1 {side + 2} {side + 2}">',
        f'<rect width="{side}" height="{side}" {frame}/>',
    ]
    for block in range(blocks):
        start = block * width * SIZE
        lines += [
            f'<rect x="{start + SIZE * column + GAP / 2}" y="{start + SIZE * row + GAP / 2}" '
            f'width="{SIZE - GAP}" height="{SIZE - GAP}" {FILLED[kind]}/>'
            for row, entries in enumerate(pattern)
            for column, kind in enumerate(entries)
            if kind in FILLED
        ]
        extent = f'width="{width * SIZE}" height="{width * SIZE}"'
        lines.append(f'<rect x="{start}" y="{start}" {extent} {frame} stroke-width="0.5"/>')
    return "\n".join([*lines, "</svg>"]) + "\n"


# --- in words --------------------------------------------------------------------------------


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _times(ratio: float) -> str:
    return f"{ratio:.0f}x" if ratio >= 10 else f"{ratio:.1f}x"


def escaped(text: str) -> str:
    """Plain text, also in a table."""
    return re.sub(r"([\\`*_<>|\[\]])", r"\\\1", text)


REFERENCE = re.compile(
    r"arXiv:(\d{4}\.\d{4,5})|doi:(10\.\d+/[^\s;,]*[^\s;,.])|(github\.com/[\w./-]*\w)"
)


def linked(source: str) -> str:
    """A source with its links."""
    text, end = "", 0
    for found in REFERENCE.finditer(source):
        arxiv, doi, page = found.groups()
        where = f"arxiv.org/abs/{arxiv}" if arxiv else f"doi.org/{doi}" if doi else page
        where = (
            where.replace("(", "%28").replace(")", "%29").replace("<", "%3C").replace(">", "%3E")
        )
        text += f"{escaped(source[end : found.start()])}[{escaped(found[0])}](https://{where})"
        end = found.end()
    return text + escaped(source[end:])


PAGE = """\
# Cells

The {count} cells that ship. `rnncc list` filters them, `rnncc show NAME` says how to use one, and
`rnncc new my_cell --like NAME` copies one to start from. The file of a cell describes its purpose,
its states, its units and its difficulties.

{table}

*sweeps*: until 16, 32 and 128 segments of time agree with their neighbours to {tolerance:g}, in
float64, over {steps} steps and {channels} channels, with inputs typical of the cell and params at
their init. [Sweeps](sweeps.md) has more, and defines the words under *it is*.
*operations*: in a step of one channel, function calls not counted. *forward*, *both*: how many
times faster than the plain PyTorch loop of the same step, forward, and forward and backward, at
{timed} (batch x steps x channels), float32, medians of runs in turns ({machine}; {days}).

In the pictures a square is an entry of the Jacobian of a step over a few channels: empty where it
is proved to be zero, light where it is a number, filled where it varies. The choices of `auto` are
those with the planner's own constants ([the solver](solver.md)) and {threads} threads, float32, at
{shapes}; a cell that mixes groups of channels takes whole groups. In the equations h_t is a state
after the step, h_{{t-1}} before it; inputs have the index of their step, params have none.

{sections}
The measurements are in [cells.json](cells.json). `python tools/catalogue.py --measure NAME`
measures a cell, and `make docs` rewrites this page.
"""
