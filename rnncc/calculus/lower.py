"""Lower: CellIR -> Program. Names every opaque part, then writes out one group of channels."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import sympy
from sympy import Expr, Integer, Symbol

from rnncc.ir import functions
from rnncc.ir.functions import MatVec, Mean, Opaque, Shift
from rnncc.ir.program import Argument, CellIR, Let, Program, Slot

Namer = Callable[..., str]
MANY_LETS = 100  # a cell of fewer is quick to build, and keeps the last bits of its results


def group_size(cell: CellIR) -> int:
    """How many channels the matrices of the cell mix: the least common multiple of their blocks."""
    return math.lcm(*(a.block or 1 for a in cell.arguments))


def lower(cell: CellIR, channels: int, namer: Namer | None = None) -> Program:
    """Write the recurrence out for `channels` consecutive channels.

    Args:
        namer: (name, channel) or (matrix, row, column) -> scalar name; by default plain names
            for one channel, else h_ch0 and R_0_1, which an underscore follows where an argument
            that all channels share has that name.

    Operations that couple all channels (a Matrix without block, shift, mean) take `channels` for
    all channels of the layer, so that structure.py finds a witness.
    """
    return write_out(flatten(cell), channels, namer)


def write_out(flat: CellIR, channels: int, namer: Namer | None = None) -> Program:
    """The same of a recurrence that was flattened."""
    name_of = namer or (_plain if channels == 1 else _numbered(flat))
    writer = _Writer(flat, channels, name_of)
    lets = tuple(
        Let(writer.name(let.name, i), writer.expand(let.expr, i), let.line, let.note)
        for let in flat.lets
        for i in range(channels)
    )
    return Program(
        name=flat.name,
        group=channels,
        states=writer.slots(flat.states),
        inputs=writer.slots(flat.inputs),
        params=writer.slots(flat.params),
        lets=lets,
        next=tuple(writer.scalar(e, i) for e in flat.next.values() for i in range(channels)),
        outputs=tuple(writer.scalar(e, i) for e in flat.outputs.values() for i in range(channels)),
    )


def _plain(name: str, *_: int) -> str:
    return name


def _numbered(cell: CellIR) -> Namer:
    shared = {a.symbol for a in cell.arguments if a.shared}

    def name_of(name: str, channel: int, column: int | None = None) -> str:
        found = f"{name}_ch{channel}" if column is None else f"{name}_{channel}_{column}"
        while found in shared:
            found += "_"
        return found

    return name_of


# --- naming subexpressions -------------------------------------------------------------------


def flatten(cell: CellIR) -> CellIR:
    """Lets of which each is arithmetic, or one opaque function of arithmetic.

    A named part of let z is called z_0, z_1, ..., so that a new let renumbers no other. In a cell
    of very many, functions of functions that a let before has too are computed there only.
    """
    flat = _flattened(cell, None)
    return flat if len(flat.lets) <= MANY_LETS else _flattened(cell, {})


def _flattened(cell: CellIR, nested: dict[Expr, Symbol] | None) -> CellIR:
    """With functions of functions by what they compute in `nested`; None: of each let apart."""
    names = {a.symbol for a in cell.arguments} | {let.name for let in cell.lets}
    lets: list[Let] = []
    for let in cell.lets:
        parts = _Parts(let, names, {} if nested is None else nested)
        root = parts.visit(let.expr, root=True)
        lets += [*parts.lets, Let(let.name, root, let.line, let.note)]
        names |= {part.name for part in parts.lets}
    return CellIR(**{**vars(cell), "lets": tuple(lets)})


class _Parts:
    """The subexpressions of one let that need names of their own."""

    def __init__(self, let: Let, taken: set[str], nested: dict[Expr, Symbol]) -> None:
        self.let = let
        self.taken = taken
        self.nested = nested
        self.lets: list[Let] = []
        self.known: dict[Expr, Symbol] = {}

    def visit(self, expr: Expr, root: bool = False) -> Expr:
        if expr.is_Atom:
            return expr
        if isinstance(expr, functions.Comparison):
            return expr.func(*(self.atom(arg) for arg in expr.args))
        if isinstance(expr, Opaque):
            return self.opaque(expr, root)
        if expr.is_Mul or expr.is_Pow:
            numerator, denominator = sympy.fraction(expr, exact=True)
            if denominator.free_symbols:
                above, below = self.visit(numerator), self.factors(denominator)
                quotient = functions.call("div", above, *below)
                return quotient if root else self.named(quotient)
        return expr.func(*(self.visit(arg) for arg in expr.args))

    def opaque(self, expr: Expr, root: bool) -> Expr:
        if root or expr not in self.nested:
            opaque = expr.func(*self.arguments(expr))
            if root or not any(arg.has(Opaque) for arg in expr.args):
                return opaque if root else self.named(opaque)
            self.nested[expr] = self.named(opaque)
        return self.nested[expr]

    def arguments(self, expr: Expr) -> list[Expr]:
        row = functions.row_of(expr)
        if isinstance(expr, (MatVec, Shift, Mean)):
            return [self.atom(expr.args[0]), *map(self.atom, expr.args[1:])]
        if row is not None and _reads_arguments(row):
            return [self.atom(arg) for arg in expr.args]
        return [self.visit(arg) for arg in expr.args]

    def factors(self, denominator: Expr) -> list[Expr]:
        """One value, or each base and its power where there are several or any is raised."""
        pairs = [
            (f, Integer(1)) if f.is_Number else f.as_base_exp()
            for f in sympy.Mul.make_args(denominator)
        ]
        if sum(int(n) for base, n in pairs if not base.is_Number) == 1:
            return [self.atom(denominator)]
        return [part for base, n in pairs for part in (self.atom(base), n)]

    def atom(self, expr: Expr) -> Expr:
        visited = self.visit(expr)
        if visited.is_Atom or isinstance(visited, functions.Comparison) or visited.is_number:
            return visited
        return self.named(visited)

    def named(self, expr: Expr) -> Symbol:
        if expr not in self.known:
            count = len(self.lets)
            while f"{self.let.name}_{count}" in self.taken:
                count += 1
            self.taken.add(f"{self.let.name}_{count}")
            symbol = Symbol(f"{self.let.name}_{count}", real=True)
            self.lets.append(Let(symbol.name, expr, self.let.line))
            self.known[expr] = symbol
        return self.known[expr]


@cache
def _reads_arguments(row: functions.Function) -> bool:
    return row.reads_arguments()


# --- writing out channels --------------------------------------------------------------------


class _Writer:
    """Maps names of one channel to the scalars of a group."""

    def __init__(self, cell: CellIR, channels: int, namer: Namer) -> None:
        self.channels = channels
        self.namer = namer
        self.shared = {a.symbol for a in cell.arguments if a.shared}
        self.matrices = {a.symbol: a for a in cell.of_kind("matrix")}

    def name(self, name: str, channel: int) -> str:
        return name if name in self.shared else self.namer(name, channel)

    def scalar(self, symbol: Expr, channel: int) -> Symbol:
        return Symbol(self.name(symbol.name, channel), real=True)

    def expand(self, expr: Expr, channel: int) -> Expr:
        if isinstance(expr, MatVec):
            return self._product(expr, channel)
        if isinstance(expr, Shift):
            source = channel - int(expr.args[1])
            inside = 0 <= source < self.channels
            return self.expand(expr.args[0], source) if inside else Integer(0)
        if isinstance(expr, Mean):
            terms = [self.expand(expr.args[0], i) for i in range(self.channels)]
            return sympy.Add(*terms) / self.channels
        if expr.is_Symbol:
            return self.scalar(expr, channel)
        if expr.is_Atom:
            return expr
        return expr.func(*(self.expand(arg, channel) for arg in expr.args))

    def _product(self, expr: Expr, channel: int) -> Expr:
        matrix = self.matrices[expr.args[0].name]
        block = matrix.block or self.channels
        first = channel - channel % block
        terms = [
            self.entry(matrix.symbol, channel, j) * self.expand(expr.args[1], j)
            for j in range(first, first + block)
        ]
        return sympy.Add(*terms)

    def entry(self, matrix: str, row: int, column: int) -> Symbol:
        return Symbol(self.namer(matrix, row, column), real=True)

    def slots(self, arguments: tuple[Argument, ...]) -> tuple[Slot, ...]:
        slots: list[Slot] = []
        for tensor, argument in enumerate(arguments):
            slots += self._slots_of(argument, tensor)
        return tuple(slots)

    def _slots_of(self, argument: Argument, tensor: int) -> list[Slot]:
        k = self.channels
        if argument.shared:
            return [Slot(Symbol(argument.symbol, real=True), tensor, 0, 0)]
        if argument.kind != "matrix":
            return [Slot(self.scalar(Symbol(argument.symbol), i), tensor, i, k) for i in range(k)]
        block, name = argument.block or k, argument.symbol
        return [
            # row i of the tensor [N / block, block, block], written out row by row
            Slot(self.entry(name, i, i - i % block + j), tensor, i * block + j, k * block)
            for i in range(k)
            for j in range(block)
        ]
