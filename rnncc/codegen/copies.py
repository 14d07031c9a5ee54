"""Copies: Compiled -> how a target's rows or registers go into the cell's functions and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sympy import Symbol

from rnncc.codegen.functions import Function, Functions
from rnncc.codegen.layout import declare, fill, statement
from rnncc.ir.program import Compiled, Program

# How a target writes a scalar: the array it belongs to, the scalar's name and its place there.
Access = Callable[[str, Any, int], str]


def lanes(array: str, name: Any, place: int) -> str:
    """The inner loop of a C++ kernel runs over lanes i, and each scalar has a row of them."""
    return f"{array}_{name}[i]" if name is not None else f"{array}[{place} * kRow + i]"


def registers(array: str, name: Any, place: int) -> str:
    """A thread of a CUDA kernel has arrays of its own, which become registers."""
    return f"{array}[{place}]"


@dataclass(frozen=True)
class Copies:
    """The statements of one target, each laid out for its place in cell.h.

    Attributes:
        step: one text for each loop of a step.
        jacobian, carry, adjoint: the function's call, and the statements that store its results.
    """

    step: tuple[str, ...]
    jacobian: str
    carry: str
    adjoint: str


def copies(
    compiled: Compiled,
    functions: Functions,
    at: Access,
    indent: int,
    fission: bool,
    large: bool = False,
) -> Copies:
    """Everything that one target copies.

    Args:
        at: how the target writes a scalar.
        indent: of the statements.
        fission: run a step part by part.
        large: a product reads the rows of the Jacobian, which is called before it.
    """
    return _Copies(compiled, functions, at, indent, large).all(fission)


def made_by(compiled: Compiled, part: int) -> set[str]:
    """The values that a step has first after a part, or passes on after the last one."""
    parts = compiled.fission.parts
    here = {let.name for let in parts[part]}
    passed = part == len(parts) - 1
    return here | ({s.name for s in compiled.program.arguments} if passed else set())


class _Copies:
    def __init__(
        self, compiled: Compiled, functions: Functions, at: Access, indent: int, large: bool
    ) -> None:
        program = compiled.program
        self.large = large
        self.compiled, self.program = compiled, program
        self.functions, self.at, self.indent = functions, at, indent
        self.reads = _reads(program, at)
        self.rows = {name: at("k", name, k) for k, name in enumerate(compiled.rows)}
        self.arguments = [self.reads[s.name] for s in program.arguments]
        self.stored = [self.rows[name] for name in compiled.rematerialized.stored]

    def all(self, fission: bool) -> Copies:
        functions = self.functions
        emitted = self.compiled.emits_jacobian
        jacobian = self.call("jacobian", functions.jacobian, self.stored) if emitted else ""
        adjoint = self.call("adjoint", functions.adjoint, [*self.stored, *self.upstream()])
        return Copies(
            step=tuple(self.steps()) if fission else (self.whole_step(),),
            jacobian="\n".join([jacobian, *self.entries()]) if emitted else "",
            carry="\n".join([*([] if self.large else [jacobian]), *self.products()]),
            adjoint="\n".join([adjoint, *self.gradients()]),
        )

    def call(
        self,
        name: str,
        function: Function,
        more: Iterable[str] = (),
        loads: Iterable[str] = (),
        template: str = "real",
    ) -> str:
        """Results are locals first; their prefix keeps them apart from the loop's own names.

        The cell's name may give the function that of a local: h_step, of a cell h or a state step.
        """
        results = [f"out_{name}" for name in function.outs]
        pad, inner = " " * self.indent, " " * (self.indent + 4)
        return "\n".join(
            [
                declare("real", results, self.indent),
                *loads,
                f"{pad}rnncc::{self.program.name}_{name}<{template}>(",
                f"{inner}// arguments",
                fill([*self.arguments, *more], self.indent + 4, ","),
                f"{inner}// results",
                fill(results, self.indent + 4, ");"),
            ]
        )

    def store(self, to: str, value: str, condition: str = "") -> str:
        return statement(condition + to, value, self.indent)

    def steps(self) -> Iterable[str]:
        """A text for each part, which loads the lets that it reads of earlier ones."""
        fission = self.compiled.fission
        for n, part in enumerate(fission.parts):
            before = {let.name for lets in fission.parts[:n] for let in lets}
            read = {s.name for let in part for s in let.expr.free_symbols}
            loads = [
                self.store(f"out_{name}", self.rows[name])
                for name in fission.crossing
                if name in before & read
            ]
            template = f"real, {n + 1}" if len(fission.parts) > 1 else "real"
            call = self.call("step", self.functions.step, loads=loads, template=template)
            yield "\n".join([call, *self.step_stores(n)])

    def whole_step(self) -> str:
        stores = [s for n in range(len(self.compiled.fission.parts)) for s in self.step_stores(n)]
        return "\n".join([self.call("step", self.functions.step), *stores])

    def step_stores(self, n: int) -> list[str]:
        """Where the results of a part go: next states, outputs, and rows."""
        program, fission = self.program, self.compiled.fission
        here, made = {let.name for let in fission.parts[n]}, made_by(self.compiled, n)
        nexts = [
            self.store(self.at("next", slot.symbol.name, s), self.value(v))
            for s, (slot, v) in enumerate(zip(program.states, program.next, strict=True))
            if v.name in made
        ]
        outputs = [
            self.store(self.at("y", o, o), self.value(v), "if (write) ")
            for o, v in enumerate(program.outputs)
            if v.name in made
        ]
        rows = [
            self.store(row, f"out_{name}", "" if name in fission.crossing else "if (store) ")
            for name, row in self.rows.items()
            if name in here
        ]
        return [*nexts, *outputs, *rows]

    def value(self, value: Symbol) -> str:
        """A result inside the loop: an argument passed through, or a result of the step."""
        return self.reads.get(value.name, f"out_{value.name}")

    def entries(self) -> list[str]:
        entries, size = self.functions.jacobian.entries, len(self.program.states)
        return [
            self.store(self.at("J", None, r * size + c), f"out_{name}")
            for (r, c), name in entries.items()
        ]

    def products(self) -> list[str]:
        """The next product J M from the last one, entry by entry."""
        products, entries = self.compiled.products, self.factors()
        places = {entry: n for n, entry in enumerate(products)}
        stores = []
        for r, c in products:
            terms = [
                f"{factor} * {self.at('M', f'{middle}_{c}', places[middle, c])}"
                for (row, middle), factor in entries.items()
                if row == r and (middle, c) in places
            ]
            first = entries.get((r, c), "real(0)")
            total = " + ".join(terms) or "real(0)"
            to = self.at("N", f"{r}_{c}", places[r, c])
            stores.append(self.store(to, f"first_step ? {first} : {total}"))
        return stores

    def factors(self) -> dict[tuple[int, int], str]:
        """Where a product finds each entry of the Jacobian."""
        entries, size = self.functions.jacobian.entries, len(self.program.states)
        if self.large:
            return {(r, c): self.at("J", None, r * size + c) for r, c in entries}
        return {place: f"out_{name}" for place, name in entries.items()}

    def upstream(self) -> list[str]:
        """g for a next state, plus dy wherever that state is an output; dy alone for a readout."""
        program, reads = self.program, []
        for s, value in enumerate(program.next):
            first = program.next.index(value) == s
            terms = [self.at("g", program.states[s].symbol.name, s)]
            reads.append(" + ".join([*terms, *(self.output_gradients(value) if first else [])]))
        return [*reads, *(" + ".join(self.output_gradients(v)) for v in program.readouts)]

    def output_gradients(self, value: Symbol) -> list[str]:
        return [self.at("dy", o, o) for o, v in enumerate(self.program.outputs) if v == value]

    def gradients(self) -> list[str]:
        """Of the states in place; of inputs and params only where all are wanted."""
        program, pad = self.program, " " * self.indent
        names = [[s.symbol.name for s in slots] for slots in (program.states, program.inputs)]
        params = [s.symbol.name for s in program.params]
        outs = iter(f"out_{name};" for name in self.functions.adjoint.outs)
        to = [f"{pad}{self.at('g', name, n)} =" for n, name in enumerate(names[0])]
        to += [f"{pad}if (all) {self.at('dx', name, n)} =" for n, name in enumerate(names[1])]
        to += [f"{pad}if (all) {self.at('dp', name, n)} +=" for n, name in enumerate(params)]
        return [f"{place} {out}" for place, out in zip(to, outs, strict=True)]


def _reads(program: Program, at: Access) -> dict[str, str]:
    """Where each argument of the step stands."""
    arrays = {"h": program.states, "x": program.inputs, "p": program.params}
    return {
        slot.symbol.name: at(array, slot.symbol.name, place)
        for array, slots in arrays.items()
        for place, slot in enumerate(slots)
    }
