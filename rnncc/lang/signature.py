"""Signature: the arguments of a cell's function -> roles and compile-time constants."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator
from linecache import getline
from typing import Any

from rnncc.errors import CellError, Problem
from rnncc.ir import functions
from rnncc.ir.init import Init
from rnncc.ir.program import Argument
from rnncc.lang.dsl import Cell, Input, Matrix, Param, Role, State, normal, uniform

KINDS: dict[type[Role], str] = {State: "state", Input: "input", Param: "param", Matrix: "matrix"}

LAYER_NAMES = ("state", "x")

OPTIONS = frozenset(
    """
    h0 return_state return_states lengths cu_seqlens reset reverse observe
    solver segment iterations tol on_failure checkpoint
    """.split()
)

STDINT_MACRO = r"(U?INT\w*|SIZE|PTRDIFF|WCHAR|WINT|SIG_ATOMIC)_(MAX|MIN|C|WIDTH)"

KEYWORDS = frozenset(
    """
    alignas alignof and and_eq asm atomic_cancel atomic_commit atomic_noexcept auto bitand bitor
    bool break case catch char char8_t char16_t char32_t class co_await co_return co_yield compl
    concept const const_cast consteval constexpr constinit continue decltype default delete do
    double dynamic_cast else enum explicit export extern false float for friend goto if inline int
    long mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected
    public register reinterpret_cast requires restrict return short signed sizeof static
    static_assert static_cast struct switch template this thread_local throw true try typedef
    typeid typename union unsigned using virtual void volatile wchar_t while xor xor_eq linux unix
    __global__ __device__ __host__ __shared__ __constant__ __restrict__ threadIdx blockIdx blockDim
    gridDim warpSize half float2 float4 double2 int2 int4 dim3 asm typeof
    real rnncc std NAN INFINITY M_PI M_E EOF NULL assert errno signbit
    """.split()
)


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
    cell: Cell, changed: dict[str, float]
) -> tuple[tuple[Argument, ...], dict[str, float]]:
    """The arguments with roles, in order, and the values of the constants, some of them changed.

    Raises:
        CellError: everything in the signature that can't be compiled.
    """
    problems = Problems(cell)
    arguments: list[Argument] = []
    values: dict[str, float] = {}
    reason = reserved(cell.name)
    if reason:
        problems.add(f"its name {reason}", "The name goes into C++ and CUDA.", "rename the cell")
    for parameter in _parameters(cell, problems):
        name = parameter.name
        line = argument_line(cell, name)
        reason = reserved(name)
        if reason:
            problems.add(
                f"the argument '{name}' {reason}",
                "Names go unchanged into C++ and CUDA.",
                f"rename it, for example '{name.strip('_')}_'",
                line,
            )
        elif name in LAYER_NAMES and _is_given(_as_role(parameter.annotation)):
            problems.add(
                f"the shared argument '{name}' has the name of an argument of the layer",
                f"A layer takes shared inputs by name, beside its own {', '.join(LAYER_NAMES)}.",
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


def _parameters(cell: Cell, problems: Problems) -> list[inspect.Parameter]:
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


def argument_line(cell: Cell, name: str) -> int:
    """The line of the signature that names the argument."""
    for line in range(cell.line, cell.line + 200):
        text = getline(cell.file, line)
        if re.search(rf"\b{re.escape(name)}\b\s*[:,)=]", text):
            return line
        if not text or re.search(r"\)\s*(->.*)?:\s*$", text):
            break
    return cell.line


def reserved(name: str) -> str:
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
    parameter: inspect.Parameter, changed: dict[str, float], problems: Problems, line: int
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


def _role(parameter: inspect.Parameter, problems: Problems, line: int) -> Argument | None:
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
    faults = list(_faults(parameter.name, role))
    for seen, expected, fix in faults:
        problems.add(seen, expected, fix, line)
    return None if faults else _argument(parameter.name, role, block)


def _is_given(role: Role | None) -> bool:
    """Whether a layer takes it by name, beside x."""
    return isinstance(role, Input) and role.shared and not role.projected


def _argument(name: str, role: Role, block: int | None) -> Argument:
    kind = KINDS[type(role)]
    if isinstance(role, State):
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
    """What is wrong with the options of a role: what was seen, what was expected, a fix."""
    if isinstance(role, State):
        if type(role.init) not in (int, float) or not math.isfinite(role.init):
            seen = f"'{name}' has init={role.init!r}"
            yield seen, "The init of a State is a finite number.", "State(init=0.0)"
    elif isinstance(role, Input):
        for option in ("shared", "projected"):
            if type(getattr(role, option)) is not bool:
                seen = f"'{name}' has {option}={getattr(role, option)!r}"
                yield seen, "It is True or False.", f"Input({option}=True)"
        if role.projected and not role.shared:
            yield (
                f"'{name}' has projected=True without shared=True",
                "A layer always projects an input that each channel has of its own.",
                "Input, or Input(shared=True, projected=True)",
            )
        if role.bias is not None and _is_given(role):
            yield (
                f"'{name}' has a bias, but is given to a layer, not projected",
                "A bias is that of the layer's projection.",
                "Input(shared=True, projected=True, bias=...), or no bias",
            )
        yield from _faults_of_start(name, "bias", role.bias, role.shared)
        yield from _faults_of_start(name, "typical", role.typical, True)
    elif isinstance(role, Param):
        yield from _faults_of_start(name, "init", role.init, role.shared, required=True)
    elif isinstance(role, Matrix):
        yield from _faults_of_start(name, "init", role.init, True)


def _faults_of_start(
    name: str, option: str, start: Any, single: bool, required: bool = False
) -> Iterator[tuple[str, str, str]]:
    """Of one distribution; `single`: it isn't one value per channel, so it can't be spaced."""
    if start is None and not required:
        return
    kinds = "uniform, normal or constant(...)" if single else "uniform, normal, constant or spaced"
    numbers = isinstance(start, Init) and math.isfinite(start.a) and math.isfinite(start.b)
    if not numbers or (single and start.kind == "spaced"):
        shown = start if isinstance(start, Init) else repr(start)
        yield (
            f"'{name}' has {option}={shown}",
            f"It is {kinds}, of finite numbers.",
            f"{option}=uniform(-1, 1)",
        )
    elif not start.in_order():
        yield (
            f"'{name}' has {option}={start}",
            "It is uniform from the lower bound to the upper, or normal with a deviation >= 0.",
            f"{option}=uniform(-1, 1)",
        )
    elif odd := [value for value in start.samples() if not math.isfinite(value)]:
        yield (
            f"'{name}' has {option}={start}, which can be {odd[0]:g}",
            "It is finite wherever it can be drawn, up to 6 deviations from a normal's mean.",
            "narrow the range: log(uniform(0.1, 1)), not log(uniform(0, 1))",
        )
