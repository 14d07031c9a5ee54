"""Differentiate: Program -> JacobianIR and AdjointIR, by the chain rule over lets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import reduce
from typing import Any, NamedTuple

import sympy
from sympy import Add, Expr, Integer, Symbol

from rnncc.calculus.derivative import derivative
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
            return {s: derivative(let.expr, s) for s in moving}
        row = functions.row_of(let.expr)
        assert row is not None, let.expr
        slopes = row.partials(Symbol(let.name, real=True), let.expr.args)
        result: dict[Symbol, Expr] = dict.fromkeys(moving, ZERO)
        for argument, slope in zip(let.expr.args, slopes, strict=True):
            if slope is None or slope == 0 or not argument.free_symbols & set(moving):
                continue
            slope = self.shared(let, slope, moving)
            for s in moving:
                result[s] += slope * derivative(argument, s)
        return result

    def shared(self, let: Let, slope: Expr, moving: list[Symbol]) -> Expr:
        """A slope that several products use gets a name."""
        uses = sum(self.depends(s.name) for s in moving)
        if uses < 2 or slope.is_Atom:
            return slope
        return self.let(f"{let.name}_slope", slope, let)

    def chain(self, let: Let, partials: dict[Symbol, Expr], state: Symbol) -> None:
        inner = [(p, self.derivative.get((s.name, state.name), ZERO)) for s, p in partials.items()]
        total = Add(*(p * d for p, d in inner if d is not ZERO))
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


# functions with an infinite derivative where they are finite, those that are infinite themselves at
# a finite argument, and all whose derivative is infinite somewhere or overflows
ROOTS = frozenset("sqrt pow asin acos acosh".split())
INFINITE = frozenset("div log log1p log2 rsqrt pow atanh".split())
POLES = ROOTS | INFINITE | frozenset("exp exp2 expm1 exprel sinh cosh remainder".split())


class _Flow(NamedTuple):
    """A gradient on its way to a symbol.

    Attributes:
        sources: the states and outputs whose gradients it comes from, each by its first channel.
    """

    term: Expr
    sources: frozenset[Symbol]


class _Reverse:
    """A gradient that nothing asked for isn't walked, as in PyTorch: 0 * infinity would be NaN.

    An infinite derivative is left out where all gradients that it would be multiplied with are
    absent. Of a state they are where they are 0: after the last step that anything reads.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.names = _Names(program)
        self.lets: list[Let] = []
        self.flows: dict[str, list[_Flow]] = defaultdict(list)
        self.kinds = {let.name: type(let.expr).__name__ for let in program.lets}
        self.absent: dict[Symbol, list[Expr]] = defaultdict(list)
        self.certain: set[Symbol] = set()
        self.known: dict[tuple[Symbol, Expr], Expr] = {}

    def run(self) -> AdjointIR:
        program, k = self.program, self.program.group
        up_states = self.upstream(program.next, [f"up_{s.symbol.name}" for s in program.states])
        up_outputs = self.upstream(program.readouts, [f"up_{v.name}" for v in program.readouts])
        self.readouts = frozenset(self.absent) & frozenset(up_outputs)
        # of a state that is the only output, a gradient is always asked for
        if len(program.outputs) == k and not up_outputs:
            self.certain = {up_states[program.next.index(program.outputs[0])]}
        for let in reversed(program.lets):
            self.pull(let)
        states, inputs, params = (
            tuple(self.total(slot.symbol).term for slot in slots)
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
        program, first = self.program, dict[int, Symbol]()
        for i, (value, symbol) in enumerate(zip(values, symbols, strict=True)):
            readout = value not in program.next
            place = program.outputs.index(value) if readout else i
            source = first.setdefault(place // program.group, symbol)
            self.flows[value.name].append(_Flow(symbol, frozenset([source])))
            if not readout:
                self.absent[source].append(functions.call("eq", symbol, ZERO))
            elif source == symbol:  # an output is absent with all of its channels
                self.absent[source].append(functions.call("absent", symbol))
        return symbols

    def total(self, symbol: Symbol) -> _Flow:
        """The sum of all gradients of a symbol."""
        flows = self.flows[symbol.name]
        sources = frozenset[Symbol]().union(*(flow.sources for flow in flows))
        return _Flow(Add(*(flow.term for flow in flows)), sources)

    def pull(self, let: Let) -> None:
        """Pass the gradient of a let to the symbols of its expression."""
        total = self.total(Symbol(let.name, real=True))
        if total.term == 0:
            return
        flow = total._replace(term=self.name(f"g_{let.name}", total.term, let))
        if not isinstance(let.expr, Opaque):
            self.spread(let.expr, flow)
            return
        row = functions.row_of(let.expr)
        assert row is not None, let.expr
        y, unasked = Symbol(let.name, real=True), self.unasked(self.kinds[let.name], flow.sources)
        if unasked and self.kinds[let.name] != "sqrt":
            y = self.safe(y, unasked)
        pulled = row.pull(flow.term, y, *let.expr.args)
        self.distribute(let, list(pulled), flow, unasked)

    def unasked(self, kind: str, sources: frozenset[Symbol]) -> Expr | None:
        """The condition under which such a function isn't walked; None if it always may be."""
        readout = sources <= self.readouts
        if kind not in (POLES if readout else ROOTS) or sources & self.certain:
            return None
        if len(sources) == len(self.absent):
            return None
        tests = [test for source in _sorted(sources) for test in self.absent[source]]
        return reduce(lambda a, b: functions.call("both", a, b), tests)

    def distribute(self, let: Let, pulled: list[Any], flow: _Flow, unasked: Expr | None) -> None:
        """The gradients of an opaque function's arguments, each named once and shared."""
        several = sum(p is not None and p != 0 for p in pulled) > 1
        for i, argument in enumerate(let.expr.args):
            g = pulled[i]
            if g is None or g == 0 or not argument.free_symbols:
                continue
            stop = unasked if unasked and (g.has(Opaque) or sympy.denom(g) != 1) else None
            if several or stop or not argument.is_Symbol:
                walked = functions.call("where", stop, ZERO, g) if stop else g
                named = self.name(f"g_{let.name}_arg{i if several else ''}", walked, let)
                pulled = [_replaced(p, g, named) for p in pulled]
                g = named
            self.spread(argument, flow._replace(term=g))

    def spread(self, expr: Expr, flow: _Flow) -> None:
        for symbol in _sorted(expr.free_symbols):
            slope = self.walked(derivative(expr, symbol), flow.sources)
            term = flow.term * slope
            if term != 0:
                self.flows[symbol.name].append(flow._replace(term=term))

    def walked(self, slope: Expr, sources: frozenset[Symbol]) -> Expr:
        """A slope whose infinite factors count as 0 where only an unused output asks for them."""
        for symbol in _sorted(slope.free_symbols):
            kind = self.kinds.get(symbol.name)
            unasked = kind in INFINITE and sources <= self.readouts and self.unasked(kind, sources)
            if unasked:
                slope = slope.subs(symbol, self.safe(symbol, unasked))
        return slope

    def safe(self, symbol: Symbol, unasked: Expr) -> Expr:
        """The value of a let, 0 where it isn't asked for; one for each condition."""
        if (symbol, unasked) not in self.known:
            value = functions.call("where", unasked, ZERO, symbol)
            self.known[symbol, unasked] = self.name(f"{symbol.name}_asked", value, Let("", symbol))
        return self.known[symbol, unasked]

    def name(self, wanted: str, expr: Expr, source: Let) -> Expr:
        if expr.is_Atom:
            return expr
        symbol = self.names.new(wanted)
        self.lets.append(Let(symbol.name, expr, source.line))
        return symbol


def _replaced(expr: Any, old: Expr, new: Expr) -> Any:
    if expr is None or expr == 0 or old == new:
        return expr
    return new if expr == old else sympy.sympify(expr).subs(old, new)


def _sorted(symbols: Iterable[Symbol]) -> list[Symbol]:
    return sorted(symbols, key=lambda s: s.name)
