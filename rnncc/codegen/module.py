"""Module: Compiled -> the names, arguments and docs of a cell's Python module, for its template."""

from __future__ import annotations

from typing import Any

from rnncc.codegen import escape
from rnncc.codegen.header import commented, doc, origin
from rnncc.codegen.layout import WIDTH, fill
from rnncc.ir.program import Argument, CellIR, Compiled, whole
from rnncc.ir.spec import KernelSpec
from rnncc.ir.vector import Role, Vector, grouped

# Of the field, in capitals, as is every word without a vowel; letters before STEMS make new ones.
ABBREVIATIONS = "ema lem lmu ode".split()
STEMS = "gru lif lru lstm mgu rnn sru".split()

IMPORTED = ("Any", "Tensor", "CellLayer", "Kernel")

DTYPES = "float32, bfloat16, float16 or float64"


def class_name(name: str) -> str:
    """my_gru -> MyGRU, xlstm -> XLSTM, a_cell -> ACell: abbreviations stay in capitals."""
    words = "".join(_capital(word) for word in name.split("_"))
    return f"{words}Layer" if words == name else words


def _capital(word: str) -> str:
    stem = any(word.endswith(stem) and len(word) - len(stem) <= 2 for stem in STEMS)
    abbreviated = stem or word in ABBREVIATIONS or not set("aeiouyAEIOUY") & set(word)
    return word.upper() if abbreviated else word[:1].upper() + word[1:]


def module_context(compiled: Compiled, spec: KernelSpec) -> dict[str, Any]:
    """The variables of templates/module.py.j2."""
    cell = compiled.cell
    arguments, starts = whole(cell.of_kind("input", "param", "matrix")), whole(cell.starts)
    names, imported = [a.name for a in arguments], _imported(cell.name)
    given = [f"{a.name}={a.name}" for a in whole(cell.inputs) if not a.projected]
    return {
        "header": commented(origin(compiled, spec, "module.py.j2"), "#"),
        "name": cell.name,
        "class_name": class_name(cell.name),
        "doc": [escape.docstring(line) for line in doc(cell)],
        "arguments": _by_shape((*arguments, *starts)),
        "signature": fill(
            [
                *(f"{name}: {imported['Tensor']}" for name in names),
                *(f"{a.name}: {imported['Tensor']} | None = None" for a in starts),
            ],
            4,
            ",",
        ),
        "tuple": _tuple([*names, *(a.name for a in starts)]),
        "imports": {n: n if n == own else f"{n} as {own}" for n, own in imported.items()},
        "imported": imported,
        "options": _free("options", [*names, *(a.name for a in starts)]),
        "state": _state_text(cell, spec),
        "output": _output_text(cell),
        "call": f"y, state = layer({', '.join(['x', *given])})",
    }


def _imported(cell: str) -> dict[str, str]:
    """What the module calls the names that it imports: those of the cell and its layer are taken.

    A cell's name has no underscore in front.
    """
    taken = (cell, class_name(cell))
    return {name: f"_{name}" if name in taken else name for name in IMPORTED}


def _tuple(names: list[str]) -> str:
    """An argument of a call, in one line if it fits."""
    line = f"        ({', '.join(names)}{',' if len(names) == 1 else ''})"
    return line if len(line) < WIDTH else f"        (\n{fill(names, 12, ',')}\n        )"


def _free(wanted: str, taken: list[str]) -> str:
    return _free(f"{wanted}_", taken) if wanted in taken else wanted


def _by_shape(arguments: tuple[Argument, ...]) -> list[tuple[str, str]]:
    """Neighbours of one shape together: (names, description)."""
    grouped: list[tuple[list[str], str]] = []
    for argument in arguments:
        text = _argument_text(argument)
        if grouped and grouped[-1][1] == text:
            grouped[-1][0].append(argument.name)
        else:
            grouped.append(([argument.name], text))
    return [(", ".join(names), text) for names, text in grouped]


def _argument_text(argument: Argument) -> str:
    more = _sizes(argument.vector)
    if argument.kind == "input":
        shared = f"[..., T{more}], shared by all channels."
        return shared if argument.shared else f"[..., T, N{more}], {DTYPES}."
    if argument.kind == "matrix":
        k = argument.block
        return f"[N / {k}, {k}, {k}], one matrix for each {k} consecutive channels."
    count = "values" if more else "value"
    one = "" if more else "one "
    if argument.shared:
        return f"[1{more}], {one}{count} for all channels."
    return f"[N{more}], {one}{count} per channel."


def _sizes(vector: Vector | None) -> str:
    """The dimensions of a vector, behind those of channels."""
    return "".join(f", {size}" for size in vector.shape) if vector else ""


def _shapes(names: list[str], cell: CellIR, role: Role, before: str) -> str:
    """The shape of each: one for all, or a list where they differ."""
    vectors = grouped(names, cell.vectors, role)
    shapes = [f"[{before}{_sizes(v)}]" for v in vectors]
    if len(set(shapes)) == 1:
        return shapes[0] + (" each" if len(shapes) > 1 else "")
    return " and ".join(shapes)


def _state_text(cell: CellIR, spec: KernelSpec) -> str:
    starts = "zeros" if set(cell.initial) == {0.0} else "the cell's inits"
    if cell.starts:
        learned = [a.name for a in whole(cell.starts)]
        rest = [] if len(cell.starts) == len(cell.states) else ["the cell's inits"]
        starts = " and ".join([*learned, *rest])
    states = whole(cell.states)
    shapes = _shapes([s.name for s in cell.states], cell, "state", "..., N")
    if len(states) == 1:
        return f"{shapes}, the state before the first step; {starts} if None. Differentiable."
    names = ", ".join(s.name for s in states)
    return f"the states ({names}) before the first step, {shapes}; {starts} if None."


def _output_text(cell: CellIR) -> str:
    outputs = grouped(cell.outputs, cell.vectors, "output")
    shapes = _shapes(list(cell.outputs), cell, "output", "..., T, N")
    if len(outputs) == 1:
        return f"{shapes} in the dtype of the inputs; with `return_state` (output, state)."
    names = ", ".join(v.name for v in outputs)
    return f"({names}), {shapes}; with `return_state` (outputs, state)."
