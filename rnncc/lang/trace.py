"""Trace: Cell -> CellIR. Runs the function once on symbols; keeps names, lines and comments."""

from __future__ import annotations

import inspect
import io
import random
import sys
import tokenize
from collections.abc import Callable, Collection, Iterable, Mapping
from linecache import getline
from types import CodeType, FrameType
from typing import Any

import sympy
from sympy import Expr, Symbol

from rnncc.errors import CellError
from rnncc.ir.program import Argument, CellIR, Let, needed_lets
from rnncc.ir.vector import places
from rnncc.lang import parts
from rnncc.lang.comprehensions import comprehensions
from rnncc.lang.dsl import Cell
from rnncc.lang.foreign import NOISE, UNKNOWN, unknown
from rnncc.lang.instead import Place, missing, mistaken, refuse_no_grad, yielded
from rnncc.lang.names import emitted
from rnncc.lang.returned import read_return, return_line
from rnncc.lang.signature import Problems, argument_line, cell_names, read_signature
from rnncc.lang.symbols import TRACER, Condition, MatrixValue, Tracer, Value
from rnncc.lang.vectors import VectorValue, element_names, elements, symbol_of

DRAWING = frozenset({"rand", "randn", "random", "randint"})


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
        symbols = _symbols(arguments)
        recorder.bindings.update(symbols)
        recorder.taken.update(a.symbol for a in arguments)
        _refuse_generator(cell)
        returned = recorder.run({**symbols, **values})
        tracer.returned = return_line(cell)
        result = read_return(cell, recorder, arguments, returned)
    finally:
        TRACER.reset(token)
    lets = _named(tracer, arguments, [*result.next.values(), *result.outputs.values()])
    cell_ir = CellIR(
        name=cell.name,
        doc=inspect.cleandoc(cell.function.__doc__ or _module_doc(cell)),
        file=cell.file,
        line=cell.line,
        arguments=arguments,
        lets=lets,
        next=result.next,
        outputs=result.outputs,
        constants=values,
        output_vectors=result.vectors,
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


def _symbols(arguments: Iterable[Argument]) -> dict[str, Any]:
    """By the author's names; the elements of a vector are one symbol."""
    scalars = {a.name: _symbol(a) for a in arguments}
    vectors = dict.fromkeys(a.vector for a in arguments if a.vector)
    whole = {v.name: symbol_of(v, scalars) for v in vectors}
    alone = {a.name: scalars[a.name] for a in arguments if a.vector is None}
    return alone | whole


def _symbol(argument: Argument) -> Value | MatrixValue:
    symbol = Symbol(argument.symbol, real=True)
    value = MatrixValue(symbol) if argument.kind == "matrix" else Value(symbol)
    value.line = 0  # of no line of the body
    return value


def _refuse_generator(cell: Cell) -> None:
    if inspect.isgeneratorfunction(cell.function):
        line, value = yielded(cell.code)
        problems = Problems(cell)
        problems.add(
            "it is a generator (yield)",
            "A call of a cell is one step, and returns the next states.",
            f"return {value}",
            line,
        )
        problems.raise_any()


# --- the body --------------------------------------------------------------------------------


class _Recorder:
    """Runs the body under a line tracer and names each value as its local name is bound.

    Attributes:
        bindings: the value that each name of the cell stands for at the line that runs.
        taken: the names of arguments and lets.
        returns: where the body returns.
    """

    def __init__(self, cell: Cell, tracer: Tracer) -> None:
        self.cell = cell
        self.tracer = tracer
        self.bindings: dict[str, Any] = {}
        self.taken: set[str] = set()
        self.returns: Place | None = None
        self._own = cell_names(cell)
        self._comprehensions = comprehensions(cell.code)

    def run(self, arguments: dict[str, Any]) -> Any:
        before = sys.gettrace()
        drawn = _random_state(self.cell.code)
        sys.settrace(self._enter)
        try:
            returned = self._call(arguments)
        except CellError:
            raise
        except Exception as error:
            raise self._explain(error) from error
        finally:
            sys.settrace(before)
        if drawn != _random_state(self.cell.code):
            self._refuse_noise()
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
        if self.tracer.is_without_gradients():
            refuse_no_grad(Place.at(frame, frame.f_lasti, frame.f_lineno))
        if event in ("line", "return") and not self._in_comprehension(frame.f_lasti):
            for name, value in list(frame.f_locals.items()):
                if (
                    isinstance(value, (Value, Condition, VectorValue))
                    and value.tracer is self.tracer
                ):
                    self._bind(name, value)
            if event == "return":
                self.returns = Place.at(frame, frame.f_lasti, frame.f_lineno)
        return self._step

    def _refuse_noise(self) -> None:
        self.tracer.returned = return_line(self.cell)
        self.tracer.fail(
            "the body draws random numbers",
            "It runs once on symbols, so that they would be the same in each step and call.",
            f"{NOISE}; constants are drawn outside of the cell",
        )

    def _in_comprehension(self, offset: int) -> bool:
        """Nothing is bound there: its variables are no locals, though they lie among them."""
        return any(first <= offset <= last for first, last in self._comprehensions)

    def _bind(self, name: str, value: Any) -> None:
        if self.bindings.get(name) is value:
            return
        self.bindings[name] = value
        if isinstance(value, VectorValue):
            names = element_names(name, value.shape)
            for each, element in zip(names, elements(value), strict=True):
                self.name(each, element)
        self.name(name, value)

    def name(self, name: str, value: Any) -> None:
        """Name a value that has no name yet."""
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
            self.tracer.add(Let(name, value.expr, value.line, note))
        value.expr = symbol

    def _explain(self, error: Exception) -> CellError:
        """An exception from the author's own code, as a problem at its line."""
        if self.tracer.refused:
            return CellError(self.tracer.refused)
        line, place = self.cell.line, None
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code is self.cell.code:
                line = trace.tb_lineno
                place = Place.at(trace.tb_frame, trace.tb_lasti, line)
            trace = trace.tb_next
        problems = Problems(self.cell)
        expected = "The body runs once on symbols of rnncc."
        fix = "use rnncc's functions (from rnncc import tanh, where, ...) and Python numbers"
        if isinstance(error, NameError):
            fix = unknown(error) or (place and missing(place, error.name)) or UNKNOWN
        elif place is not None:
            fix = mistaken(place) or fix
        problems.add(f"{type(error).__name__}: {error}", expected, fix, line)
        return CellError(problems.found)


def _random_state(code: CodeType) -> object:
    """That of Python's, NumPy's and PyTorch's generators, if the body may draw from them."""
    if DRAWING.isdisjoint(code.co_names):
        return None
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    return (
        random.getstate(),
        numpy and repr(numpy.random.get_state()[2]) + repr(numpy.random.get_state()[1].tobytes()),
        torch and torch.get_rng_state().tolist(),
    )


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


# --- what can only be seen at the end --------------------------------------------------------


def _check(cell: Cell, cell_ir: CellIR) -> None:
    problems = Problems(cell)
    used = {s.name for let in cell_ir.lets for s in let.expr.free_symbols}
    used |= {s.name for expr in cell_ir.next.values() for s in expr.free_symbols}
    used |= {s.name for expr in cell_ir.outputs.values() for s in expr.free_symbols}
    for argument in cell_ir.arguments:
        if argument.symbol not in used and argument.vector:
            problems.add(*_unused(argument, used), argument_line(cell, argument.vector.name))
        elif argument.symbol not in used:
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


def _unused(argument: Argument, used: Collection[str]) -> tuple[str, str, str]:
    """An element of a vector, or a value of the past, that no one reads."""
    vector = argument.vector
    assert vector is not None
    name, place = vector.name, vector.members.index(argument.name)
    if not vector.delay:
        index = list(places(vector.shape))[place]
        return (
            f"'{name}[{', '.join(map(str, index))}]' is not used",
            "Every element takes part in the recurrence or in an output.",
            f"use it, or make '{name}' smaller by its size=",
        )
    return (
        f"'{name}' has delay={vector.delay}, but '{name}.ago({vector.delay})' is not used",
        "A delay is as long as the oldest value that the cell reads.",
        "a delay= of the largest k in ago(k), or none",
    )
