"""Tables: a campaign -> Markdown, for docs/cuda.md and for whoever ran it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from campaign.record import Campaign, Result, Step

REHEARSAL = "**Rehearsal**: kernels were emulated on a CPU; no time here means anything."
NOTHING = "No times yet: nothing has been measured on a GPU."
BESIDE = ("nn.GRU", "nn.LSTM")
LOOP, CHUNKS = "plain loop", "torch.compile"
SHOWN = ("times", "calls", "peers", "compile", "counters", "constants")  # in docs/cuda.md
Row = Sequence[str]


def page(campaign: Campaign) -> str:
    """All that was found, with what failed and why."""
    parts = [f"# {_title(campaign)}", head(campaign), steps(campaign)]
    parts += [text for text in _tables(campaign).values() if text]
    parts.append(troubles(campaign))
    return "\n\n".join(part for part in parts if part) + "\n"


def block(campaign: Campaign) -> str:
    """The part that goes into docs/cuda.md."""
    found = _tables(campaign)
    parts = [found[name] for name in SHOWN]
    if not any(parts):
        return NOTHING
    return "\n\n".join(part for part in (head(campaign), agreement(campaign), *parts) if part)


def _title(campaign: Campaign) -> str:
    return f"{'Rehearsal of a campaign' if campaign.rehearsal else 'Campaign'} on a GPU"


def _tables(campaign: Campaign) -> dict[str, str]:
    made = {"agreement": agreement, "times": times, "calls": calls, "peers": peers,
            "compile": compiling, "counters": counters, "sanitizer": sanitizer,
            "constants": constants}  # fmt: skip
    return {name: make(campaign) for name, make in made.items()}


# --- where and what --------------------------------------------------------------------------


def head(campaign: Campaign) -> str:
    """Device, driver, versions, clocks, date and commit."""
    m = campaign.machine
    versions = ", ".join(
        f"{name} {m[name]}"
        for name in ("torch", "triton", "cupy-cuda12x", "cupy-cuda13x")
        if name in m
    )
    device = m.get("name") or ("emulated GPU" if campaign.rehearsal else "unknown GPU")
    lines = [
        f"{device}, driver {m.get('driver_version', 'unknown')}, {versions}, "
        f"Python {m.get('python', 'unknown')}; {campaign.began[:10]}, "
        f"commit {campaign.commit or 'unknown'}.",
        _clocks(campaign),
    ]
    text = " ".join(line for line in lines if line)
    return f"{REHEARSAL}\n\n{text}" if campaign.rehearsal else text


def _clocks(campaign: Campaign) -> str:
    """The clocks that were seen while steps ran, and the highest that there is."""
    seen = {
        clocks["clocks.sm"]
        for step in campaign.steps.values()
        for when, clocks in step.clocks.items()
        if when not in ("before", "after") and "clocks.sm" in clocks
    }
    if not seen:
        return ""
    in_order = sorted(seen, key=lambda text: (len(text), text))
    most = campaign.machine.get("clocks.max.sm", "unknown")
    span = " to ".join(dict.fromkeys((in_order[0], in_order[-1])))
    return f"The clock of its processors, seen every 15 s: {span} (at most {most})."


def steps(campaign: Campaign) -> str:
    """How each step went."""
    rows = [
        (
            step.name,
            step.state,
            f"{step.seconds:.0f} of {step.limit:.0f}",
            _counts(step),
            step.reason,
        )
        for step in campaign.steps.values()
    ]
    return _table(("step", "state", "seconds", "results", "reason"), rows)


def _counts(step: Step) -> str:
    states = [result.state for result in step.results]
    return ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))


def troubles(campaign: Campaign) -> str:
    """What failed or isn't there, with the reason; the output of steps that didn't end well."""
    lines = []
    for step in campaign.steps.values():
        for result in step.results:
            if result.state != "ok":
                lines.append(
                    f"- {step.name}, {result.key}: {result.state}. {_first(result.reason)}"
                )
        if step.tail:
            lines.append(f"- {step.name} ended with:\n\n```\n{step.tail[-1500:]}\n```\n")
    return "\n".join(["## What failed or is missing", "", *lines]) if lines else ""


def _first(reason: str) -> str:
    """The line that says most: of an assertion or traceback the one marked so, else the last."""
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    marked = [line for line in lines if line.startswith("E ")]
    return (marked or lines[-1:] or [""])[0]


# --- the steps -------------------------------------------------------------------------------


def agreement(campaign: Campaign) -> str:
    """Tests that passed, failed and were left."""
    step = campaign.steps.get("agreement")
    tests = [r for r in step.results if "::" in r.key] if step else []
    if not step or not tests:
        return ""
    count = {s: sum(r.state == s for r in tests) for s in ("ok", "failed", "killed", "unavailable")}
    left = f", {step.left} not reached" if step.left else ""
    return (
        f"Agreement with the CPU and the oracle: {count['ok']} tests passed, "
        f"{count['failed']} failed, {count['killed']} hung or crashed, "
        f"{count['unavailable']} skipped{left}."
    )


def times(campaign: Campaign) -> str:
    """The table of para_gru."""
    return _timings("Times of para_gru, ms", _rows(campaign, "times", "fused_ms"))


def calls(campaign: Campaign) -> str:
    """What Python takes; of what the device takes longer for, that in brackets."""
    rows = _rows(campaign, "calls", "python_us")
    if not rows:
        return ""
    columns = list(dict.fromkeys(name for r in rows for name in r.data["python_us"]))
    table = [
        ("x".join(map(str, r.data["shape"])), r.data["dtype"], *(_call(r.data, n) for n in columns))
        for r in rows
    ]
    return f"Short calls of para_gru, us:\n\n{_table(('shape', 'dtype', *columns), table)}"


def _call(d: dict[str, Any], name: str) -> str:
    python, device = d["python_us"].get(name), d["device_us"].get(name)
    if python is None or device < 1.2 * python:
        return _digits(python)
    return f"{_digits(python)} ({_digits(device)})"


def peers(campaign: Campaign) -> str:
    """A table for each other cell, and the chunks."""
    rows = _rows(campaign, "peers", "fused_ms")
    cells = dict.fromkeys(r.key.split()[0] for r in rows)
    parts = [
        _timings(f"Times of {c}, ms", [r for r in rows if r.key.startswith(f"{c} ")]) for c in cells
    ]
    return "\n\n".join(part for part in parts if part)


def _rows(campaign: Campaign, name: str, needs: str) -> list[Result]:
    """The results of a step that hold a certain figure."""
    step = campaign.steps.get(name)
    return [r for r in step.results if r.state == "ok" and needs in r.data] if step else []


def _timings(title: str, rows: list[Result]) -> str:
    if not rows:
        return ""
    data = [row.data for row in rows]
    names = dict.fromkeys(name for d in data for name in d["baselines_ms"])
    others = [n for n in names if n not in (LOOP, CHUNKS, *BESIDE)]
    columns = [n for n in (LOOP, CHUNKS, *BESIDE) if n in names] + others
    heads = ("shape", "dtype", "pass", "solver", "rnncc", "in Python", "in a graph", "GB/s",
             "of copy", *columns)  # fmt: skip
    table = _table(heads, [_timing(d, columns) for d in data])
    return "\n\n".join([f"{title}:", table, *_left_out(data)])


def _left_out(data: list[dict[str, Any]]) -> list[str]:
    """Why a column, or a part of it, is empty: the first reason of each."""
    reasons: dict[str, list[str]] = {}
    for d in data:
        for name, reason in d["skipped"].items():
            reasons.setdefault(name, []).append(reason)
    told = [f"{name} in {len(of)} of {len(data)} rows ({of[0]})" for name, of in reasons.items()]
    return [f"Left out: {'; '.join(told)}."] if told else []


def _timing(d: dict[str, Any], columns: list[str]) -> Row:
    beside = (_digits(d["baselines_ms"].get(name)) for name in columns)
    fixed = ("x".join(map(str, d["shape"])), d["dtype"], d["pass"], d["solver"])
    own = (_digits(d[name]) for name in ("fused_ms", "python_ms", "graph_ms"))
    speed = _digits(d["bytes_per_second"] / 1e9)
    return (*fixed, *own, speed, f"{d['share_of_copy']:.0%}", *beside)


def _digits(value: float | None) -> str:
    """Three digits, or all of them before the point."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def compiling(campaign: Campaign) -> str:
    """Seconds of each part, cold and cached."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for r in _rows(campaign, "compile", "part"):
        row = found.setdefault((r.data["cell"], r.data["dtype"]), {})
        row[f"{r.data['part']} {r.data['kind']}"] = r.data["seconds"]
    if not found:
        return ""
    columns = list(dict.fromkeys(name for row in found.values() for name in row))
    rows = [(*key, *(_digits(row.get(name)) for name in columns)) for key, row in found.items()]
    return f"Compiling, s:\n\n{_table(('cell', 'dtype', *columns), rows)}"


COUNTED = {"microseconds": "us", "dram_percent": "DRAM %", "occupancy_percent": "occupancy %",
           "issue_percent": "issue %", "xu_percent": "XU %", "registers": "registers"}  # fmt: skip


def counters(campaign: Campaign) -> str:
    """A row for each kernel."""
    rows = [
        (r.data["shape"], r.data["dtype"], k["kernel"], *(_digits(k.get(n)) for n in COUNTED),
         _digits(_sum(k, "conflicts_")), _stalls(k))
        for r in _rows(campaign, "counters", "kernels")
        for k in r.data["kernels"]
    ]  # fmt: skip
    heads = ("shape", "dtype", "kernel", *COUNTED.values(), "bank conflicts", "stalls")
    return f"Counters of ncu:\n\n{_table(heads, rows)}" if rows else ""


def _sum(kernel: dict[str, Any], prefix: str) -> float | None:
    values = [v for name, v in kernel.items() if name.startswith(prefix)]
    return sum(values) if values else None


def _stalls(kernel: dict[str, Any]) -> str:
    """The three longest, in warps for each instruction issued."""
    found = {n.removeprefix("stall_"): v for n, v in kernel.items() if n.startswith("stall_")}
    longest = sorted(found, key=lambda name: -found[name])[:3]
    return ", ".join(f"{name} {found[name]:.2g}" for name in longest)


def sanitizer(campaign: Campaign) -> str:
    """What compute-sanitizer said."""
    rows = [
        (r.data["tool"], ", ".join(r.data["cells"]), str(r.data["calls"]), str(r.data["faults"]))
        for r in _rows(campaign, "sanitizer", "faults")
    ]
    table = _table(("tool", "cells", "calls", "faults"), rows)
    return f"compute-sanitizer:\n\n{table}" if rows else ""


def constants(campaign: Campaign) -> str:
    """The planner's constants, and how much longer its choices take than the best plan."""
    fitted = [_fitted(r.data) for r in _rows(campaign, "constants", "error")]
    rows = _rows(campaign, "constants", "regret")
    return "\n\n".join([*fitted, *([_regrets(rows)] if rows else [])])


def _fitted(data: dict[str, Any]) -> str:
    rows = [(name, f"{value:.4g}") for name, value in data["constants"].items()]
    error = f"median error {data['error']:.0%}, {data['error_before']:.0%} with those that ship"
    title = f"The planner's constants, fitted to {len(data['times'])} times ({error}):"
    return f"{title}\n\n{_table(('constant', 'value'), rows)}"


def _regrets(results: list[Result]) -> str:
    data = [{**r.data, "shape": "x".join(map(str, r.data["shape"]))} for r in results]
    heads = ("constants", "shape", "pass", "auto takes", "ms", "best plan", "its ms", "regret")
    rows = [
        (*(d[name] for name in ("constants", "shape", "pass", "chosen")), _digits(d["auto_ms"]),
         d["best"], _digits(d["plans_ms"][d["best"]]), f"{d['regret']:.2f}")
        for d in data
    ]  # fmt: skip
    return f"The planner's regret: {_worst(data)}.\n\n{_table(heads, rows)}"


def _worst(data: list[dict[str, Any]]) -> str:
    """In words, for each set of constants."""
    told = []
    for name in dict.fromkeys(d["constants"] for d in data):
        found = [d["regret"] for d in data if d["constants"] == name]
        middle = f"median {statistics.median(found):.2f}, at most {max(found):.2f}"
        told.append(f"{middle} with the {name} constants")
    return "; ".join(told)


def _table(heads: Row, rows: Iterable[Row]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
