"""Poison: a NaN in one channel of one sequence reaches that channel's group, and nothing else."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from tests.support.fuzz.calls import with_gradients
from tests.support.fuzz.cells import RandomCell
from tests.support.fuzz.judge import Question
from tests.support.tolerances import TOLERANCES, limits


def poisoned(cell: RandomCell, plain: Question) -> list[str]:
    """What changed that should not have, where one initial state or input is NaN.

    Bit for bit where nothing is solved in segments, else within the limits.
    """
    call = plain.call
    targets = [n for n, t in plain.leaves.items() if _fits(cell, plain, n, t)]
    if not targets or not call.steps:
        return []
    rng = random.Random(f"poison {call.seed}")
    target = rng.choice(targets)
    leaves = {n: t.clone() for n, t in plain.leaves.items()}
    leaf = leaves[target]
    row, channel = rng.randrange(leaf.shape[0]), rng.randrange(call.channels)
    leaf[row, ..., channel] = torch.nan
    clean = with_gradients(plain.kernel, plain.leaves, call)
    got = with_gradients(plain.kernel, leaves, call)
    exact = call.options.get("solver") == "sequential"
    group = channel // cell.group * cell.group
    found = []
    for name in clean:
        if call.layouts.get(name.removeprefix("gradient of ")):
            continue  # its dimensions are others
        others = _others(cell, name, clean[name], row, slice(group, group + cell.group), call.batch)
        if others is not None and not _same(name, clean[name], got[name], others, exact):
            found.append(f"{name} changes where {target} is NaN at row {row}, channel {channel}")
    return found


def _fits(cell: RandomCell, plain: Question, name: str, leaf: Tensor) -> bool:
    """Rows of sequences, a value for each channel."""
    call = plain.call
    shape = (call.batch, call.channels)
    if len(call.leading) != 1 or call.cu_seqlens is not None or call.layouts.get(name):
        return False
    whole = (call.batch, call.steps, call.channels)
    own = {a.name for a in cell.of("input") if not a.shared}
    return (name.startswith("h0 ") and tuple(leaf.shape) == shape) or (
        name in own and tuple(leaf.shape) == whole
    )


def _others(
    cell: RandomCell, name: str, value: Tensor, row: int, group: slice, batch: int
) -> Tensor | None:
    """Where nothing may change: other rows, and other groups of the same; None if unknown."""
    behind = len(cell.extra(name))
    value = value.flatten(value.dim() - behind)[..., 0] if behind else value
    if name.startswith("gradient of "):
        leaf = name.removeprefix("gradient of ")
        argument = next((a for a in cell.arguments if a.name == leaf), None)
        if argument is not None and (argument.shared or argument.kind == "matrix"):
            return None
        if argument is not None and argument.kind == "param":
            free = torch.ones(value.shape, dtype=torch.bool)
            free[group] = False
            return free
    if value.dim() < 2 or value.shape[0] != batch or value.shape[-1] < group.stop:
        return None
    free = torch.ones(value.shape, dtype=torch.bool)
    free[row, ..., group] = False
    return free


def _same(name: str, before: Tensor, after: Tensor, where: Tensor, exact: bool) -> bool:
    a, b = before[where], after[where]  # of a vector, all values there
    same = (a == b) | (a.isnan() & b.isnan())
    if exact or not a.numel():
        return bool(same.all())
    allowed = limits(before.double(), TOLERANCES[before.dtype], name.startswith("gradient"))[where]
    return bool((same | ((a.double() - b.double()).abs() <= 10 * allowed)).all())
