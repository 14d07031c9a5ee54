"""Explain: a plan -> the solver, the reason, the predicted time and the memory."""

from __future__ import annotations

from typing import Any

from rnncc.ir.spec import KernelSpec
from rnncc.planner.plan import Cut, Plan, Shape


def explain(spec: KernelSpec, plan: Plan, shape: Shape, io: int, compute: int) -> dict[str, Any]:
    """For machines.

    Args:
        shape: sequences, steps, channels.
        io, compute: bytes of a value in tensors, and of one that the recurrence is computed in.
    """
    batch, steps, channels = shape
    values, states = batch * steps * channels, len(spec.states)
    slots = batch * -(-steps // plan.checkpoint)
    return {
        "shape": list(shape),
        "solver": plan.solver,
        "reason": plan.reason,
        "forward": _direction(plan.forward, steps),
        "backward": _direction(plan.backward, steps),
        "tolerance": plan.tolerance if plan.solver != "sequential" else None,
        "threads": plan.threads,
        "bytes": {
            "inputs": io * (batch * steps * spec.shared_inputs + values * _unshared(spec)),
            "outputs": io * values * len(spec.outputs),
            "saved for the backward": compute * slots * states * channels,
            "borders between segments": compute * _borders(spec, plan, shape),
        },
        "saved_every": plan.checkpoint,
    }


def _unshared(spec: KernelSpec) -> int:
    return len(spec.inputs) - spec.shared_inputs


def _borders(spec: KernelSpec, plan: Plan, shape: Shape) -> int:
    """Values at the borders of the direction that has more of them."""
    batch, steps, channels = shape
    shortest = min(plan.forward.tiling.segment, plan.backward.tiling.segment)
    segments = -(-steps // shortest)
    each = spec.size * (2 + spec.size) * (channels // spec.group)
    return batch * segments * each if segments > 1 else 0


def _direction(cut: Cut, steps: int) -> dict[str, Any]:
    tiling = cut.tiling
    segments = -(-steps // tiling.segment)
    return {
        "segments": segments,
        "steps": tiling.segment,
        "warm_up": cut.warm_up if segments > 1 else 0,
        "rows": tiling.rows,
        "columns": tiling.columns,
        "in_block": cut.in_block,
        "predicted_ms": cut.predicted / 1e6,
        "one_pass_ms": cut.one_pass / 1e6,
    }


def as_text(found: dict[str, Any], dtype: str) -> str:
    """For people."""
    shape = ", ".join(map(str, found["shape"]))
    lines = [f"[{shape}] {dtype}: {found['solver']}", f"  why       {found['reason']}"]
    describe = _direction_lines if found["threads"] else _gpu_lines
    for name in ("forward", "backward"):
        first, *more = describe(found[name])
        lines += [f"  {name:<9} {first}", *(f"            {line}" for line in more)]
    sizes = [f"{what} {_size(size)}" for what, size in found["bytes"].items() if size]
    lines.append(f"  memory    {', '.join(sizes)}")
    lines.append(f"  saved     the states of every {found['saved_every']} steps, in training")
    if found["threads"]:
        lines.append(f"  threads   {found['threads']}")
    return "\n".join(lines)


def _direction_lines(cut: dict[str, Any]) -> list[str]:
    tiles = f"tiles of {cut['rows']} x {cut['columns']}"
    if cut["segments"] == 1:
        ran = f"one pass over time, {tiles} (sequences x channel groups)"
        return [f"{ran}; predicted {cut['predicted_ms']:.3g} ms"]
    ran = f"{cut['segments']} segments of {cut['steps']} steps, {tiles} (segments x channel groups)"
    times = f"predicted {cut['predicted_ms']:.3g} ms, in one pass {cut['one_pass_ms']:.3g} ms"
    return [ran, f"{cut['warm_up']} steps of warm-up before each; {times}"]


def _gpu_lines(cut: dict[str, Any]) -> list[str]:
    """Unless it was calibrated there, the model's times of a GPU are guesses."""
    if cut["segments"] == 1:
        ran = "one pass over time, a thread for each sequence and group of channels"
        return [f"{ran}; perhaps {cut['predicted_ms']:.2g} ms"]
    times = f"perhaps {cut['predicted_ms']:.2g} ms, in one pass {cut['one_pass_ms']:.2g} ms"
    if cut["in_block"]:
        return [f"segments of {cut['steps']} steps, {cut['rows']} at once in a block", times]
    ran = f"{cut['segments']} segments of {cut['steps']} steps over the grid"
    return [ran, f"{cut['warm_up']} steps of warm-up before each; {times}"]


def _size(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"
