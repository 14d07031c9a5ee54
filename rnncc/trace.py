"""Trace: Cell -> CellIR. Runs the function once on symbols; keeps local names, lines and comments."""

from __future__ import annotations

import inspect
import io
import math
import re
import sys
import tokenize
from collections.abc import Callable, Mapping
from linecache import getline
from types import FrameType
from typing import Any

import sympy
from sympy import Expr, Symbol

from rnncc import functions
from rnncc.dsl import (
    TRACER,
    Cell,
    Condition,
    Input,
    Matrix,
    MatrixValue,
    Param,
    Role,
    State,
    Tracer,
    Value,
    lift,
)
from rnncc.errors import CellError, Problem
from rnncc.ir import Argument, CellIR, Init, Let

KINDS: dict[type[Role], str] = {State: "state", Input: "input", Param: "param", Matrix: "matrix"}

OPTIONS = frozenset("h0 return_state return_states solver lengths cu_seqlens reset reverse".split())

STDINT_MACRO = r"(U?INT\w*|SIZE|PTRDIFF|WCHAR|WINT|SIG_ATOMIC)_(MAX|MIN|C|WIDTH)"

KEYWORDS = frozenset(
    """
    alignas alignof and and_eq asm atomic_cancel atomic_commit atomic_noexcept auto bitand bitor bool
    break case catch char char8_t char16_t char32_t class co_await co_return co_yield compl concept
    const const_cast consteval constexpr constinit continue decltype default delete do double
    dynamic_cast else enum explicit export extern false float for friend goto if inline int long
    mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected public
    register reinterpret_cast requires restrict return short signed sizeof static static_assert
    static_cast struct switch template this thread_local throw true try typedef typeid typename union
    unsigned using virtual void volatile wchar_t while xor xor_eq linux unix
    __global__ __device__ __host__ __shared__ __constant__ __restrict__ threadIdx blockIdx blockDim
    gridDim warpSize half float2 float4 double2 int2 int4 dim3 asm typeof
    real rnncc std NAN INFINITY M_PI M_E EOF NULL assert errno signbit
    """.split()
)


def trace(cell: Cell, constants: Mapping[str, float] | None = None) -> CellIR:
    """Run the cell's function once on symbols.

    Args:
        cell: a function under `@cell`.
        constants: new values for its compile-time constants, by name.
    Raises:
        CellError: everything in the signature or the body that can't be compiled.
    """
    arguments, values = _read_signature(cell, dict(constants or {}))
    tracer = Tracer(cell)
    recorder = _Recorder(cell)
    symbols = {a.name: _symbol(a) for a in arguments}
    for name, symbol in symbols.items():
        recorder.bindings[name] = symbol
    token = TRACER.set(tracer)
    try:
        returned = recorder.run({**symbols, **values})
        tracer.returned = _return_line(cell)
        next_, outputs = _read_return(cell, recorder, arguments, returned)
    finally:
        TRACER.reset(token)
    lets = _prune(recorder.lets, [*next_.values(), *outputs.values()])
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
    _check(cell, cell_ir, recorder)
    return cell_ir


def _module_doc(cell: Cell) -> str:
    return str(cell.function.__globals__.get("__doc__") or "")


def _symbol(argument: Argument) -> Value | MatrixValue:
    symbol = Symbol(argument.name, real=True)
    return MatrixValue(symbol) if argument.kind == "matrix" else Value(symbol)


# --- the signature ---------------------------------------------------------------------------


class _Problems:
    """Collects problems of one cell; `raise_any` raises them at once."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.found: list[Problem] = []

    def add(self, seen: str, expected: str, fix: str, line: int | None = None) -> None:
        line = self.cell.line if line is None else line
        self.found.append(Problem(self.cell.file, line, self.cell.name, seen, expected, fix))

    def raise_any(self) -> None:
        if self.found:
            raise CellError(self.found)


def _read_signature(
    cell: Cell, changed: dict[str, float]
) -> tuple[tuple[Argument, ...], dict[str, float]]:
    problems = _Problems(cell)
    arguments: list[Argument] = []
    values: dict[str, float] = {}
    reason = _reserved(cell.name)
    if reason:
        problems.add(f"its name {reason}", "The name goes into C++ and CUDA.", "rename the cell")
    for parameter in _parameters(cell, problems):
        name = parameter.name
        line = _argument_line(cell, name)
        reason = _reserved(name)
        if reason:
            problems.add(
                f"the argument '{name}' {reason}",
                "Names go unchanged into C++ and CUDA.",
                f"rename it, for example '{name.strip('_')}_'",
                line,
            )
        elif name in OPTIONS:
            problems.add(
                f"the argument '{name}' has the name of an option",
                f"The generated function has the options {', '.join(sorted(OPTIONS))}.",
                f"rename it, for example '{name}_'",
                line,
            )
        if parameter.default is not inspect.Parameter.empty:
            values[name] = _constant(parameter, changed, problems, line)
            if _as_role(parameter.annotation) is not None:
                problems.add(
                    f"the argument '{name}' has a role and a default",
                    "A default makes an argument a compile-time constant.",
                    f"no default and Param(init=constant({parameter.default!r})), or no role",
                    line,
                )
        else:
            role = _role(parameter, problems, line)
            if role is not None:
                arguments.append(role)
    for name in sorted(changed):
        known = ", ".join(values) or "none"
        problems.add(
            f"--set names '{name}', which is no constant of the cell",
            f"Its compile-time constants (arguments with a numeric default): {known}.",
            "name one of those, or give the argument a numeric default",
        )
    if not any(a.kind == "state" for a in arguments) and not problems.found:
        problems.add(
            "it has no state", "A recurrence carries at least one State.", "annotate one: h: State"
        )
    if not any(a.kind == "input" for a in arguments) and not problems.found:
        problems.add(
            "it has no input", "The inputs say how many steps there are.", "annotate one: x: Input"
        )
    problems.raise_any()
    return tuple(arguments), values


def _parameters(cell: Cell, problems: _Problems) -> list[inspect.Parameter]:
    try:
        signature = inspect.signature(cell.function, eval_str=True, locals=_closure(cell))
    except Exception as error:  # whatever evaluating the author's own annotations raises
        problems.add(
            f"an annotation can't be evaluated: {type(error).__name__}: {error}",
            "Annotations are State, Input, Param or Matrix, imported from rnncc.",
            "import what the annotations name at the top of the file",
        )
        problems.raise_any()
        raise
    parameters = list(signature.parameters.values())
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            problems.add(
                f"the signature has *{parameter.name}",
                "Each argument has a name and a role.",
                "write every argument out",
            )
    return [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _closure(cell: Cell) -> dict[str, Any]:
    return dict(inspect.getclosurevars(cell.function).nonlocals)


def _argument_line(cell: Cell, name: str) -> int:
    """The line of the signature that names the argument."""
    for line in range(cell.line, cell.line + 200):
        text = getline(cell.file, line)
        if re.search(rf"\b{re.escape(name)}\b\s*[:,)=]", text):
            return line
        if not text or re.search(r"\)\s*(->.*)?:\s*$", text):
            break
    return cell.line


def _reserved(name: str) -> str:
    """Why the name can't go into C++ and CUDA; empty if it can."""
    if name in KEYWORDS or re.fullmatch(STDINT_MACRO, name):
        return "is a reserved word of C++ or CUDA"
    if name in functions.TABLE or name in ("shift", "mean", "silu", "gelu", "spike", "heaviside"):
        return "is the name of a function of rnncc"
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or "__" in name:
        return "is not a plain ASCII name (letters, digits, single underscores, a letter first)"
    if name.startswith("RNNCC"):
        return "starts with RNNCC, which is rnncc's own"
    return ""


def _constant(
    parameter: inspect.Parameter, changed: dict[str, float], problems: _Problems, line: int
) -> float:
    value = changed.pop(parameter.name, parameter.default)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        problems.add(
            f"the default of '{parameter.name}' is {value!r}",
            "A default makes an argument a compile-time constant, a finite number.",
            "a number, or no default and a role",
            line,
        )
    return value  # type: ignore[no-any-return]


def _as_role(annotation: Any) -> Role | None:
    role = annotation() if isinstance(annotation, type) and annotation in KINDS else annotation
    return role if isinstance(role, Role) else None


def _role(parameter: inspect.Parameter, problems: _Problems, line: int) -> Argument | None:
    annotation: Any = parameter.annotation
    role = _as_role(annotation)
    if role is None:
        seen = "no role" if annotation is inspect.Parameter.empty else f"the role {annotation!r}"
        problems.add(
            f"the argument '{parameter.name}' has {seen}",
            "Each argument is a State, an Input, a Param, a Matrix, or has a numeric default.",
            f"{parameter.name}: Input (or State, Param, Matrix(block=k))",
            line,
        )
        return None
    block = role.block if isinstance(role, Matrix) else None
    if block is not None and (type(block) is not int or block < 1):
        problems.add(
            f"'{parameter.name}' is a Matrix with block={block!r}",
            "block is how many consecutive channels it mixes.",
            "block=2, 4 or 8",
            line,
        )
        return None
    start = getattr(role, "init", None)
    if not _is_init(role, start):
        wanted = (
            "a finite number" if isinstance(role, State) else "uniform, normal or constant(...)"
        )
        problems.add(
            f"'{parameter.name}' has init={start!r}",
            f"The init of a {type(role).__name__} is {wanted}.",
            "State(init=0.0)" if isinstance(role, State) else "init=uniform(-1, 1)",
            line,
        )
        return None
    return Argument(
        name=parameter.name,
        kind=KINDS[type(role)],
        shared=getattr(role, "shared", False),
        block=block,
        start=float(role.init) if isinstance(role, State) else 0.0,
        init=role.init if isinstance(role, (Param, Matrix)) else None,
    )


def _is_init(role: Role, init: Any) -> bool:
    if isinstance(role, State):
        return type(init) in (int, float) and math.isfinite(init)
    return (
        isinstance(role, Input)
        or (isinstance(role, Matrix) and init is None)
        or (isinstance(init, Init) and math.isfinite(init.a) and math.isfinite(init.b))
    )


# --- the body --------------------------------------------------------------------------------


class _Recorder:
    """Runs the body under a line tracer and names each value as its local name is bound."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.bindings: dict[str, Any] = {}
        self.first_line: dict[str, int] = {}
        self.lets: list[Let] = []
        self.problems = _Problems(cell)
        self._before = cell.line

    def run(self, arguments: dict[str, Any]) -> Any:
        self._known = {name: id(value) for name, value in arguments.items()}
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            return self.cell.function(**arguments)
        except CellError:
            raise
        except Exception as error:
            raise self._explain(error) from error
        finally:
            sys.settrace(before)
            self.problems.raise_any()

    def _enter(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        return self._step if frame.f_code is self.cell.code else None

    def _step(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any]:
        if event in ("line", "return"):
            for name, value in list(frame.f_locals.items()):
                if isinstance(value, (Value, Condition)):
                    self._bind(name, value)
            self._before = frame.f_lineno
        return self._step

    def _bind(self, name: str, value: Any) -> None:
        bound = self.bindings.get(name)
        if bound is value:
            return
        line = value.line or self._before  # an argument under a second name has no line of its own
        if bound is not None and not self._is_alias(name, bound):
            self.bindings[name] = value
            first = self.first_line.get(name)
            earlier = f"line {first}" if first else "the signature"
            self.problems.add(
                f"'{name}' is assigned again (first in {earlier})",
                "A name stands for one value, here and in the emitted code.",
                f"give the second value its own name, for example {name}_new",
                line,
            )
            return
        self.bindings[name] = value
        self.first_line[name] = line
        if isinstance(value, Value) and not value.expr.is_Symbol and not value.expr.is_number:
            self.let(name, value)

    def _is_alias(self, name: str, value: Any) -> bool:
        """A second name for a value, such as a loop's variable; it is never emitted."""
        return isinstance(value, Value) and value.expr.is_Symbol and value.expr.name != name

    def let(self, name: str, value: Value) -> None:
        """Name the value: from now on it is a symbol."""
        reason = _reserved(name)
        if reason:
            self.problems.add(
                f"the local name '{name}' {reason}",
                "Names go unchanged into C++ and CUDA.",
                f"rename it, for example '{name.strip('_')}_'",
                value.line,
            )
        self.lets.append(Let(name, value.expr, value.line, _comment(self.cell.file, value.line)))
        value.expr = Symbol(name, real=True)

    def _explain(self, error: Exception) -> CellError:
        """An exception from the author's own code, as a problem at its line."""
        line = self.cell.line
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code is self.cell.code:
                line = trace.tb_lineno
            trace = trace.tb_next
        self.problems.found.clear()
        expected = "The body runs once on symbols of rnncc."
        fix = "use rnncc's functions (from rnncc import tanh, where, ...) and Python numbers"
        if isinstance(error, NameError):
            fix = "define the name, or import the function from rnncc"
        self.problems.add(f"{type(error).__name__}: {error}", expected, fix, line)
        return CellError(self.problems.found)


def _comment(file: str, line: int) -> str:
    """The end-of-line comment of a source line."""
    text = getline(file, line).strip()
    if "#" not in text:
        return ""
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                return token.string.lstrip("# ").replace("*/", "").rstrip("\\ ")
    except (tokenize.TokenError, IndentationError, SyntaxError):
        pass  # a line of a longer statement, not whole by itself
    return ""


# --- the return ------------------------------------------------------------------------------


def _read_return(
    cell: Cell, recorder: _Recorder, arguments: tuple[Argument, ...], returned: Any
) -> tuple[dict[str, Expr], dict[str, Expr]]:
    states = [a.name for a in arguments if a.kind == "state"]
    given = _as_dict(cell, states, returned)
    problems = _Problems(cell)
    line = _return_line(cell)
    for name in states:
        if name not in given:
            problems.add(
                f"the state '{name}' is never assigned",
                f"The returned dict has the keys {', '.join(map(str, given)) or 'none'}.",
                f'return {{"{name}": ..., ...}} with the next value of every state',
                line,
            )
    problems.raise_any()
    named = {name: _name_result(recorder, name, name in states, v) for name, v in given.items()}
    recorder.problems.raise_any()
    outputs = {name: expr for name, expr in named.items() if name not in states}
    next_ = {name: named[name] for name in states}
    if not outputs:
        outputs = {states[-1]: next_[states[-1]]}
    return next_, outputs


def _as_dict(cell: Cell, states: list[str], returned: Any) -> dict[str, Any]:
    problems = _Problems(cell)
    line = _return_line(cell)
    if isinstance(returned, dict):
        for key in returned:
            if not isinstance(key, str):
                problems.add(
                    f"the returned dict has the key {key!r}",
                    "Keys are names of states or of outputs.",
                    'return {"h": ..., "y": ...}',
                    line,
                )
            elif reason := _reserved(key):
                problems.add(
                    f"the returned key '{key}' {reason}",
                    "Names go unchanged into C++ and CUDA.",
                    'rename it, for example "y"',
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
    result = Value(lift(value))
    result.line = getattr(value, "line", recorder.cell.line)
    let = f"{name.rstrip('_')}_next" if is_state else name
    if result.expr.is_Symbol and (is_state or result.expr.name != name):
        return result.expr
    if let in recorder.bindings and not result.expr.is_Symbol:
        recorder.problems.add(
            f"the returned {name!r} needs the name '{let}', which is taken",
            "An unnamed next value of a state h is called h_next, an output by its key.",
            f"return a named value, or rename '{let}'",
            recorder.first_line.get(let),
        )
    elif not result.expr.is_Symbol:
        recorder.let(let, result)
        recorder.bindings[let] = result
    return result.expr


# --- what can only be seen at the end --------------------------------------------------------


def _prune(lets: list[Let], results: list[Expr]) -> tuple[Let, ...]:
    """Only the lets that a result needs."""
    needed = {s.name for result in results for s in result.free_symbols}
    kept: list[Let] = []
    for let in reversed(lets):
        if let.name in needed:
            kept.append(let)
            needed |= {s.name for s in let.expr.free_symbols}
    return tuple(reversed(kept))


def _check(cell: Cell, cell_ir: CellIR, recorder: _Recorder) -> None:
    problems = _Problems(cell)
    used = {s.name for let in cell_ir.lets for s in let.expr.free_symbols}
    used |= {s.name for expr in cell_ir.next.values() for s in expr.free_symbols}
    used |= {s.name for expr in cell_ir.outputs.values() for s in expr.free_symbols}
    for argument in cell_ir.arguments:
        if argument.name not in used:
            problems.add(
                f"the argument '{argument.name}' is not used",
                "Every argument takes part in the recurrence or in an output.",
                "use it or remove it",
                _argument_line(cell, argument.name),
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
