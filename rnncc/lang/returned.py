"""Returned: what a cell's body returns -> the next value of each state, and the outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from sympy import Expr, Symbol

from rnncc.ir.program import Argument
from rnncc.ir.vector import Vector, grouped
from rnncc.lang import instead
from rnncc.lang.dsl import Cell
from rnncc.lang.names import unreserved
from rnncc.lang.signature import Problems
from rnncc.lang.symbols import Condition, MatrixValue, Tracer, Value, lift
from rnncc.lang.vectors import element_names, flat, shape_of


class Recorder(Protocol):
    """What names the values of a trace."""

    cell: Cell
    tracer: Tracer
    returns: instead.Place | None

    def is_unnamed(self, expr: Expr) -> bool: ...

    def let(self, name: str, value: Value) -> None: ...


class Returned(NamedTuple):
    """The scalars of the states and outputs.

    Attributes:
        vectors: the outputs of several values.
    """

    next: dict[str, Expr]
    outputs: dict[str, Expr]
    vectors: tuple[Vector, ...]


def read_return(
    cell: Cell, recorder: Recorder, arguments: tuple[Argument, ...], returned: Any
) -> Returned:
    """The results by name, in order of the states, then of the keys.

    Raises:
        CellError: a state is missing, or a value has not its state's size.
    """
    _refuse_set(cell, recorder, returned)
    vectors = dict.fromkeys(a.vector for a in arguments if a.vector)
    states = grouped([a.name for a in arguments if a.kind == "state"], vectors, "state")
    if not any(state.head_shape for state in states):
        _refuse_nested(cell, recorder, [s.name for s in states], returned)
    given = _as_dict(cell, states, returned)
    _check_keys(cell, states, given, returned)
    _check_shapes(cell, states, given)
    named: dict[str, Expr] = {}
    found: list[Vector] = []
    of = {state.name: state for state in states}
    for name, value in given.items():
        state = of.get(name)
        result = state or _output(name, value, [a.name for a in arguments])
        found += [result] if result.shape and not state else []
        items = flat(value, result.head_shape) or []
        for member, item in zip(result.heads, items, strict=True):
            named[member] = _name_result(recorder, member, state is not None, item)
    next_ = _with_past(arguments, states, named)
    outputs = {name: expr for name, expr in named.items() if name not in next_}
    if not outputs:
        last = states[-1]
        outputs = {name: next_[name] for name in last.heads}
        found += [Vector("output", last.name, last.heads, s)] if (s := last.head_shape) else []
    return Returned(next_, outputs, tuple(found))


def _refuse_set(cell: Cell, recorder: Recorder, returned: Any) -> None:
    if isinstance(returned, (set, frozenset)):
        problems = Problems(cell)
        problems.add(
            "it returns a set",
            "The next values are in the order of the states, and a set has no order.",
            instead.in_order(recorder.returns) or "return h_new",
            return_line(cell),
        )
        problems.raise_any()


def _refuse_nested(cell: Cell, recorder: Recorder, states: list[str], returned: Any) -> None:
    """Refuse the (output, (h, c)) of PyTorch's cells."""
    fix = instead.flat(recorder.returns, states) if isinstance(returned, tuple) else ""
    if fix:
        problems, text = Problems(cell), ", ".join(states)
        problems.add(
            "it returns a tuple within a tuple, as (y, (h, c))",
            f"A cell returns the next {text}, or a dict of them and of outputs.",
            fix,
            return_line(cell),
        )
        problems.raise_any()


def _output(name: str, value: Any, taken: Sequence[str]) -> Vector:
    """An output of the dict, with names of its own for its elements."""
    shape, base = shape_of(value), name
    if not shape:
        return Vector("output", name, (name,))
    while set(names := element_names(base, shape)) & set(taken):
        base += "v"
    return Vector("output", name, tuple(names), shape)


def _with_past(
    arguments: Sequence[Argument], states: Sequence[Vector], named: dict[str, Expr]
) -> dict[str, Expr]:
    """The next values of all scalars: those of the past move on by one step."""
    symbols = {a.name: Symbol(a.symbol, real=True) for a in arguments}
    heads = {name for state in states for name in state.heads}
    members = [name for state in states for name in state.members]
    before = [None, *members]
    return {
        name: named[name] if name in heads else symbols[str(newer)]
        for newer, name in zip(before, members, strict=False)
    }


def _check_keys(cell: Cell, states: Sequence[Vector], given: dict[str, Any], returned: Any) -> None:
    problems = Problems(cell)
    names = [s.name for s in states]
    line = return_line(cell)
    keys = "dict has the keys" if isinstance(returned, dict) else "namedtuple has the fields"
    for name in names:
        if name not in given:
            problems.add(
                f"the state '{name}' is never assigned",
                f"The returned {keys} {', '.join(map(str, given)) or 'none'}.",
                f'return {{"{name}": ..., ...}} with the next value of every state',
                line,
            )
    scalars = {member: s.name for s in states if s.shape for member in s.members}
    for key in given.keys() & scalars.keys() - set(names):
        problems.add(
            f"the returned key '{key}' is the name of a value of '{scalars[key]}'",
            "Values of a vector and of a delay have names of their own in the kernels.",
            f"rename it, for example '{key}_'",
            line,
        )
    problems.raise_any()


def _check_shapes(cell: Cell, states: Sequence[Vector], given: dict[str, Any]) -> None:
    """Each state's next value has as many elements as the state."""
    problems = Problems(cell)
    for state in states:
        seen, wanted = shape_of(given[state.name]), state.head_shape
        if seen != wanted:
            problems.add(
                f"the next value of '{state.name}' has {_size(seen)}, the state {_size(wanted)}",
                "A state and its next value have the same size.",
                f"return [...] with {_size(wanted)}" if wanted else f"State(size={seen[0]})",
                return_line(cell),
            )
    problems.raise_any()


def _size(shape: tuple[int, ...]) -> str:
    if shape == (1,):
        return "1 value in a list"
    return f"{'x'.join(map(str, shape))} values" if shape else "one value"


def _as_dict(cell: Cell, states: Sequence[Vector], returned: Any) -> dict[str, Any]:
    problems = Problems(cell)
    line = return_line(cell)
    if isinstance(returned, tuple) and hasattr(returned, "_fields"):
        returned = dict(zip(returned._fields, returned, strict=True))
    if isinstance(returned, dict):
        for key in returned:
            if not isinstance(key, str):
                problems.add(
                    f"the returned dict has the key {key!r}",
                    "Keys are names of states or of outputs.",
                    'return {"h": ..., "y": ...}',
                    line,
                )
            elif not key.isidentifier():
                problems.add(
                    f"the returned key '{key}' is no name",
                    "Keys are names of states or of outputs.",
                    f'rename it, for example "{unreserved(key)}"',
                    line,
                )
        problems.raise_any()
        return returned
    values = list(returned) if isinstance(returned, (tuple, list)) else [returned]
    if len(states) == 1 and states[0].head_shape and not (len(values) == 1 and shape_of(values[0])):
        values = [returned]  # the elements of the one vector
    names = [state.name for state in states]
    if returned is None or len(values) != len(states):
        count = 0 if returned is None else len(values)
        problems.add(
            f"it returns {count} value{'' if count == 1 else 's'} for {len(states)} "
            f"state{'' if len(states) == 1 else 's'}",
            f"The states are {', '.join(names)}, in this order.",
            f"return {', '.join(f'{s}_new' for s in names)}, "
            "or a dict where outputs are returned besides",
            line,
        )
    problems.raise_any()
    return dict(zip(names, values, strict=True))


def return_line(cell: Cell) -> int:
    """The last line of the body."""
    return max((line for _, _, line in cell.code.co_lines() if line), default=cell.line)


def _name_result(recorder: Recorder, name: str, is_state: bool, value: Any) -> Expr:
    """The returned value as a symbol; an unnamed expression becomes a let of its own."""
    if isinstance(value, (Condition, MatrixValue)):
        value.misused()
    expr = lift(value)
    result = Value(recorder.tracer.names.get(expr, expr))
    result.line = getattr(value, "line", recorder.cell.line)
    let = f"{name.rstrip('_')}_next" if is_state else name
    unnamed = recorder.is_unnamed(result.expr) or result.expr.is_number
    if unnamed:
        recorder.let(let, result)
    return result.expr
