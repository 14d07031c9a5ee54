"""Module: Compiled -> the names, arguments and docs of a cell's Python module, for its template."""

from __future__ import annotations

from typing import Any

from rnncc.codegen import escape
from rnncc.codegen.header import commented, doc, origin
from rnncc.codegen.layout import WIDTH, fill
from rnncc.ir.program import Argument, CellIR, Compiled
from rnncc.ir.spec import KernelSpec

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
    arguments = cell.of_kind("input", "param", "matrix")
    names, imported = [a.name for a in arguments], _imported(cell.name)
    given = [f"{a.name}={a.name}" for a in cell.inputs if not a.projected]
    return {
        "header": commented(origin(compiled, spec, "module.py.j2"), "#"),
        "name": cell.name,
        "class_name": class_name(cell.name),
        "doc": [escape.docstring(line) for line in doc(cell)],
        "arguments": _by_shape((*arguments, *cell.starts)),
        "signature": fill(
            [
                *(f"{name}: {imported['Tensor']}" for name in names),
                *(f"{a.name}: {imported['Tensor']} | None = None" for a in cell.starts),
            ],
            4,
            ",",
        ),
        "tuple": _tuple([*names, *(a.name for a in cell.starts)]),
        "imports": {n: n if n == own else f"{n} as {own}" for n, own in imported.items()},
        "imported": imported,
        "options": _free("options", [*names, *(a.name for a in cell.starts)]),
        "state": _state_text(cell, spec),
        "output": _output_text(spec),
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
    if argument.kind == "input":
        return "[..., T], shared by all channels." if argument.shared else f"[..., T, N], {DTYPES}."
    if argument.kind == "matrix":
        k = argument.block
        return f"[N / {k}, {k}, {k}], one matrix for each {k} consecutive channels."
    return "[1], one value for all channels." if argument.shared else "[N], one value per channel."


def _state_text(cell: CellIR, spec: KernelSpec) -> str:
    starts = "zeros" if set(cell.initial) == {0.0} else "the cell's inits"
    if cell.starts:
        learned = [a.name for a in cell.starts]
        whole = len(learned) == len(cell.states)
        starts = " and ".join([*learned, *([] if whole else ["the cell's inits"])])
    if len(cell.states) == 1:
        return f"[..., N], the state before the first step; {starts} if None. Differentiable."
    names = ", ".join(s.name for s in cell.states)
    return f"the states ({names}) before the first step, [..., N] each; {starts} if None."


def _output_text(spec: KernelSpec) -> str:
    if len(spec.outputs) == 1:
        return "[..., T, N] in the dtype of the inputs; with `return_state` (output, state)."
    names = ", ".join(spec.outputs)
    return f"({names}), [..., T, N] each; with `return_state` (outputs, state)."
