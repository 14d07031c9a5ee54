"""Named: what a layer is called with, by place or by name -> its values by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from rnncc.errors import ArgumentError
from rnncc.ir.spec import KernelSpec
from rnncc.ir.vector import grouped

# What users of torch.nn.GRU, and of a cell's own function, may call an argument of a layer.
OTHERS = {"h0": "state", "hx": "state", "h_0": "state", "input": "x", "mask": "lengths"}
OWN = ("state", "lengths", "cu_seqlens", "reset", "return_states")


def takes(spec: KernelSpec, projected: bool) -> dict[str, int]:
    """The values that a call takes, in order, and the dimensions of each from time on.

    Args:
        spec: with the inputs that a layer computes from x marked as projected.
    """
    shared = {i.name: i.shared for i in spec.inputs if not i.projected}
    given = {
        v.name: len(v.shape) + (1 if shared[v.members[0]] else 2)
        for v in grouped(shared, spec.vectors, "input")
    }
    return {"x": 2, **given} if projected else given


def bind(
    spec: KernelSpec,
    wanted: Mapping[str, int],
    projected: bool,
    args: Sequence[Any],
    state: Any,
    named: dict[str, Any],
) -> tuple[dict[str, Any], Any]:
    """All values by name, in order, and the state, which follows those that are given by place.

    Raises:
        ArgumentError: one is missing, unknown, or given twice.
    """
    by_place = ("x",) if projected else tuple(wanted)
    if len(args) > len(by_place):
        if state is not None or len(args) > len(by_place) + 1:
            raise _refuse_many(spec, wanted, projected, by_place, len(args))
        *args, state = args
    values = dict(zip(by_place, args, strict=False))
    if named:
        for name in named:
            if name in values or name not in wanted:
                raise _refuse_name(spec, wanted, projected, name, name in values)
        values |= named
    if len(values) != len(wanted):
        missing = next(name for name in wanted if name not in values)
        fix = "layer(x)" if missing == "x" and projected else _call(spec, wanted, projected)
        raise ArgumentError(f"{missing}: missing.\nFix: {fix}")
    return {name: values[name] for name in wanted}, state


def _refuse_many(
    spec: KernelSpec,
    wanted: Mapping[str, int],
    projected: bool,
    by_place: Sequence[str],
    count: int,
) -> ArgumentError:
    return ArgumentError(
        f"layer({', '.join([*by_place, 'state'])}): got {count} positional arguments, expected "
        f"{len(by_place) + 1} at most, the state last and once.\n"
        f"Fix: {_call(spec, wanted, projected)}"
    )


def _refuse_name(
    spec: KernelSpec, wanted: Mapping[str, int], projected: bool, name: str, twice: bool
) -> ArgumentError:
    if twice:
        return ArgumentError(f"{name}: given twice.\nFix: by its place or by its name")
    known = [*wanted, *OWN]
    close = [OTHERS[name]] if name in OTHERS else difflib.get_close_matches(name, known, 1)
    meant = f"{close[0]}=..., or " if close and close[0] in known and name not in OWN else ""
    return ArgumentError(
        f"{name}: not an input that is given by name.\nFix: {meant}{_call(spec, wanted, projected)}"
    )


def _call(spec: KernelSpec, wanted: Mapping[str, int], projected: bool) -> str:
    """What the call takes, in words."""
    if not projected:
        return f"the layer of '{spec.name}' takes, in order or by name: {', '.join(wanted)}"
    names = ", ".join(name for name in wanted if name != "x") or "none"
    return f"beside x, the layer of '{spec.name}' takes these inputs by name: {names}"


def time_last(values: Mapping[str, Any], ranks: Mapping[str, int]) -> dict[str, Any]:
    """Values whose first dimension is time, with it where the operators have it."""
    moved = {}
    for name, value in values.items():
        rank = ranks[name]
        moves = isinstance(value, Tensor) and value.dim() >= rank
        moved[name] = value.movedim(0, -rank) if moves else value
    return moved


def time_first(rows: Any, time: int) -> Any:
    """With the dimension of time as the first, of a tensor or each of a tuple."""
    if isinstance(rows, tuple):
        return tuple(time_first(row, time) for row in rows)
    return rows.movedim(time, 0)
