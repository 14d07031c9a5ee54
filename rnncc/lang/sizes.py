"""Sizes: State(size=n), State(delay=n), Input(size=n), Param(size=n) -> scalar arguments."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rnncc.ir.program import Argument
from rnncc.ir.vector import Role, Vector, places
from rnncc.lang.numbers import number as plain

MOST = 4096  # values of one argument
START = "_init"  # behind the name of a state: that of its learned start
KINDS: dict[str, Role] = {"state": "state", "input": "input", "param": "param"}


def spread(
    arguments: Iterable[Argument], roles: Mapping[str, Any], values: Mapping[str, float], add: Any
) -> list[Argument]:
    """Each argument of several values as that many scalars, which know their vector.

    Args:
        roles: of the arguments, by name.
        values: of the constants, which a size or delay may name.
        add: called with name, what was seen, what was expected and the fix, for each problem.
    """
    arguments = list(arguments)
    taken = {a.name for a in arguments}
    found: list[Argument] = []
    for a in arguments:
        role = roles[a.name]
        shape = _numbers(a.name, role, "size", values, add)
        delay = _numbers(a.name, role, "delay", values, add)
        if shape or delay:
            scalars = _scalars(a, shape, sum(delay), taken)
            taken |= {s.name for s in scalars}
            found += scalars
        else:
            found.append(a)
    return found


def _numbers(
    name: str, role: Any, option: str, values: Mapping[str, float], add: Any
) -> tuple[int, ...]:
    """The value of an option as whole numbers; none where it isn't given, or doesn't fit."""
    given = getattr(role, option, None)
    if given is None:
        return ()
    several = isinstance(given, tuple) and option == "size"
    numbers = [
        values.get(n, n) if isinstance(n, str) else n for n in (given if several else [given])
    ]
    whole = [_whole(n) for n in numbers]
    if whole and all(n is not None for n in whole) and math.prod(map(int, whole)) <= MOST:  # type: ignore[arg-type]
        return tuple(map(int, whole))  # type: ignore[arg-type]
    kind = type(role).__name__
    add(
        name,
        f"'{name}' has {option}={given!r}",
        f"{option} is a whole number from 1 to {MOST}"
        + (", or a tuple of them," if option == "size" else ",")
        + " or the name of a constant of the cell that is one.",
        f"{kind}({option}=4)",
    )
    return ()


def _whole(number: Any) -> int | None:
    """A positive whole number; a constant may be 4.0."""
    found = plain(number)
    whole = found is not None and 1 <= found <= MOST and found == int(found)
    return int(number) if whole else None


def _scalars(
    a: Argument, shape: tuple[int, ...], delay: int, taken: Iterable[str]
) -> list[Argument]:
    """The arguments h_0, h_1, ..., and of the past h_1ago, h_2ago, ... or h_0_1ago, ..."""
    base = a.name.rstrip("_") or a.name
    while set(names := _names(a.name, base, shape, delay)) & (set(taken) - {a.name}):
        base += "v"
    whole = (*shape, *([delay + 1] if delay else []))
    vector = Vector(KINDS[a.kind], a.name, tuple(names), whole, delay)
    starts = tuple(f"{name}{START}" for name in names)
    start = Vector("param", f"{a.name}{START}", starts, whole)
    return [
        replace(
            a,
            name=name,
            vector=vector,
            start=a.start and replace(a.start, name=f"{name}{START}", vector=start),
        )
        for name in names
    ]


def _names(name: str, base: str, shape: Sequence[int], delay: int) -> list[str]:
    heads = ["_".join([base, *map(str, place)]) for place in places(shape)] if shape else [name]
    past = [f"_{k}ago" for k in range(1, delay + 1)]
    return [f"{head.rstrip('_')}{k}" if k else head for head in heads for k in ("", *past)]
