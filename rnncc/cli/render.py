"""Render: a compiled cell -> its equations, Jacobian, pattern and arguments, as text for people."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rnncc.ir.program import whole
from rnncc.lang.docstring import unit_of

if TYPE_CHECKING:
    from rnncc.compiler import CompiledCell
    from rnncc.ir.program import Argument, CellIR, Structure

Row = tuple[str, ...]

ARGUMENT_HEADERS = ("name", "role", "shape", "init")
USUAL = "normal(0, 1)"  # the distribution of inputs where nothing else is said


def equations(cell: CellIR) -> list[str]:
    """The recurrence, a line each: lets, next states, outputs."""
    lines = [str(let) for let in cell.lets]
    lines += [f"{name}' = {expr}" for name, expr in cell.next.items()]
    return lines + [
        f"output {name}" + ("'" if cell.next.get(name) == expr else f" = {expr}")
        for name, expr in cell.outputs.items()
    ]


def jacobian_text(compiled: CompiledCell) -> str:
    """The Jacobian; above it the lets that it reads and that the cell's author did not name."""
    stages = compiled.stages
    text = str(stages.jacobian)
    if stages.program.group > 1:
        return text
    named = {let.name for let in stages.cell.lets}
    lines: list[str] = []
    for let in reversed(stages.program.lets):
        if let.name not in named and re.search(rf"\b{let.name}\b", "\n".join([*lines, text])):
            lines.insert(0, str(let))
    return "\n".join([*lines, text])


def pattern_text(compiled: CompiledCell) -> str:
    """The zero pattern of a block: a row for each next state, a column for each state."""
    names = compiled.stages.jacobian.states
    width = max(len(name) for name in names)
    head = " " * (width + 2) + " ".join(f"{name:>{width}}" for name in names)
    rows = [
        f"{name + chr(39):<{width + 1}} " + " ".join(f"{entry:>{width}}" for entry in row)
        for name, row in zip(names, compiled.structure.pattern, strict=True)
    ]
    return "\n".join([head, *rows, "(0: always zero, 1: constant, x: varies)"])


def structure_words(structure: Structure) -> list[str]:
    """The structure in a few words: kind, size of the blocks, affine, smooth."""
    kind = structure.kind if structure.group == 1 else f"groups of {structure.group} channels"
    return [
        kind,
        f"blocks of {structure.block}",
        "affine" if structure.affine else "nonlinear",
        "spiking" if structure.spiking else "smooth" if structure.smooth else "with kinks",
    ]


def argument_rows(compiled: CompiledCell) -> list[Row]:
    """`ARGUMENT_HEADERS` of every argument and constant, in the signature's order."""
    cell = compiled.stages.cell
    names = {m: v.name for v in cell.vectors for m in v.members}
    inits = {names.get(p.name, p.name): str(p.init) for p in compiled.spec.learned}
    rows: list[Row] = [
        (a.name, _role(a), _shape(a), inits.get(a.name) or _init_text(a, cell.doc))
        for a in whole((*cell.arguments, *cell.starts))
    ]
    return rows + [
        (name, "constant", "", f"{value:g}{_unit(cell.doc, name)}, changed by --set {name}=...")
        for name, value in cell.constants.items()
    ]


def argument_data(compiled: CompiledCell) -> list[dict[str, str]]:
    """The same as data."""
    return [dict(zip(ARGUMENT_HEADERS, row, strict=True)) for row in argument_rows(compiled)]


def _role(argument: Argument) -> str:
    given = argument.kind == "input" and not argument.projected and not argument.shared
    return f"{argument.kind}{', shared' if argument.shared else ', given' if given else ''}"


def _shape(argument: Argument) -> str:
    more = "".join(f", {size}" for size in argument.vector.shape) if argument.vector else ""
    if argument.kind == "state":
        return f"[B, N{more}]"
    if argument.kind == "input":
        return f"[B, T{more}]" if argument.shared else f"[B, T, N{more}]"
    if argument.kind == "matrix":
        return f"[N / {argument.block}, {argument.block}, {argument.block}]"
    return f"[1{more}]" if argument.shared else f"[N{more}]"


def _init_text(argument: Argument, doc: str) -> str:
    unit = _unit(doc, argument.name)
    if argument.start is not None:
        return f"learned: {argument.start.name}"
    if argument.kind == "state":
        return f"{argument.init:g}{unit}"
    text = f"given at each step{', in' + unit if unit else ''}"
    if str(argument.typical) != USUAL:
        text += f", like {argument.typical}"
    return text if argument.bias is None else f"{text}; init of its bias: {argument.bias}"


def _unit(doc: str, name: str) -> str:
    unit = unit_of(doc, name)
    return f" {unit}" if unit else ""
