"""Differentiate: Program -> JacobianIR and AdjointIR, by the chain rule over lets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import sympy
from sympy import Add, Expr, Integer, Symbol

from rnncc.ir import functions
from rnncc.ir.functions import Opaque
from rnncc.ir.program import AdjointIR, JacobianIR, Let, Program, needed_lets

ZERO = Integer(0)


class _Names:
    """Fresh names beside those of the program."""

    def __init__(self, program: Program) -> None:
        slots = [*program.states, *program.inputs, *program.params]
        self.taken = {slot.symbol.name for slot in slots} | {let.name for let in program.lets}

    def new(self, wanted: str) -> Symbol:
        while wanted in self.taken:
            wanted += "_"
        self.taken.add(wanted)
        return Symbol(wanted, real=True)


# --- forward: the Jacobian -------------------------------------------------------------------


def differentiate(program: Program) -> JacobianIR:
    """d next / d state by forward accumulation; a let dz_dh is the derivative of z by h.

    The derivative of a spike is its true one, zero: this Jacobian is the forward solver's.
    """
    return _Forward(program).run()


class _Forward:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.names = _Names(program)
        self.states = [slot.symbol for slot in program.states]
        self.lets: list[Let] = []
        self.derivative: dict[tuple[str, str], Expr] = {
            (s.name, t.name): Integer(int(s == t)) for s in self.states for t in self.states
        }

    def run(self) -> JacobianIR:
        for let in self.program.lets:
            partials = self.partials(let)
            for state in self.states:
                self.chain(let, partials, state)
        entries = tuple(
            tuple(self.derivative.get((v.name, s.name), ZERO) for s in self.states)
            for v in self.program.next
        )
        needed = needed_lets(self.lets, [e for row in entries for e in row])
        return JacobianIR(needed, entries, tuple(s.name for s in self.states))

    def depends(self, name: str) -> int:
        return sum(self.derivative.get((name, s.name), ZERO) != 0 for s in self.states)

    def partials(self, let: Let) -> dict[Symbol, Expr]:
        """d let / d symbol for each symbol that depends on a state."""
        moving = [s for s in _sorted(let.expr.free_symbols) if self.depends(s.name)]
        if not isinstance(let.expr, Opaque):
            return {s: sympy.diff(let.expr, s) for s in moving}
        row = functions.row_of(let.expr)
        assert row is not None, let.expr
        slopes = row.partials(Symbol(let.name, real=True), let.expr.args)
        result: dict[Symbol, Expr] = dict.fromkeys(moving, ZERO)
        for argument, slope in zip(let.expr.args, slopes, strict=True):
            if slope is None or slope == 0 or not argument.free_symbols & set(moving):
                continue
            slope = self.shared(let, slope, moving)
            for s in moving:
                result[s] += slope * sympy.diff(argument, s)
        return result

    def shared(self, let: Let, slope: Expr, moving: list[Symbol]) -> Expr:
        """A slope that several products use gets a name."""
        uses = sum(self.depends(s.name) for s in moving)
        if uses < 2 or slope.is_Atom:
            return slope
        return self.let(f"{let.name}_slope", slope, let)

    def chain(self, let: Let, partials: dict[Symbol, Expr], state: Symbol) -> None:
        terms = [p * self.derivative.get((s.name, state.name), ZERO) for s, p in partials.items()]
        total = Add(*terms)
        if not total.is_Atom:
            total = self.let(f"d{let.name}_d{state.name}", total, let)
        self.derivative[let.name, state.name] = total

    def let(self, name: str, expr: Expr, source: Let) -> Symbol:
        symbol = self.names.new(name)
        self.lets.append(Let(symbol.name, expr, source.line))
        return symbol


# --- reverse: the adjoint --------------------------------------------------------------------


def adjoint(program: Program) -> AdjointIR:
    """The vector-Jacobian program by reverse accumulation; a let g_z is dL/dz."""
    return _Reverse(program).run()


class _Reverse:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.names = _Names(program)
        self.lets: list[Let] = []
        self.gradients: dict[str, list[Expr]] = defaultdict(list)

    def run(self) -> AdjointIR:
        program = self.program
        up_states = self.upstream(program.next, [f"up_{s.symbol.name}" for s in program.states])
        up_outputs = self.upstream(program.readouts, [f"up_{v.name}" for v in program.readouts])
        for let in reversed(program.lets):
            self.pull(let)
        states, inputs, params = (
            tuple(Add(*self.gradients[slot.symbol.name]) for slot in slots)
            for slots in (program.states, program.inputs, program.params)
        )
        lets = needed_lets(self.lets, [*states, *inputs, *params])
        return AdjointIR(
            upstream_states=up_states,
            upstream_outputs=up_outputs,
            lets=lets,
            states=states,
            inputs=inputs,
            params=params,
        )

    def upstream(self, values: Iterable[Symbol], names: list[str]) -> tuple[Symbol, ...]:
        """One symbol per value for the gradient that arrives there."""
        symbols = tuple(self.names.new(name) for name in names)
        for value, symbol in zip(values, symbols, strict=True):
            self.gradients[value.name].append(symbol)
        return symbols

    def pull(self, let: Let) -> None:
        """Pass the gradient of a let to the symbols of its expression."""
        total = Add(*self.gradients[let.name])
        if total == 0:
            return
        gradient = self.name(f"g_{let.name}", total, let)
        if not isinstance(let.expr, Opaque):
            self.spread(let.expr, gradient)
            return
        row = functions.row_of(let.expr)
        assert row is not None, let.expr
        pulled = row.pull(gradient, Symbol(let.name, real=True), *let.expr.args)
        self.distribute(let, list(pulled))

    def distribute(self, let: Let, pulled: list[Any]) -> None:
        """The gradients of an opaque function's arguments, each named once and shared."""
        several = sum(p is not None and p != 0 for p in pulled) > 1
        for i, argument in enumerate(let.expr.args):
            g = pulled[i]
            if g is None or g == 0 or not argument.free_symbols:
                continue
            if several or not argument.is_Symbol:
                named = self.name(f"g_{let.name}_arg{i if several else ''}", g, let)
                pulled = [p if p is None else sympy.sympify(p).subs(g, named) for p in pulled]
                g = named
            self.spread(argument, g)

    def spread(self, expr: Expr, gradient: Expr) -> None:
        for symbol in _sorted(expr.free_symbols):
            term = gradient * sympy.diff(expr, symbol)
            if term != 0:
                self.gradients[symbol.name].append(term)

    def name(self, wanted: str, expr: Expr, source: Let) -> Expr:
        if expr.is_Atom:
            return expr
        symbol = self.names.new(wanted)
        self.lets.append(Let(symbol.name, expr, source.line))
        return symbol


def _sorted(symbols: Iterable[Symbol]) -> list[Symbol]:
    return sorted(symbols, key=lambda s: s.name)
