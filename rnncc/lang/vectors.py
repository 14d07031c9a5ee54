"""Vectors: several values of a channel under one name, as symbols; each element is a scalar."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from rnncc.ir.vector import Vector, places
from rnncc.lang import instead
from rnncc.lang.foreign import OF_SEVERAL
from rnncc.lang.numbers import number
from rnncc.lang.symbols import Condition, Elementwise, MatrixValue, Symbolic, Value, fail

LISTS = (list, tuple)
METHODS = {  # of arrays and tensors, in the words of a cell
    **OF_SEVERAL,
    "t": "{0}.T",
    "transpose": "{0}.T",
    "tolist": "list({0})",
    "copy": "{0}",
    "clone": "{0}",
}


class Delayed(Value):
    """A State(delay=n): its value, and by `ago` its past."""

    def __init__(self, expr: Any, past: Sequence[Value]) -> None:
        super().__init__(expr)
        self.__dict__["past"] = [self, *past]

    def ago(self, steps: Any) -> Value:
        """The value of so many steps before; of 0 it is the state itself."""
        past: list[Value] = self.__dict__["past"]
        return past[_steps(str(self.expr), steps, len(past) - 1)]

    def __getitem__(self, place: Any) -> NoReturn:
        fail(
            f"'{self.expr}', a state with delay={len(self.__dict__['past']) - 1}, is indexed",
            "It is its newest value; older ones have an age.",
            f"{self.expr}.ago({place if isinstance(place, int) else 1})",
        )


class VectorValue(Elementwise):
    """Values of one channel; operators go element by element, with a scalar or an equal shape."""

    def __init__(self, items: Sequence[Any]) -> None:
        super().__init__(None)
        self.items: list[Any] = list(items)

    __array_ufunc__ = None  # type: ignore[assignment]  # so that array @ h is left to h

    def __repr__(self) -> str:
        return f"[{', '.join(map(str, self.items))}]"

    @property
    def shape(self) -> tuple[int, ...]:
        first = self.items[0] if self.items else None
        return (len(self.items), *(first.shape if isinstance(first, VectorValue) else ()))

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        return iter(self.items)

    @property
    def T(self) -> VectorValue:  # noqa: N802
        """The transposed matrix; a plain vector is its own."""
        if len(self.shape) == 1:
            return self
        return VectorValue([VectorValue(column) for column in zip(*self.items, strict=True)])

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__") or name not in METHODS:
            super().__getattr__(name)
        place = instead.Place.of(sys._getframe(1))
        fail(
            f"'.{name}' is accessed on a vector",
            "A vector has a len and elements, and .T as a matrix.",
            instead.method(place, METHODS) or instead.call(place) or METHODS[name].format("h"),
        )

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, tuple) and len(place) > len(self.shape):
            fail(
                f"a vector of shape {list(self.shape)} is indexed by {place}",
                "It has as many indices as sizes.",
                "h[0]" if len(self.shape) == 1 else "h[0, 0]",
            )
        if isinstance(place, tuple) and place:
            first = self[place[0]]
            return first[place[1:] if len(place) > 2 else place[1]] if place[1:] else first
        if isinstance(place, slice):
            return VectorValue(self.items[place])
        try:
            return self.items[operator.index(place)]
        except IndexError:
            fail(
                f"the index {place} of a vector of {len(self)} values",
                "Indices begin at 0; negative ones count from the end.",
                f"{len(self) - 1} for the last, or a larger size=",
            )
        except TypeError:
            fail(
                f"a vector is indexed by {place!r}",
                "An index is a Python int, a slice or a tuple of them.",
                "an int, such as h[0]",
            )

    def __setitem__(self, place: Any, _: Any) -> NoReturn:
        fail(
            "an element of a vector is assigned",
            "A vector isn't changed in place.",
            "a list of the new values, such as [x, *h[1:]]",
        )

    def ago(self, steps: Any) -> VectorValue:
        """The values that many steps before."""
        return VectorValue([item.ago(steps) for item in self.items])

    def misused(self, fix: str = "") -> NoReturn:
        fail(
            f"the vector {self} is used as one value",
            "It has several values in each channel.",
            fix or "an element, h[0], or sum(h), or a list of results for a next state",
        )

    def __bool__(self) -> bool:
        conditions = isinstance(elements(self)[0], Condition) if self.items else False
        fix = conditions and instead.decision(instead.Place.of(sys._getframe(1)), True)
        if fix:
            fail(
                f"Python decides on '{self}' (if, while, and, or, not)",
                "A comparison of vectors is a condition for each element.",
                fix,
            )
        self.misused()

    def __matmul__(self, other: Any) -> Any:
        return matmul(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return mixed(other, self) if isinstance(other, MatrixValue) else matmul(other, self)

    def __abs__(self) -> Any:
        return elementwise(abs, self)

    def __neg__(self) -> Any:
        return elementwise(operator.neg, self)

    def __pos__(self) -> VectorValue:
        return self

    def __invert__(self) -> Any:
        return elementwise(operator.invert, self)

    __hash__ = object.__hash__


def _operators() -> None:
    """Give a vector the operators of its elements."""

    def both(apply: Callable[[Any, Any], Any]) -> tuple[Any, Any]:
        return (
            lambda self, other: elementwise(apply, self, other),
            lambda self, other: elementwise(apply, other, self),
        )

    for name in ("add", "sub", "mul", "truediv", "pow", "mod", "floordiv", "and_", "or_", "xor"):
        plain = name.rstrip("_")
        ahead, back = both(getattr(operator, name))
        setattr(VectorValue, f"__{plain}__", ahead)
        setattr(VectorValue, f"__r{plain}__", back)
    for name in ("lt", "le", "gt", "ge", "eq", "ne"):
        setattr(VectorValue, f"__{name}__", both(getattr(operator, name))[0])


_operators()


def symbol_of(vector: Vector, scalars: Mapping[str, Any]) -> Any:
    """The symbol of an argument of several values, from those of its members."""
    if vector.delay:
        line = vector.delay + 1
        runs = [vector.members[k : k + line] for k in range(0, len(vector.members), line)]
        items: list[Any] = []
        for head, *past in runs:
            items.append(Delayed(scalars[head].expr, [scalars[name] for name in past]))
            items[-1].line = 0
    else:
        items = [scalars[name] for name in vector.members]
    for size in reversed(vector.head_shape):
        items = [VectorValue(items[k : k + size]) for k in range(0, len(items), size)]
    return items[0]


def vector(values: Any) -> VectorValue:
    """A list of symbols and numbers as a vector, for arithmetic element by element."""
    found = as_vector(values)
    if found is None:
        fail(
            f"vector is given {values!r}",
            "It takes a list of symbols and numbers, or of such lists.",
            "vector([a, b])",
        )
    return found


def as_vector(value: Any) -> VectorValue | None:
    """A vector of a list, a tuple or an array of numbers; None if it is none of them."""
    if isinstance(value, VectorValue):
        return value
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, LISTS) or not value:
        return None
    items = [v if (inner := as_vector(v)) is None else inner for v in value]
    if len({v.shape if isinstance(v, VectorValue) else () for v in items}) > 1:
        fail(
            "a list has rows of different lengths",
            "The rows of a matrix are of one length.",
            "lists of one length",
        )
    return VectorValue(items)


def elementwise(apply: Callable[..., Any], *args: Any) -> Any:
    """apply(*args) for each element of the vectors among them; a scalar goes to all."""
    rows = [as_vector(arg) for arg in args]
    shapes = {row.shape for row in rows if row is not None}
    if not shapes:
        return apply(*args)
    if len(shapes) > 1:
        sizes = " and ".join(str(list(s)) for s in sorted(shapes))
        fail(
            f"vectors of the shapes {sizes} are combined",
            "Element by element takes equal shapes, or a vector and one value.",
            "a slice of the longer, h[:n]; one list of both is [*a, *b]",
        )
    name_scalars(args)
    columns = [
        [arg] * len(_first(rows)) if row is None else row.items
        for arg, row in zip(args, rows, strict=True)
    ]
    return VectorValue([elementwise(apply, *column) for column in zip(*columns, strict=True)])


def _first(rows: Sequence[VectorValue | None]) -> VectorValue:
    return next(row for row in rows if row is not None)


def name_scalars(values: Sequence[Any]) -> None:
    """What every element reads is computed once, in a let of its own."""
    for value in values:
        if isinstance(value, Value):
            value.own().part(value)


def dot(a: Any, b: Any) -> Any:
    """The sum of the products of two vectors' elements: [n] and [n] -> one value."""
    left, right = as_vector(a), as_vector(b)
    if left is None or right is None or left.shape != right.shape or len(left.shape) > 1:
        fail(
            f"dot is given {_described(a)} and {_described(b)}",
            "It takes two vectors of one length.",
            "A @ h for a matrix, or slices of one length",
        )
    return _sum(left.items, right.items)


def matmul(a: Any, b: Any) -> Any:
    """The products [n] @ [n], [n, m] @ [m], [n] @ [n, m] and [n, m] @ [m, k]."""
    left, right = as_vector(a), as_vector(b)
    if left is None or right is None or left.shape[-1] != right.shape[0]:
        fail(
            f"{_described(a)} @ {_described(b)}",
            "The last size on the left is the first on the right.",
            "lists of numbers, an array of NumPy, or vectors, of sizes that fit",
        )
    for value in (*_leaves(left), *_leaves(right)):
        name_scalars([value])
    matrix = len(right.shape) > 1
    columns = (
        [list(column) for column in zip(*right.items, strict=True)] if matrix else [right.items]
    )
    rows = left.items if len(left.shape) > 1 else [left.items]
    products = [[_sum(row, column) for column in columns] for row in rows]
    found = [row if matrix else row[0] for row in products]
    return _nested(found if len(left.shape) > 1 else found[0])


def mixed(matrix: MatrixValue, vector: VectorValue) -> Any:
    """A Matrix that mixes channels, on each element of a vector."""
    return elementwise(lambda item: matrix @ item, vector)


def _nested(value: Any) -> Any:
    return VectorValue(list(map(_nested, value))) if isinstance(value, list) else value


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, VectorValue):
        for item in value.items:
            yield from _leaves(item)
    else:
        yield value


def _sum(left: Sequence[Any], right: Sequence[Any]) -> Any:
    """A whole number of an array, 1.0, is 1, and a product with 0 is left out."""
    total: Any = 0
    for a, b in zip(left, right, strict=True):
        total = total + _plain(a) * _plain(b)
    return total


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _described(value: Any) -> str:
    found = as_vector(value)
    if found is not None:
        return f"a vector of shape {list(found.shape)}"
    return f"'{value}'" if isinstance(value, Symbolic) else type(value).__name__


def _steps(name: str, steps: Any, most: int) -> int:
    """Steps of the past, within the delay."""
    found = number(steps)
    if found is None or found != found // 1:
        fail(
            f"'{name}'.ago({steps!r})",
            "ago takes a number of steps that is known when the cell is compiled.",
            f"{name}.ago(1), or a constant of the cell",
        )
    if not 0 <= found <= most:
        fix = f"State(delay={int(steps)})" if steps > 0 else f"{name}.ago(0), the state itself"
        fail(
            f"'{name}'.ago({int(steps)}), where '{name}' has delay={most}",
            "A state with delay=n holds its values of 0 to n steps ago.",
            fix,
        )
    return int(steps)


def flat(value: Any, shape: tuple[int, ...]) -> list[Any] | None:
    """The elements of a returned value of this shape, in order; None if it has another."""
    found = as_vector(value)
    if (found.shape if found is not None else ()) != shape:
        return None
    return list(_leaves(found)) if found is not None else [value]


def shape_of(value: Any) -> tuple[int, ...]:
    """The shape of a returned value."""
    found = as_vector(value)
    return () if found is None else found.shape


def element_names(base: str, shape: tuple[int, ...]) -> list[str]:
    """y_0, y_1, ... or y_0_0, ..."""
    return ["_".join([base.rstrip("_"), *map(str, place)]) for place in places(shape)]


def elements(value: VectorValue) -> list[Any]:
    """All elements, in order."""
    return list(_leaves(value))
