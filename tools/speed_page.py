"""docs/speed.md and README's table: their text, from what speed.py and must_hold.py measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Result = dict[str, Any]
Column = tuple[str, Callable[[Result], str]]

BEGIN, END = "<!-- speed: by tools/speed.py -->", "<!-- /speed -->"
BASE, LARGE, LONG = [8, 2048, 256], [4, 4096, 1024], [1, 16384, 64]
DISTURBED = 0.05  # of the processors' time, which others took; the page says so
FAR = 2**21  # B * T * N of the shapes whose worst README shows; smaller ones are bound by the call


def page(measured: dict[str, Any], bounds: dict[str, Any] | None) -> str:
    """All of docs/speed.md."""
    results = measured["results"]
    return PAGE.format(
        about=about(measured),
        wide=table(_of(results, "wide"), LOOPS),
        packed=table(_of(results, "packed"), BARE),
        half=table(_functions(_of(results, "half")), (DTYPE, *BARE, PLAIN)),
        call=table(_of(results, "short"), CALLS),
        step=table(_of(results, "decode"), STEPS),
        layer=table(_of(results, "layer") + _layers(_of(results, "half")), (DTYPE, *LAYERS)),
        bounds=bounds_text(bounds),
    )


def readme_block(measured: dict[str, Any]) -> str:
    """The machine, and a table of a few rows: usual shapes, the worst one, and other cells."""
    rows = _of(measured["results"], "wide")
    wanted = [BASE, LONG, LARGE]
    shown = [r for shape in wanted for r in rows if r["shape"] == shape]
    shown += [w for w in worst(rows) if w not in shown]
    shown += _of(measured["results"], "cells")
    title = f"Float32, {about(measured)}, the functional form; medians of runs in turns."
    return f"{title}\n\n{table(shown, (CELL, *LOOPS))}"


def worst(results: Sequence[Result]) -> list[Result]:
    """The row of each pass that is farthest from the speed of a copy, of large calls."""
    large = [r for r in results if _size(r) >= FAR and r["share_of_copy"]]
    passes = dict.fromkeys(r["pass"] for r in large)
    return [min((r for r in large if r["pass"] == p), key=_share) for p in passes]


def about(measured: dict[str, Any]) -> str:
    """The machine and the commits."""
    m = measured["machine"]
    commits = ", ".join(dict.fromkeys(r["commit"] for r in measured["results"]))
    return f"{m['threads']} threads, {m['device']}, PyTorch {m['torch']}, commit {commits}"


def table(results: Sequence[Result], columns: Sequence[Column]) -> str:
    """In Markdown."""
    lines = [[name for name, _ in columns], ["---"] * len(columns)]
    lines += [[text(result) for _, text in columns] for result in results]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bounds_text(bounds: dict[str, Any] | None) -> str:
    """What must hold, with what was measured of it."""
    if bounds is None:
        return "Not measured yet."
    lines = ["| row | figure | bound | measured |", "|---|---|---|---|"]
    for b in bounds["bounds"]:
        found = b["reason"] if b["measured"] is None else f"{b['measured']:.3g}"
        mark = _mark(b) + (", **fails**" if b["verdict"] == "FAILS" else "")
        lines.append(
            f"| {b['name']} | {b['figure']} | {b['sign']} {b['limit']:g} | {found}{mark} |"
        )
    return "\n".join(lines)


# --- columns ---------------------------------------------------------------------------------


def _of(results: Sequence[Result], suite: str) -> list[Result]:
    return [r for r in results if r["suite"] == suite]


def _functions(results: Sequence[Result]) -> list[Result]:
    return [r for r in results if r["work"] == "function"]


def _layers(results: Sequence[Result]) -> list[Result]:
    return [r for r in results if r["work"] == "layer"]


def _size(r: Result) -> int:
    batch, steps, channels = r["shape"]
    return int(batch * steps * channels)


def _share(r: Result) -> float:
    return float(r["share_of_copy"])


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _time(name: str, unit: float = 1.0) -> Callable[[Result], str]:
    """Of a program, in milliseconds times a unit."""
    return lambda r: _number(r["ms"][name] * unit) + _mark(r) if name in r["ms"] else "-"


def _mark(r: Result) -> str:
    return "\\*" if (r["others"] or 0.0) > DISTURBED else ""


def _rival(name: str, unit: float = 1.0) -> Callable[[Result], str]:
    """The same, and how many times as long as rnncc's."""

    def text(r: Result) -> str:
        if name not in r["ms"]:
            return "-"
        ratio = r["ms"][name] / r["ms"]["rnncc"]
        times = f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"
        return f"{_number(r['ms'][name] * unit)}, {times}x"

    return text


SHAPE: Column = ("B x T x N", lambda r: "x".join(map(str, r["shape"])))
PASS: Column = ("pass", lambda r: str(r["pass"]))
DTYPE: Column = ("dtype", lambda r: str(r["dtype"]))
CELL: Column = ("cell", lambda r: str(r["cell"]))
OWN: Column = ("rnncc, ms", _time("rnncc"))
PER_ELEMENT: Column = ("ns / element", lambda r: _number(r["ns_per_element"]))
OF_COPY: Column = ("of the speed of a copy", lambda r: f"{100 * _share(r):.0f} %")
BARE = (SHAPE, PASS, OWN, PER_ELEMENT, OF_COPY)
PLAIN: Column = ("plain loop", _rival("plain loop"))
CHUNKS: Column = ("chunks of 32 steps under torch.compile", _rival("torch.compile"))
LOOPS = (*BARE, CHUNKS, PLAIN)
CALLS = (
    SHAPE,
    PASS,
    ("rnncc, us", _time("rnncc", 1e3)),
    ("plain PyTorch", _rival("plain loop", 1e3)),
    ("under torch.compile", _rival("torch.compile", 1e3)),
)
STEPS = (
    SHAPE,
    ("`layer.step`, us", _time("rnncc", 1e3)),
    ("`layer.decoder`", _rival("decoder", 1e3)),
    ("the cell in plain PyTorch", _rival("eager cell", 1e3)),
    ("nn.GRUCell", _rival("nn.GRUCell", 1e3)),
    ("the Linear alone", _rival("Linear", 1e3)),
)
LAYERS = (
    SHAPE,
    PASS,
    OWN,
    ("its Linear", _rival("Linear")),
    ("its Linear, into memory used before", _rival("Linear, kept memory")),
    ("the recurrence", _rival("recurrence")),
)

PAGE = """\
# Speed on a CPU

para_gru on {about}.
Medians of runs in turns, in milliseconds; "7.6x": as many times as long as rnncc. "ns / element" is
the time of one step of one channel of one sequence. A copy reads and writes as many bytes as the
pass must: at 100 % a pass would take no longer than moving its tensors. *: other processes took
more than 5 % of the processors meanwhile.

    python tools/speed.py --measure        # measures what has changed, and writes this page
    rnncc bench para_gru --suite wide      # on your machine; or packed, short, decode, layer, half

All figures are in [measured/epyc/speed.json](measured/epyc/speed.json), those of a GPU in
[On a GPU](cuda.md).

## From wide to narrow

The function, float32:

{wide}

With inputs as a layer has them, all in one tensor of three times the channels; loops take as long
as above:

{packed}

## Half precision

The function, whose state is in float32; loops compute in the inputs' dtype:

{half}

## One step

`para_gru(...)` at T = 1, in microseconds:

{call}

A layer of as many features as channels, in microseconds, without gradients:

{step}

## A layer

Of as many features as channels; forward+backward has the gradients of x and of all parameters:

{layer}

## What must hold

`python tools/must_hold.py` measures these bounds, and exits with 1 if one fails; with
`--merge docs/measured/epyc/must_hold.json` the next `python tools/speed.py` shows them here.

{bounds}
"""
