"""The data that flows between the stages: frozen, and each prints itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from rnncc.ir.init import Init
from rnncc.ir.vector import Vector

if TYPE_CHECKING:
    from sympy import Expr, Symbol


# Values of a group, its channels times states: of up to so many a product of step Jacobians fits
# registers, so that time may be cut into segments; more, up to so many, are solved by one pass.
LARGEST_PRODUCT = 8
LARGEST_GROUP = 64
LARGEST_JACOBIAN = 64  # entries that aren't zero, of one that is emitted


def show(expr: Any) -> str:
    """An expression for people: 0.5, not 0.500000000000000."""
    return str(_printer().doprint(expr))


@cache
def _printer() -> Any:
    """SymPy's, which prints a part that several derivatives have once."""
    from sympy.printing.str import StrPrinter

    printer = StrPrinter({"full_prec": False})
    printer._print = lru_cache(maxsize=16384, typed=True)(printer._print)
    return printer


@dataclass(frozen=True)
class Let:
    """One named value: `name = expr`, the author's line and end-of-line comment."""

    name: str
    expr: Expr
    line: int = 0
    note: str = ""

    def __str__(self) -> str:
        text = f"{self.name} = {show(self.expr)}"
        return f"{text:<50}  # {self.note}" if self.note else text


def needed_lets(lets: Sequence[Let], results: Iterable[Any]) -> tuple[Let, ...]:
    """The lets that the results need, in order."""
    names = {s.name for result in results for s in result.free_symbols}
    found: list[Let] = []
    for let in reversed(lets):
        if let.name in names:
            found.append(let)
            names |= {s.name for s in let.expr.free_symbols}
    return tuple(reversed(found))


@dataclass(frozen=True)
class Argument:
    """One argument of a cell.

    Attributes:
        kind: state, input, param or matrix.
        shared: one value for all channels.
        block: for a matrix, how many channels it mixes; None for all.
        init: for a state, its value before the first step, a number; for a param, how it is drawn;
            for a matrix too, None for uniform within 1/sqrt(block).
        start: for a state, the param that is its value before the first step, if that is learned.
        bias: for an input, how the bias of its projection is drawn; None as torch.nn.Linear does.
        typical: for an input, the distribution of its values.
        projected: for an input, a layer computes it from x.
        vector: the one of which it is an element, if it is one.
        emitted: its name in expressions, C++ and CUDA where these can't take the author's.
    """

    name: str
    kind: str
    shared: bool = False
    block: int | None = None
    init: float | Init | None = None
    bias: Init | None = None
    typical: Init | None = None
    projected: bool = False
    start: Argument | None = None
    vector: Vector | None = None
    emitted: str = ""

    @property
    def symbol(self) -> str:
        """Its name in expressions."""
        return self.emitted or self.name


def whole(arguments: Iterable[Argument]) -> tuple[Argument, ...]:
    """Each vector as one argument of its name."""
    found: dict[str, Argument] = {}
    for a in arguments:
        name = a.vector.name if a.vector else a.name
        found.setdefault(name, a if a.vector is None else replace(a, name=name, emitted=name))
    return tuple(found.values())


@dataclass(frozen=True)
class CellIR:
    """A traced cell: the recurrence of one channel as named lets.

    Attributes:
        arguments: in the signature's order.
        next: state name -> the expression of its next value, in declared order.
        outputs: output name -> its expression; an output may be a state's next value.
        constants: compile-time constants with the values they had.
        tangent_of: the cell that it is the tangent of, see calculus/tangent.py; else empty.
        output_vectors: the outputs of several values.
    """

    name: str
    doc: str
    file: str
    line: int
    arguments: tuple[Argument, ...]
    lets: tuple[Let, ...]
    next: dict[str, Expr]
    outputs: dict[str, Expr]
    constants: dict[str, float] = field(default_factory=dict)
    tangent_of: str = ""
    output_vectors: tuple[Vector, ...] = ()

    @property
    def vectors(self) -> tuple[Vector, ...]:
        """Arguments, learned starts and outputs of several values."""
        scalars = (*self.arguments, *self.starts)
        return (*dict.fromkeys(a.vector for a in scalars if a.vector), *self.output_vectors)

    def of_kind(self, *kinds: str) -> tuple[Argument, ...]:
        return tuple(a for a in self.arguments if a.kind in kinds)

    @property
    def states(self) -> tuple[Argument, ...]:
        return self.of_kind("state")

    @property
    def initial(self) -> tuple[float, ...]:
        """The states' values before the first step."""
        return tuple(a.init for a in self.states if isinstance(a.init, float))

    @property
    def starts(self) -> tuple[Argument, ...]:
        """The params that are states before the first step; no kernel reads them by themselves."""
        return tuple(a.start for a in self.states if a.start is not None)

    @property
    def inputs(self) -> tuple[Argument, ...]:
        return self.of_kind("input")

    @property
    def params(self) -> tuple[Argument, ...]:
        """Params and matrices, in the signature's order."""
        return self.of_kind("param", "matrix")

    def __str__(self) -> str:
        lines = [f"{self.name}({', '.join(a.symbol for a in self.arguments)})"]
        lines += [f"  {let}" for let in self.lets]
        lines += [f"  {s.symbol}' = {show(self.next[s.name])}" for s in self.states]
        lines += [f"  output {name} = {show(expr)}" for name, expr in self.outputs.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class Slot:
    """Where one scalar of a program lives in its tensor: element offset + group * stride."""

    symbol: Symbol
    tensor: int
    offset: int
    stride: int


@dataclass(frozen=True)
class Program:
    """A cell as straight-line scalar code for one group of channels.

    Every let is arithmetic, or one opaque function of arithmetic. With a group of k channels each
    per-channel name appears k times; nothing else changes, so no later stage knows about groups.
    """

    name: str
    group: int
    states: tuple[Slot, ...]
    inputs: tuple[Slot, ...]
    params: tuple[Slot, ...]
    lets: tuple[Let, ...]
    next: tuple[Symbol, ...]
    outputs: tuple[Symbol, ...]

    @property
    def readouts(self) -> tuple[Symbol, ...]:
        """The outputs that are not a next state."""
        return tuple(dict.fromkeys(v for v in self.outputs if v not in self.next))

    @property
    def arguments(self) -> tuple[Symbol, ...]:
        return tuple(slot.symbol for slot in (*self.states, *self.inputs, *self.params))

    def __str__(self) -> str:
        return "\n".join(str(let) for let in self.lets)


@dataclass(frozen=True)
class JacobianIR:
    """d next / d state of a program: lets in forward order, then the matrix of entries."""

    lets: tuple[Let, ...]
    entries: tuple[tuple[Expr, ...], ...]
    states: tuple[str, ...]

    def __str__(self) -> str:
        lines = [str(let) for let in self.lets]
        for i, row in enumerate(self.entries):
            for j, entry in enumerate(row):
                if entry != 0:
                    lines.append(f"d {self.states[i]}' / d {self.states[j]} = {show(entry)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class AdjointIR:
    """The vector-Jacobian program: from gradients of next states and outputs to all arguments.

    Attributes:
        upstream_states: gradient of each next state.
        upstream_outputs: gradient of each readout (an output that isn't a next state).
        lets: in reverse order of the recurrence.
        states, inputs, params: the gradient of each slot.
    """

    upstream_states: tuple[Symbol, ...]
    upstream_outputs: tuple[Symbol, ...]
    lets: tuple[Let, ...]
    states: tuple[Expr, ...]
    inputs: tuple[Expr, ...]
    params: tuple[Expr, ...]

    def __str__(self) -> str:
        return "\n".join(str(let) for let in self.lets)


@dataclass(frozen=True)
class Fission:
    """A program's lets in parts that run one after another, and the lets that cross between."""

    parts: tuple[tuple[Let, ...], ...]
    crossing: tuple[str, ...]


@dataclass(frozen=True)
class Rematerialized:
    """The lets of the step that Jacobian and adjoint read: stored, or rematerialized."""

    stored: tuple[str, ...]
    recomputed: tuple[Let, ...]


@dataclass(frozen=True)
class Structure:
    """The proved structure of d next / d state.

    Attributes:
        kind: "diagonal" (no channels couple) or "block" (those of each group of `group` couple).
        group: channels evaluated together.
        block: size of the blocks that a solver meets, channels that couple times states.
        pattern: one row per next state: "0" zero, "1" constant, "x" varies.
        affine: the Jacobian does not depend on the state.
        smooth: no kinks, jumps or choices.
        spiking: holds a spike, whose true derivative is zero.
        readouts: states that feed back into nothing.
        proof: the argument in words.
    """

    kind: str
    group: int
    block: int
    pattern: tuple[str, ...]
    affine: bool
    smooth: bool
    spiking: bool
    readouts: tuple[str, ...]
    proof: str

    @property
    def entries(self) -> int:
        """Of the pattern, those that aren't zero."""
        return sum(len(row) - row.count("0") for row in self.pattern)

    def __str__(self) -> str:
        return self.proof

    def summary(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "group": self.group,
            "block": self.block,
            "pattern": list(self.pattern),
            "affine": self.affine,
            "smooth": self.smooth,
            "spiking": self.spiking,
            "readouts": list(self.readouts),
        }


@dataclass(frozen=True)
class Compiled:
    """Every stage of one cell, in order."""

    cell: CellIR
    structure: Structure
    program: Program
    jacobian: JacobianIR
    adjoint: AdjointIR
    rematerialized: Rematerialized
    fission: Fission

    @property
    def one_pass(self) -> bool:
        """Whether a group has too many values for products of Jacobians."""
        return len(self.program.states) > LARGEST_PRODUCT

    @property
    def emits_jacobian(self) -> bool:
        """Whether its step Jacobian is small enough to be emitted."""
        return self.structure.entries <= LARGEST_JACOBIAN

    @cached_property
    def rows(self) -> tuple[str, ...]:
        """The lets that have a row of lanes: stored for the backward, or crossing between parts."""
        wanted = {*self.rematerialized.stored, *self.fission.crossing}
        return tuple(let.name for let in self.program.lets if let.name in wanted)

    @cached_property
    def fed(self) -> tuple[int, ...]:
        """The states that a next state or an output reads, as places in `program.states`."""
        program = self.program
        read = {v.name for v in (*program.next, *program.outputs)}
        for let in reversed(program.lets):
            if let.name in read:
                read |= {s.name for s in let.expr.free_symbols}
        return tuple(s for s, slot in enumerate(program.states) if slot.symbol.name in read)

    @cached_property
    def products(self) -> tuple[tuple[int, int], ...]:
        """The entries (row, column) that a product of step Jacobians may have; none by one pass."""
        if self.one_pass:
            return ()
        entries = self.jacobian.entries
        reached = {(r, c) for r, row in enumerate(entries) for c, e in enumerate(row) if e != 0}
        while True:
            further = {(r, d) for r, c in reached for b, d in reached if c == b} - reached
            if not further:
                return tuple(sorted(reached))
            reached |= further
