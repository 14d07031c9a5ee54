"""Tangent: CellIR -> the CellIR of its derivative in a direction, which is linear.

It comes from the pulls that gradients come from, so that both are the derivatives of one thing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import sympy
from sympy import Add, Expr, Integer, Symbol

from rnncc.calculus.lower import flatten
from rnncc.ir import functions
from rnncc.ir.functions import MatVec, Opaque
from rnncc.ir.init import Init
from rnncc.ir.program import Argument, CellIR, Let, needed_lets

ZERO = Integer(0)
ANY = Init("normal", 0.0, 1.0)


def tangent(cell: CellIR) -> CellIR:
    """The cell of tangents: of a state h it carries h_dot, of an input x it is given x_dot.

    Its states and outputs are the tangents of the cell's; the states begin at 0. Its inputs are
    the states before each step and the inputs that the derivative reads, by their own names, and
    after them the tangents of all inputs; its params likewise. `nn.second` relies on this order.

    Of a kink the derivative is PyTorch's choice, of a spike the surrogate's, as in gradients.
    """
    return _Tangent(flatten(cell)).run()


class _Tangent:
    def __init__(self, cell: CellIR) -> None:
        self.cell = cell
        self.taken = {a.name for a in cell.arguments} | {let.name for let in cell.lets}
        self.taken |= {*cell.outputs}
        self.symbols: dict[str, Symbol] = {}
        self.tangents: dict[str, Expr] = {a.name: self.dot(a.name) for a in cell.arguments}
        self.lets: list[Let] = []

    def run(self) -> CellIR:
        cell = self.cell
        for let in cell.lets:
            self.lets.append(let)
            total = self.total(let)
            atom = total.is_Atom
            self.tangents[let.name] = total if atom else self.let(self.dot(let.name), total, let)
        following = {self.dot(name).name: self.result(e) for name, e in cell.next.items()}
        outputs = {self.dot(name).name: self.result(e) for name, e in cell.outputs.items()}
        results = [*following.values(), *outputs.values()]
        lets = needed_lets(self.lets, results)
        read = {s.name for expr in (*(let.expr for let in lets), *results) for s in _symbols(expr)}
        return replace(
            cell,
            name=f"{cell.name}_tangent",
            doc=f"The derivative of {cell.name} in a direction.\n\n{cell.doc}".rstrip(),
            arguments=self.arguments(read),
            lets=lets,
            next=following,
            outputs=outputs,
            tangent_of=cell.tangent_of or cell.name,
        )

    def arguments(self, read: set[str]) -> tuple[Argument, ...]:
        cell = self.cell
        before = [
            Argument(s.name, "input", typical=ANY, projected=True)
            for s in cell.states
            if s.name in read
        ]
        return (
            *(replace(s, name=self.dot(s.name).name, init=0.0) for s in cell.states),
            *before,
            *(a for a in cell.inputs if a.name in read),
            *(replace(a, name=self.dot(a.name).name) for a in cell.inputs),
            *(a for a in cell.params if a.name in read),
            *(replace(a, name=self.dot(a.name).name) for a in cell.params),
        )

    def total(self, let: Let) -> Expr:
        """The tangent of a let."""
        expr = let.expr
        if isinstance(expr, MatVec):
            matrix, vector = expr.args
            moved = self.along(vector)
            fixed = ZERO if moved == 0 else MatVec(matrix, moved)
            return MatVec(self.along(matrix), vector) + fixed
        if isinstance(expr, Opaque):
            return self.through(let)
        return self.along(expr)

    def through(self, let: Let) -> Expr:
        """Of an opaque function: its pulls, with the tangent of each argument as the gradient."""
        row = functions.row_of(let.expr)
        assert row is not None, let.expr
        args, value = let.expr.args, Symbol(let.name, real=True)
        pulled = row.pull(Integer(1), value, *args)
        terms: list[Any] = []
        for i, argument in enumerate(args):
            moved = self.along(argument)
            if moved == 0 or pulled[i] is None or pulled[i] == 0:
                continue
            if not moved.is_Atom:
                moved = self.let(self.fresh(f"{let.name}_arg_dot"), moved, let)
            terms.append(row.pull(moved, value, *args)[i])
        return Add(*terms)

    def along(self, expr: Expr) -> Expr:
        """The tangent of arithmetic."""
        terms = [sympy.diff(expr, s) * self.tangents[s.name] for s in _symbols(expr)]
        return Add(*terms)

    def result(self, expr: Expr) -> Symbol:
        """The tangent of a result as a symbol, also where it is a number."""
        found = self.tangents[expr.name]
        if not found.is_Symbol:
            source = Let(expr.name, expr, self.cell.line)
            self.tangents[expr.name] = self.let(self.dot(expr.name), found, source)
        return self.tangents[expr.name]

    def let(self, symbol: Symbol, expr: Expr, source: Let) -> Symbol:
        self.lets.append(Let(symbol.name, expr, source.line))
        return symbol

    def dot(self, name: str) -> Symbol:
        """The symbol of a name's tangent."""
        if name not in self.symbols:
            self.symbols[name] = self.fresh(f"{name}_dot")
        return self.symbols[name]

    def fresh(self, wanted: str) -> Symbol:
        while wanted in self.taken:
            wanted += "_"
        self.taken.add(wanted)
        return Symbol(wanted, real=True)


def _symbols(expr: Expr) -> list[Symbol]:
    return sorted(expr.free_symbols, key=lambda s: s.name)
