"""Signature: the arguments of a cell's function -> roles and compile-time constants."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from linecache import getline
from typing import Any

from rnncc.errors import CellError, Problem
from rnncc.ir.init import Init
from rnncc.ir.program import Argument
from rnncc.lang.dsl import Cell, Input, Matrix, Param, Role, State, normal, uniform
from rnncc.lang.names import LAYER_NAMES, OPTIONS, emitted, reserved, unreserved
from rnncc.lang.numbers import is_finite, number, shown
from rnncc.lang.sizes import START, spread

UNCHANGED = "Names are used unchanged in C++ and CUDA."
KINDS: dict[type[Role], str] = {State: "state", Input: "input", Param: "param", Matrix: "matrix"}


class Problems:
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


def read_signature(
    cell: Cell, changed: Mapping[str, float]
) -> tuple[tuple[Argument, ...], dict[str, float]]:
    """The arguments with roles, in order, and the values of the constants, some of them changed.

    Raises:
        CellError: everything in the signature that can't be compiled.
    """
    problems = Problems(cell)
    arguments: list[Argument] = []
    values: dict[str, float] = {}
    roles: dict[str, Role | None] = {}
    if reason := reserved(cell.name):
        fix = f"rename the cell, for example '{unreserved(cell.name)}'"
        problems.add(f"the cell's name {reason}", UNCHANGED, fix)
    for parameter in _parameters(cell, problems):
        line = argument_line(cell, parameter.name)
        _check_name(parameter, problems, line)
        if parameter.default is inspect.Parameter.empty:
            role = _role(parameter, problems, line)
            arguments += [role] if role else []
            roles[parameter.name] = _as_role(parameter.annotation)
        else:
            values[parameter.name] = _constant(parameter, changed, problems, line)
    _check_constants(values, changed, problems)
    _check_starts(arguments, problems)

    def add(name: str, seen: str, expected: str, fix: str) -> None:
        problems.add(seen, expected, fix, argument_line(cell, name))

    arguments = spread(arguments, roles, values, add)
    if not problems.found:
        _check_kinds({argument.kind for argument in arguments}, problems)
    problems.raise_any()
    return _emitted(arguments, cell_names(cell)), values


def cell_names(cell: Cell) -> set[str]:
    """The author's names: arguments, locals, and strings, which may be keys of the result."""
    found = {*cell.code.co_varnames, *cell.code.co_cellvars}
    constants = list(cell.code.co_consts)
    while constants:
        constant = constants.pop()
        if isinstance(constant, str):
            found.add(constant)
        elif isinstance(constant, tuple):
            constants += constant
    return found


def _emitted(arguments: Iterable[Argument], own: set[str]) -> tuple[Argument, ...]:
    """The arguments, with other names in C++ and CUDA where these can't take the author's."""
    found: list[Argument] = []
    for argument in arguments:
        name = emitted(argument.name, [a.symbol for a in found], own)
        found.append(argument if name == argument.name else replace(argument, emitted=name))
    return tuple(found)


def _check_name(parameter: inspect.Parameter, problems: Problems, line: int) -> None:
    name = parameter.name
    if name.startswith("_"):
        problems.add(
            f"the argument '{name}' begins with an underscore",
            "Arguments are given to the layer and its functions by name.",
            f"rename it, for example '{emitted(name, (), cell_names(problems.cell))}'",
            line,
        )
    elif name in (*LAYER_NAMES, "self") and _is_given(_as_role(parameter.annotation)):
        problems.add(
            f"the input '{name}' is given to a layer by name, and has that of a layer's argument",
            f"A layer takes it beside its own {', '.join(LAYER_NAMES)}.",
            f"rename it, for example '{name}_'",
            line,
        )
    elif name in OPTIONS:
        problems.add(
            f"the argument '{name}' has the name of an option",
            f"The generated function has the options {', '.join(sorted(OPTIONS))}.",
            f"rename it, for example '{name}_'",
            line,
        )


def _check_constants(
    values: Mapping[str, float], changed: Mapping[str, float], problems: Problems
) -> None:
    """Refuse values for constants that the cell doesn't have."""
    known = ", ".join(values)
    for name in sorted(changed.keys() - values.keys()):
        default = f"{name}={shown(changed[name])}"
        if name in OPTIONS:
            fix = f"give it to the layer or the call: compile(...).layer(64, 64, {default})"
        elif known:
            fix = "name one of those, or give the argument a numeric default"
        else:
            fix = f"leave it out, or write the argument with a default in the cell: {default}"
        problems.add(
            f"'{name}' is given a value, but isn't a constant of the cell",
            f"Its compile-time constants (arguments with a numeric default): {known or 'none'}.",
            fix,
        )


def _check_starts(arguments: Iterable[Argument], problems: Problems) -> None:
    """The name of a learned start is its own."""
    taken = {a.name for a in arguments}
    for a in arguments:
        if a.start is not None and a.start.name in taken:
            problems.add(
                f"the argument '{a.start.name}' has the name of the learned start of '{a.name}'",
                f"State(init=Param) on '{a.name}' makes a param '{a.start.name}'.",
                f"rename the argument, for example '{a.start.name}_'",
                argument_line(problems.cell, a.start.name),
            )


def _check_kinds(kinds: set[str], problems: Problems) -> None:
    if "state" not in kinds:
        problems.add(
            "it has no state", "A recurrence carries at least one State.", "annotate one: h: State"
        )
    if "input" not in kinds:
        problems.add(
            "it has no input",
            "The number of steps is that of the inputs, so there is at least one.",
            "annotate one: x: Input",
        )


def _parameters(cell: Cell, problems: Problems) -> list[inspect.Parameter]:
    try:
        signature = inspect.signature(cell.function, eval_str=True, locals=_closure(cell))
    except Exception as error:  # any exception from the author's own annotations
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


def argument_line(cell: Cell, name: str) -> int:
    """The line of the signature that names the argument."""
    for line in range(cell.line, cell.line + 200):
        text = getline(cell.file, line)
        if re.search(rf"\b{re.escape(name)}\b\s*[:,)=]", text):
            return line
        if not text or re.search(r"\)\s*(->.*)?:\s*$", text):
            break
    return cell.line


def _constant(
    parameter: inspect.Parameter, changed: Mapping[str, float], problems: Problems, line: int
) -> float:
    value = changed.get(parameter.name, parameter.default)
    found = number(value)
    if found is None or not is_finite(found):
        given = parameter.name in changed
        problems.add(
            f"'{parameter.name}' is given {shown(value)}"
            if given
            else f"the default of '{parameter.name}' is {shown(value)}",
            "A default makes an argument a compile-time constant, a finite number.",
            "a number" if given else "a number, or no default and a role",
            line,
        )
    if _as_role(parameter.annotation) is not None:
        problems.add(
            f"the argument '{parameter.name}' has a role and a default",
            "A default makes an argument a compile-time constant.",
            _with_default(_as_role(parameter.annotation), parameter.default),
            line,
        )
    return 0.0 if found is None else found


def _with_default(role: Role | None, default: Any) -> str:
    """What the author may have meant by a role with a default."""
    if isinstance(role, Param) and number(default) is not None:
        return f"no default and Param(init=constant({shown(default)})), or no role"
    if isinstance(role, State) and number(default) is not None:
        return f"no default and State(init={shown(default)}), or no role"
    return "no default, or no role"


def _as_role(annotation: Any) -> Role | None:
    role = annotation() if isinstance(annotation, type) and annotation in KINDS else annotation
    return role if isinstance(role, Role) else None


def _role(parameter: inspect.Parameter, problems: Problems, line: int) -> Argument | None:
    annotation: Any = parameter.annotation
    role = _as_role(annotation)
    if role is None:
        seen = "no role" if annotation is inspect.Parameter.empty else f"the role {annotation!r}"
        problems.add(
            f"the argument '{parameter.name}' has {seen}",
            "Each argument is a State, an Input, a Param, a Matrix, or has a numeric default.",
            _without_self(problems.cell)
            if parameter.name == "self"
            else f"{parameter.name}: Input (or State, Param, Matrix(block=k))",
            line,
        )
        return None
    block = role.block if isinstance(role, Matrix) else None
    if block is not None and (type(block) is not int or block < 1):
        problems.add(
            f"'{parameter.name}' is a Matrix with block={block!r}",
            "block is the number of consecutive channels that the Matrix mixes, an int >= 1.",
            "block=2, 4 or 8",
            line,
        )
        return None
    faults = list(_faults(parameter.name, role))
    for seen, expected, fix in faults:
        problems.add(seen, expected, fix, line)
    return None if faults else _argument(parameter.name, role, block)


def _start(state: State) -> Param | None:
    """The Param that is the state's value before the first step, if it is learned."""
    start = _as_role(state.init)
    return start if isinstance(start, Param) else None


def _without_self(cell: Cell) -> str:
    head = re.sub(r"\bself\s*,?\s*", "", getline(cell.file, cell.line).strip(), count=1)
    return f"@staticmethod above @cell, or a function outside the class, without self: {head}"


def _is_given(role: Role | None) -> bool:
    """Whether a layer takes it by name, beside x."""
    if not isinstance(role, Input):
        return False
    return role.shared if role.projected is None else not role.projected


def _argument(name: str, role: Role, block: int | None) -> Argument:
    kind = KINDS[type(role)]
    if isinstance(role, State):
        start = _start(role)
        if start is not None:
            start_of = Argument(f"{name}{START}", "param", start.shared, init=start.init)
            return Argument(name, kind, init=0.0, start=start_of)
        assert isinstance(role.init, (int, float))
        return Argument(name, kind, init=float(role.init))
    if isinstance(role, Input):
        given = _is_given(role)
        typical = role.typical or (uniform(0, 1) if given else normal(0, 1))
        return Argument(
            name, kind, role.shared, bias=role.bias, typical=typical, projected=not given
        )
    assert isinstance(role, (Param, Matrix))
    return Argument(name, kind, getattr(role, "shared", False), block, init=role.init)


def _faults(name: str, role: Role) -> Iterator[tuple[str, str, str]]:
    """The faults in the options of a role: seen, expected, fix."""
    if isinstance(role, State):
        start = _start(role)
        if start is not None:
            yield from _faults_of_init(f"{name}{START}", "init", start.init, start.shared, True)
            if start.size is not None and start.size != role.size:
                yield (
                    f"'{name}' has init=Param(size={start.size!r})",
                    "A learned start has the size of its state.",
                    f"State(size={start.size!r}, init=Param)",
                )
        elif isinstance(role.init, Init):
            seen = f"'{name}' has init={role.init}"
            expected = "The init of a State is a number, or a Param if it is learned."
            yield seen, expected, f"State(init=Param(init={role.init}))"
        elif isinstance(role.init, bool) or not (
            isinstance(role.init, (int, float)) and is_finite(role.init)
        ):
            seen = f"'{name}' has init={shown(role.init)}"
            yield seen, "The init of a State must be a finite number.", "State(init=0.0)"
    elif isinstance(role, Input):
        for option in ("shared", "projected"):
            value = getattr(role, option)
            if type(value) is not bool and not (value is None and option == "projected"):
                seen = f"'{name}' has {option}={value!r}"
                yield seen, f"{option} must be True or False.", f"Input({option}=True)"
        if role.bias is not None and _is_given(role):
            yield (
                f"'{name}' has a bias, but is given to the layer by name, not projected",
                "bias= is the init of the projection's bias, so it needs a projected input.",
                "Input(projected=True, bias=...), with shared=True where it is, or no bias",
            )
        yield from _faults_of_init(name, "bias", role.bias, role.shared)
        yield from _faults_of_init(name, "typical", role.typical, True)
    elif isinstance(role, Param) and type(role.shared) is not bool:
        init = f"Param(init=constant({role.shared!r}))" if number(role.shared) is not None else ""
        yield (
            f"'{name}' has shared={shown(role.shared)}",
            "shared must be True or False.",
            init or "Param(shared=True)",
        )
    elif isinstance(role, Param):
        yield from _faults_of_init(name, "init", role.init, role.shared, required=True)
    elif isinstance(role, Matrix):
        yield from _faults_of_init(name, "init", role.init, True)


def _faults_of_init(
    name: str, option: str, init: Any, single: bool, required: bool = False
) -> Iterator[tuple[str, str, str]]:
    """The faults of one init; `single`: it isn't one value per channel, so it can't be spaced."""
    if init is None and not required:
        return
    kinds = "uniform, normal or constant(...)" if single else "uniform, normal, constant or spaced"
    numbers = isinstance(init, Init) and is_finite(init.a) and is_finite(init.b)
    if not numbers or (single and init.kind == "spaced"):
        shown = init if isinstance(init, Init) else repr(init)
        yield (
            f"'{name}' has {option}={shown}",
            f"{option}= takes {kinds}, with finite numbers.",
            f"{option}=uniform(-1, 1)" if number(init) is None else f"{option}=constant({init})",
        )
    elif rule := init.broken_rule():
        yield f"'{name}' has {option}={init}", f"{rule}.", f"{option}={init.repaired()}"
    elif odd := [value for value in init.samples() if not is_finite(value)]:
        yield (
            f"'{name}' has {option}={init}, which can be {odd[0]:g}",
            "Every value that can be drawn must be finite "
            "(a normal is checked to 6 deviations from its mean).",
            "narrow the range: log(uniform(0.1, 1)), not log(uniform(0, 1))",
        )
