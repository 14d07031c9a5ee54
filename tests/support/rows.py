"""Rows: vectors and delays as a cell's own function meets them on tensors, without rnncc."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rnncc.ir.program import CellIR
from rnncc.ir.vector import Vector, grouped


class Row:
    """Values of a channel, tensors or rows of them; operators go element by element."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.items = [
            Row(v) if isinstance(v, (list, tuple)) or (hasattr(v, "tolist") and _is_array(v)) else v
            for v in items
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, tuple):
            first = self[place[0]]
            return first[place[1:]] if place[1:] else first
        return Row(self.items[place]) if isinstance(place, slice) else self.items[place]

    def ago(self, steps: int) -> Row:
        return Row(item.ago(steps) for item in self.items)

    @property
    def T(self) -> Row:  # noqa: N802
        return Row(zip(*self.items, strict=True)) if isinstance(self.items[0], Row) else self

    def __matmul__(self, other: Any) -> Any:
        return product(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        if _is_row(other):
            return product(other, self)
        return each(lambda item: other @ item, self)

    def __neg__(self) -> Any:
        return each(operator.neg, self)

    def __invert__(self) -> Any:
        return each(operator.invert, self)

    def __abs__(self) -> Any:
        return each(abs, self)

    __array_ufunc__ = None


def _operators() -> None:
    names = "add sub mul truediv pow mod floordiv and_ or_ xor lt le gt ge eq ne".split()
    for name in names:
        apply = getattr(operator, name)
        plain = name.rstrip("_")
        setattr(Row, f"__{plain}__", lambda a, b, f=apply: each(f, a, b))
        if plain not in ("lt", "le", "gt", "ge", "eq", "ne"):
            setattr(Row, f"__r{plain}__", lambda a, b, f=apply: each(f, b, a))


_operators()


def _is_array(value: Any) -> bool:
    return not isinstance(value, Tensor) and getattr(value, "ndim", 0) > 0


def _is_row(value: Any) -> bool:
    return isinstance(value, (Row, list, tuple)) or _is_array(value)


def each(function: Callable[..., Any], *args: Any) -> Any:
    """function(*args) for each element of the rows among them; other values go to all."""
    rows = [arg for arg in args if _is_row(arg)]
    if not rows:
        return function(*args)
    lengths = {len(row) for row in rows}
    assert len(lengths) == 1, "rows of different lengths"
    return Row(
        each(function, *(arg[k] if _is_row(arg) else arg for arg in args))
        for k in range(lengths.pop())
    )


def on_rows(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of tensors, for rows too."""

    def wrapped(*args: Any, **named: Any) -> Any:
        if any(_is_row(arg) for arg in args):
            return each(lambda *found: function(*found, **named), *args)
        return function(*args, **named)

    return wrapped


def dot(a: Any, b: Any) -> Any:
    return sum(x * y for x, y in zip(a, b, strict=True))


def product(a: Any, b: Any) -> Any:
    """a @ b of matrices and vectors."""
    if isinstance(a[0], (Row, list, tuple)) or _is_array(a[0]):
        return Row(product(row, b) for row in a)
    if isinstance(b[0], (Row, list, tuple)) or _is_array(b[0]):
        return Row(dot(a, column) for column in zip(*b, strict=True))
    return dot(a, b)


# --- scalars by name <-> what the function takes and returns -----------------------------------


def vectors_of(ir: CellIR, role: Any) -> tuple[Vector, ...]:
    """The arguments or outputs that the function knows, in order."""
    names = ir.outputs if role == "output" else [a.name for a in ir.arguments if a.kind == role]
    return grouped(names, ir.vectors, role)


def whole(ir: CellIR, values: Mapping[str, Any]) -> dict[str, Any]:
    """The function's arguments, from scalars by name."""
    found = dict(values)
    for role in ("state", "input", "param"):
        for v in vectors_of(ir, role):
            if v.shape:
                scalars = [found.pop(member) for member in v.members]
                found[v.name] = _shaped(_lines(scalars, v.delay), v.head_shape)
    return found


def _lines(scalars: Sequence[Any], delay: int) -> list[Any]:
    """The newest values, each of which knows its past."""
    if not delay:
        return list(scalars)
    heads = []
    for k in range(0, len(scalars), delay + 1):
        line = scalars[k : k + delay + 1]
        head: Any = line[0].view_as(line[0])
        head.ago = lambda steps, line=line: line[int(steps)]
        heads.append(head)
    return heads


def _shaped(items: Sequence[Any], shape: Sequence[int]) -> Any:
    for size in reversed(shape):
        items = [Row(items[k : k + size]) for k in range(0, len(items), size)]
    return items[0]


def apart(value: Any) -> list[Any]:
    """All elements of a value, in order."""
    return [e for item in value for e in apart(item)] if _is_row(value) else [value]


def moved_on(state: Vector, new: Any, values: Mapping[str, Tensor]) -> dict[str, Any]:
    """The next values of all scalars of a state: its past moves on by one step."""
    found: dict[str, Any] = {}
    line = state.delay + 1
    for k, head in enumerate(apart(new)):
        names = state.members[k * line : (k + 1) * line]
        found[names[0]] = head
        found |= {b: values[a] for a, b in itertools.pairwise(names)}
    return found


def stacked(vector: Vector, scalars: Sequence[Tensor]) -> Tensor:
    """One tensor, sizes last, as calls and layers take it."""
    joined = torch.stack(list(scalars), -1)
    return joined.unflatten(-1, vector.shape) if vector.shape else scalars[0]
