"""Functions: Compiled -> the step, its Jacobian and its adjoint, one C++ text for every target."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sympy import Expr

from rnncc.calculus.cost import count
from rnncc.calculus.rematerialize import needed
from rnncc.codegen.layout import block, comment, fill, statement
from rnncc.codegen.printer import CPrinter
from rnncc.ir.program import Compiled, Let, Program

PRINTER = CPrinter()


@dataclass(frozen=True)
class Function:
    """One function of the cell.

    Attributes:
        cost: its arithmetic and function calls, as a comment.
        signature: its parameters, folded.
        body: its statements; of a step in several parts, each under its condition.
        outs: its results, in the order of its last parameters.
    """

    cost: str
    signature: str
    body: str
    outs: tuple[str, ...]


@dataclass(frozen=True)
class StepFunction(Function):
    """Of a step in several parts also the template's parameter that says which one to run."""

    part: str


@dataclass(frozen=True)
class JacobianFunction(Function):
    """Of the Jacobian also (row, column) -> the result that holds this entry."""

    entries: dict[tuple[int, int], str]


@dataclass(frozen=True)
class Functions:
    """All of the cell."""

    step: StepFunction
    jacobian: JacobianFunction
    adjoint: Function


def functions(compiled: Compiled) -> Functions:
    """The step and its two derivatives."""
    return Functions(_step(compiled), _jacobian(compiled), _adjoint(compiled))


def _step(compiled: Compiled) -> StepFunction:
    """From states, inputs and params to all lets that others read."""
    program, parts = compiled.program, compiled.fission.parts
    outs, part = _results(compiled), _Fresh(compiled).new("part")
    texts = [_part(lets, outs, part, n) for n, lets in enumerate(parts, start=1)]
    return StepFunction(
        cost=_cost([let.expr for let in program.lets]),
        signature=_signature(program, [], outs, "next states and lets"),
        body="\n".join(texts) if len(parts) > 1 else block(_let(let, outs, 2) for let in parts[0]),
        outs=tuple(outs),
        part=part if len(parts) > 1 else "",
    )


def _results(compiled: Compiled) -> list[str]:
    """The lets that leave the step: next states, outputs, and those with a row."""
    program = compiled.program
    wanted = {v.name for v in (*program.next, *program.outputs)} | set(compiled.rows)
    return [let.name for let in program.lets if let.name in wanted]


def _part(lets: Iterable[Let], outs: list[str], part: str, number: int) -> str:
    lines = block(_let(let, outs, 4) for let in lets)
    return f"  if ({part} == 0 || {part} == {number}) {{\n{lines}\n  }}"


def _let(let: Let, outs: Iterable[str], indent: int) -> str:
    head = let.name if let.name in outs else f"const real {let.name}"
    return statement(head, PRINTER.text(let.expr), indent, let.note)


def _jacobian(compiled: Compiled) -> JacobianFunction:
    """From the arguments of a step, and lets that it stored, to the entries that aren't 0."""
    found, stored = compiled.jacobian, compiled.rematerialized.stored
    readers = [*(let.expr for let in found.lets), *(e for row in found.entries for e in row)]
    recomputed = needed(compiled.rematerialized.recomputed, readers)
    names, entries = _Fresh(compiled), {}
    lines = [_let(let, (), 2) for let in (*recomputed, *found.lets)]
    for r, row in enumerate(found.states):
        for c, column in enumerate(found.states):
            if found.entries[r][c] != 0:
                entries[r, c] = names.new(f"J_{row}_{column}")
                lines.append(statement(entries[r, c], PRINTER.text(found.entries[r][c]), 2))
    outs = list(entries.values())
    if not outs:
        outs.append(names.new("none"))
        lines.append(statement(outs[0], "0.0f", 2, "no state feeds back"))
    before = [("lets of the step", list(stored))]
    return JacobianFunction(
        cost=_cost([*(let.expr for let in recomputed), *readers]),
        signature=_signature(compiled.program, before, outs, "entries"),
        body=block(lines),
        outs=tuple(outs),
        entries=entries,
    )


def _adjoint(compiled: Compiled) -> Function:
    """From the same and the upstream gradients to the gradients of all arguments."""
    program, reverse = compiled.program, compiled.adjoint
    values = [*reverse.states, *reverse.inputs, *reverse.params]
    readers = [*(let.expr for let in reverse.lets), *values]
    recomputed = needed(compiled.rematerialized.recomputed, readers)
    names = _Fresh(compiled)
    outs = [names.new(f"d_{symbol.name}") for symbol in program.arguments]
    lines = [_let(let, (), 2) for let in (*recomputed, *reverse.lets)]
    lines += [statement(o, PRINTER.text(v), 2) for o, v in zip(outs, values, strict=True)]
    upstream = [s.name for s in (*reverse.upstream_states, *reverse.upstream_outputs)]
    before = [
        ("lets of the step", list(compiled.rematerialized.stored)),
        ("upstream gradients", upstream),
    ]
    return Function(
        cost=_cost([*(let.expr for let in recomputed), *readers]),
        signature=_signature(program, before, outs, "gradients"),
        body=block(lines),
        outs=tuple(outs),
    )


class _Fresh:
    """Names for results beside every name of the cell and of its derivatives."""

    def __init__(self, compiled: Compiled) -> None:
        reverse = compiled.adjoint
        upstream = (*reverse.upstream_states, *reverse.upstream_outputs)
        lets = (*compiled.program.lets, *compiled.jacobian.lets, *reverse.lets)
        self.taken = {s.name for s in (*compiled.program.arguments, *upstream)}
        self.taken |= {let.name for let in lets}

    def new(self, wanted: str) -> str:
        while wanted in self.taken:
            wanted += "_"
        self.taken.add(wanted)
        return wanted


def _signature(
    program: Program, before: list[tuple[str, list[str]]], outs: list[str], note: str
) -> str:
    """One group of parameters after another, each under a comment."""
    groups = [
        ("states", [f"real {s.symbol.name}" for s in program.states]),
        ("inputs", [f"real {s.symbol.name}" for s in program.inputs]),
        ("params", [f"real {s.symbol.name}" for s in program.params]),
        *((label, [f"real {name}" for name in names]) for label, names in before),
        (note, [f"real& {name}" for name in outs]),
    ]
    lines = []
    for label, listed in groups:
        if listed:
            end = ") {" if label == note else ","
            lines += [f"    // {label}", fill(listed, 4, end)]
    return "\n".join(lines)


def _cost(exprs: list[Expr]) -> str:
    operations, calls = count(exprs)
    listed = ", ".join(f"{calls[name]} {name}" for name in sorted(calls))
    return comment(f"Operations: {operations}" + (f"; functions: {listed}." if listed else "."))
