"""Trace: Cell -> CellIR. Runs the function once on symbols; keeps names, lines and comments."""

from __future__ import annotations

import inspect
import io
import sys
import tokenize
from collections.abc import Callable, Iterable, Mapping
from linecache import getline
from types import FrameType
from typing import Any

import sympy
from sympy import Expr, Symbol

from rnncc.errors import CellError
from rnncc.ir.program import Argument, CellIR, Let, needed_lets
from rnncc.lang import parts
from rnncc.lang.comprehensions import comprehensions
from rnncc.lang.dsl import Cell
from rnncc.lang.names import emitted, unreserved
from rnncc.lang.signature import Problems, argument_line, cell_names, read_signature
from rnncc.lang.symbols import TRACER, Condition, MatrixValue, Tracer, Value, lift


def trace(cell: Cell, constants: Mapping[str, float] | None = None) -> CellIR:
    """Run the cell's function once on symbols.

    Args:
        cell: a function under `@cell`.
        constants: new values for its compile-time constants, by name.
    Raises:
        CellError: everything in the signature or the body that can't be compiled.
    """
    arguments, values = read_signature(cell, constants or {})
    tracer = Tracer(cell.name, cell.file, cell.line, cell.code)
    recorder = _Recorder(cell, tracer)
    token = TRACER.set(tracer)
    try:
        symbols = {a.name: _symbol(a) for a in arguments}
        recorder.bindings.update(symbols)
        recorder.taken.update(a.symbol for a in arguments)
        returned = recorder.run({**symbols, **values})
        tracer.returned = _return_line(cell)
        next_, outputs = _read_return(cell, recorder, arguments, returned)
    finally:
        TRACER.reset(token)
    lets = _named(tracer, arguments, [*next_.values(), *outputs.values()])
    cell_ir = CellIR(
        name=cell.name,
        doc=inspect.cleandoc(cell.function.__doc__ or _module_doc(cell)),
        file=cell.file,
        line=cell.line,
        arguments=arguments,
        lets=lets,
        next=next_,
        outputs=outputs,
        constants=values,
    )
    _check(cell, cell_ir)
    return cell_ir


def _named(
    tracer: Tracer, arguments: tuple[Argument, ...], results: Iterable[Expr]
) -> tuple[Let, ...]:
    """The lets that the results need, with a name for every part."""
    lets = needed_lets(parts.renamed(tracer.lets, tracer.names), results)
    taken = [a.symbol for a in arguments] + [let.name for let in tracer.lets]
    return parts.renamed(lets, parts.named(lets, taken))


def _module_doc(cell: Cell) -> str:
    return str(cell.function.__globals__.get("__doc__") or "")


def _symbol(argument: Argument) -> Value | MatrixValue:
    symbol = Symbol(argument.symbol, real=True)
    value = MatrixValue(symbol) if argument.kind == "matrix" else Value(symbol)
    value.line = 0  # of no line of the body
    return value


# --- the body --------------------------------------------------------------------------------


class _Recorder:
    """Runs the body under a line tracer and names each value as its local name is bound.

    Attributes:
        bindings: the value that each name of the cell stands for at the line that runs.
        taken: the names of arguments and lets.
    """

    def __init__(self, cell: Cell, tracer: Tracer) -> None:
        self.cell = cell
        self.tracer = tracer
        self.bindings: dict[str, Any] = {}
        self.taken: set[str] = set()
        self._own = cell_names(cell)
        self._comprehensions = comprehensions(cell.code)

    def run(self, arguments: dict[str, Any]) -> Any:
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            returned = self._call(arguments)
        except CellError:
            raise
        except Exception as error:
            raise self._explain(error) from error
        finally:
            sys.settrace(before)
        if self.tracer.refused:
            raise CellError(self.tracer.refused)
        return returned

    def _call(self, arguments: dict[str, Any]) -> Any:
        parameters = inspect.signature(self.cell.function).parameters.values()
        first = [arguments.pop(p.name) for p in parameters if p.kind is p.POSITIONAL_ONLY]
        return self.cell.function(*first, **arguments)

    def _enter(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        return self._step if frame.f_code is self.cell.code else None

    def _step(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any]:
        if event in ("line", "return") and not self._in_comprehension(frame.f_lasti):
            for name, value in list(frame.f_locals.items()):
                if isinstance(value, (Value, Condition)) and value.tracer is self.tracer:
                    self._bind(name, value)
        return self._step

    def _in_comprehension(self, offset: int) -> bool:
        """Nothing is bound there: its variables are no locals, though they lie among them."""
        return any(first <= offset <= last for first, last in self._comprehensions)

    def _bind(self, name: str, value: Any) -> None:
        if self.bindings.get(name) is value:
            return
        self.bindings[name] = value
        if isinstance(value, Value) and self.is_unnamed(value.expr):
            self.let(name, value)

    def is_unnamed(self, expr: Expr) -> bool:
        """Whether an expression has no name from the author yet."""
        if parts.is_placeholder(expr):
            return expr not in self.tracer.names
        return not expr.is_Symbol and not expr.is_number

    def let(self, name: str, value: Value) -> None:
        """Name the value, y_2 if it is the second y: from now on it is a symbol."""
        name = emitted(name, self.taken, self._own)
        self.taken.add(name)
        note, lets = _comment(self.cell.file, value.line), self.tracer.lets
        symbol = Symbol(name, real=True)
        if parts.is_placeholder(value.expr):
            place = [let.name for let in lets].index(value.expr.name)
            lets[place] = Let(name, lets[place].expr, value.line, note)
            self.tracer.names[value.expr] = symbol
        else:
            lets.append(Let(name, value.expr, value.line, note))
        value.expr = symbol

    def _explain(self, error: Exception) -> CellError:
        """An exception from the author's own code, as a problem at its line."""
        if self.tracer.refused:
            return CellError(self.tracer.refused)
        line = self.cell.line
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code is self.cell.code:
                line = trace.tb_lineno
            trace = trace.tb_next
        problems = Problems(self.cell)
        expected = "The body runs once on symbols of rnncc."
        fix = "use rnncc's functions (from rnncc import tanh, where, ...) and Python numbers"
        if isinstance(error, NameError):
            fix = "define the name, or import the function from rnncc"
        problems.add(f"{type(error).__name__}: {error}", expected, fix, line)
        return CellError(problems.found)


def _comment(file: str, line: int) -> str:
    """The end-of-line comment of a source line."""
    text = getline(file, line).strip()
    if "#" not in text:
        return ""
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                return token.string.lstrip("# ").rstrip()
    except (tokenize.TokenError, IndentationError, SyntaxError):
        pass  # a line of a longer statement, not whole by itself
    return ""


# --- the return ------------------------------------------------------------------------------


def _read_return(
    cell: Cell, recorder: _Recorder, arguments: tuple[Argument, ...], returned: Any
) -> tuple[dict[str, Expr], dict[str, Expr]]:
    states = [a.name for a in arguments if a.kind == "state"]
    given = _as_dict(cell, states, returned)
    problems = Problems(cell)
    line = _return_line(cell)
    keys = "dict has the keys" if isinstance(returned, dict) else "namedtuple has the fields"
    for name in states:
        if name not in given:
            problems.add(
                f"the state '{name}' is never assigned",
                f"The returned {keys} {', '.join(map(str, given)) or 'none'}.",
                f'return {{"{name}": ..., ...}} with the next value of every state',
                line,
            )
    problems.raise_any()
    named = {name: _name_result(recorder, name, name in states, v) for name, v in given.items()}
    outputs = {name: expr for name, expr in named.items() if name not in states}
    next_ = {name: named[name] for name in states}
    if not outputs:
        outputs = {states[-1]: next_[states[-1]]}
    return next_, outputs


def _as_dict(cell: Cell, states: list[str], returned: Any) -> dict[str, Any]:
    problems = Problems(cell)
    line = _return_line(cell)
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
    if returned is None or len(values) != len(states):
        count = 0 if returned is None else len(values)
        problems.add(
            f"it returns {count} value{'' if count == 1 else 's'} for {len(states)} "
            f"state{'' if len(states) == 1 else 's'}",
            f"The states are {', '.join(states)}, in this order.",
            f"return {', '.join(f'{s}_new' for s in states)}, "
            "or a dict where outputs are returned besides",
            line,
        )
    problems.raise_any()
    return dict(zip(states, values, strict=True))


def _return_line(cell: Cell) -> int:
    return max((line for _, _, line in cell.code.co_lines() if line), default=cell.line)


def _name_result(recorder: _Recorder, name: str, is_state: bool, value: Any) -> Expr:
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


# --- what can only be seen at the end --------------------------------------------------------


def _check(cell: Cell, cell_ir: CellIR) -> None:
    problems = Problems(cell)
    used = {s.name for let in cell_ir.lets for s in let.expr.free_symbols}
    used |= {s.name for expr in cell_ir.next.values() for s in expr.free_symbols}
    used |= {s.name for expr in cell_ir.outputs.values() for s in expr.free_symbols}
    for argument in cell_ir.arguments:
        if argument.symbol not in used:
            problems.add(
                f"the argument '{argument.name}' is not used",
                "Every argument takes part in the recurrence or in an output.",
                "use it or remove it",
                argument_line(cell, argument.name),
            )
    for let in cell_ir.lets:
        if let.expr.has(sympy.zoo, sympy.nan, sympy.oo, -sympy.oo) or any(
            abs(number) > sys.float_info.max for number in let.expr.atoms(sympy.Number)
        ):
            problems.add(
                f"'{let.name}' is {let.expr}",
                "Constants of a cell are finite numbers.",
                "check the arithmetic on constants in this line",
                let.line,
            )
    problems.raise_any()
