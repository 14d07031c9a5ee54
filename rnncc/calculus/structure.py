"""Structure: CellIR -> Structure. Proves from the symbolic Jacobian which channels couple."""

from __future__ import annotations

from typing import NamedTuple

import sympy
from sympy import Expr, Symbol

from rnncc.calculus.differentiate import differentiate
from rnncc.calculus.lower import flatten, group_size, write_out
from rnncc.errors import Problem, StructureError
from rnncc.ir import functions
from rnncc.ir.functions import MatVec, Mean, Shift
from rnncc.ir.program import (
    LARGEST_GROUP,
    CellIR,
    JacobianIR,
    Let,
    Program,
    Structure,
    show,
)
from rnncc.ir.vector import Vector

STEPS = ("sign", "floor", "round", "remainder", "floor_divide")
JUMPS = tuple(functions.TABLE[name].symbol for name in STEPS)
PROBED_CHANNELS = 24
LONGEST_WITNESS = 60  # operations


def classify(cell: CellIR) -> Structure:
    """The proved structure; see `examine`."""
    flat = flatten(cell)
    program = write_out(flat, group_size(cell))
    return describe(cell, examine(cell, flat), program, differentiate(program))


class Examined(NamedTuple):
    """What a recurrence over several channels shows: how many it was written for, and couple."""

    channels: int
    coupled: int


def examine(cell: CellIR, flat: CellIR) -> Examined:
    """Prove the Jacobian diagonal or block-diagonal over channels.

    The recurrence is written out for several channels and differentiated; the connected components
    of the non-zero entries are the channels that couple.

    Raises:
        StructureError: channels couple beyond groups of k with k * states <= 64; with a witness.
    """
    group = group_size(cell)
    _refuse_large(cell, group)
    channels = min(_probe_size(cell, group), max(PROBED_CHANNELS, 2 * group))
    program = write_out(flat, channels, namer=_indexed)
    coupled = _components(program, channels)
    _refuse_coupled(cell, program, coupled, group, channels)
    _refuse_whole(cell)
    return Examined(channels, max(map(len, coupled)))


def _indexed(name: str, *indices: int) -> str:
    return f"{name}[{', '.join(map(str, indices))}]"


def _probe_size(cell: CellIR, group: int) -> int:
    """Enough channels to see two groups, and any shift."""
    shifts = [abs(int(s.args[1])) for let in cell.lets for s in let.expr.atoms(Shift)]
    return max(2 * group, max(shifts, default=0) + 2, 3 if group == 1 else 2)


def _reads(program: Program) -> list[set[int]]:
    """Which states each next state reads, by value: a condition or a spike has no slope to show."""
    reads = {slot.symbol.name: {j} for j, slot in enumerate(program.states)}
    for let in program.lets:
        reads[let.name] = set().union(*(reads.get(s.name, ()) for s in let.expr.free_symbols))
    return [reads.get(value.name, set()) for value in program.next]


def _components(program: Program, channels: int) -> list[set[int]]:
    """Connected components of channels, by union over the reads of each next state."""
    parent = list(range(channels))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for i, states in enumerate(_reads(program)):
        for j in states:
            parent[root(i % channels)] = root(j % channels)
    components: dict[int, set[int]] = {}
    for channel in range(channels):
        components.setdefault(root(channel), set()).add(channel)
    return list(components.values())


# --- refusals --------------------------------------------------------------------------------

WAYS_OUT = (
    "mix within groups with Matrix(block=k), k * states <= 64, "
    "or mix outside the cell (a Linear before or after it)"
)


def _refuse_large(cell: CellIR, group: int) -> None:
    size = group * len(cell.states)
    if size <= LARGEST_GROUP:
        return
    matrices = ", ".join(f"{a.name}: block={a.block}" for a in cell.of_kind("matrix") if a.block)
    counted = f"{len(cell.states)} state{'s' if len(cell.states) > 1 else ''}"
    fix = "fewer states" if group == 1 else "a smaller block, one block for all, or fewer states"
    largest = max((s.vector for s in cell.states if s.vector), key=_count, default=None)
    if largest is not None:
        counted = f"{len(cell.states)} values of states"
        option = "delay" if largest.delay else "size"
        fix = f"a smaller {option}= of '{largest.name}', which has {_count(largest)} of them"
    seen = f"groups of {group} channels ({matrices}) with {counted} give blocks of {size}"
    if group == 1:
        seen = f"{counted} give blocks of {size}"
    problem = Problem(
        cell.file,
        _mixing_line(cell),
        cell.name,
        seen,
        "One thread of a fused solver takes a block, so channels x states must be <= "
        f"{LARGEST_GROUP}.",
        fix,
    )
    raise StructureError([problem])


def _count(vector: Vector) -> int:
    return len(vector.members)


def _refuse_coupled(
    cell: CellIR,
    program: Program,
    coupled: list[set[int]],
    group: int,
    channels: int,
) -> None:
    if all(max(c) // group == min(c) // group for c in coupled):
        return
    jacobian = differentiate(program)
    for i, row in enumerate(jacobian.entries):
        for j, entry in enumerate(row):
            apart = (i % channels) // group != (j % channels) // group
            if entry != 0 and apart:
                witness = _witness(program, jacobian, i, j, entry)
                raise StructureError([_coupling(cell, f"channels couple: {witness}")])


def _witness(program: Program, jacobian: JacobianIR, i: int, j: int, entry: Expr) -> str:
    """The entry that couples, with the derivative's own lets written out."""
    for let in reversed(jacobian.lets):
        written = entry.subs(Symbol(let.name, real=True), let.expr)
        if sympy.count_ops(written) > LONGEST_WITNESS:
            break
        entry = written
    state, other = program.states[i].symbol.name, program.states[j].symbol.name
    return f"d {state} / d {other} = {show(entry)}"


def _refuse_whole(cell: CellIR) -> None:
    """Operations over all channels can't run in a kernel that sees a few, even if J is diagonal."""
    for let in cell.lets:
        whole = [*let.expr.atoms(Shift), *let.expr.atoms(Mean)]
        whole += [m for m in let.expr.atoms(MatVec) if _block_of(cell, m) is None]
        if whole:
            raise StructureError([_coupling(cell, f"channels couple: {let.name} = {let.expr}")])


def _block_of(cell: CellIR, product: Expr) -> int | None:
    return next(a.block for a in cell.arguments if a.symbol == product.args[0].name)


def _coupling(cell: CellIR, seen: str) -> Problem:
    return Problem(
        cell.file,
        _mixing_line(cell),
        cell.name,
        seen,
        "A fused solver needs each channel, or each group of k channels, to stand alone.",
        WAYS_OUT,
    )


def _mixing_line(cell: CellIR) -> int:
    """The line that mixes channels; among several, the first that mixes all of them."""
    mixing = [let for let in cell.lets if let.expr.atoms(*functions.MIXING)]
    worst = [let for let in mixing if _mixes_all(cell, let)]
    return next((let.line for let in [*worst, *mixing]), cell.line)


def _mixes_all(cell: CellIR, let: Let) -> bool:
    products = let.expr.atoms(MatVec)
    return bool(let.expr.atoms(Shift, Mean)) or any(_block_of(cell, p) is None for p in products)


# --- the proof -------------------------------------------------------------------------------


def describe(cell: CellIR, examined: Examined, program: Program, jacobian: JacobianIR) -> Structure:
    """The structure of one group's Jacobian."""
    channels, coupled = examined
    inner = _depends_on_state(program, jacobian)
    pattern = tuple(
        "".join("0" if e == 0 else "1" if not e.free_symbols else "x" for e in row)
        for row in jacobian.entries
    )
    opaques = [o for let in program.lets for o in _opaques(let)]
    rows = {row for row in map(functions.row_of, opaques) if row}
    # a jump has no slope to show: where(h > 0, a, b) and sign(h) have a Jacobian of 0
    jumps = any(inner(o) for o in opaques if isinstance(o, (functions.Comparison, *JUMPS)))
    affine = not jumps and not any(inner(e) for row in jacobian.entries for e in row)
    spiking = any(row.name.startswith("spike_") for row in rows)
    affine = affine and all(row.slope is None for row in rows)
    structure = Structure(
        kind="diagonal" if coupled == 1 else "block",
        group=program.group,
        block=coupled * len(cell.states),
        pattern=pattern,
        affine=affine,
        smooth=all(row.smooth for row in rows),
        spiking=spiking,
        readouts=_readouts(cell, program),
        proof="",
    )
    return Structure(**{**vars(structure), "proof": _proof(cell, structure, coupled, channels)})


def _opaques(let: Let) -> list[Expr]:
    return sorted(let.expr.atoms(functions.Opaque), key=str)


def _depends_on_state(program: Program, jacobian: JacobianIR):  # type: ignore[no-untyped-def]
    """A test for expressions over the program's and the Jacobian's lets."""
    moving = {slot.symbol.name for slot in program.states}
    for let in [*program.lets, *jacobian.lets]:
        if moving & {s.name for s in let.expr.free_symbols}:
            moving.add(let.name)
    return lambda expr: bool(moving & {s.name for s in expr.free_symbols})


def _readouts(cell: CellIR, program: Program) -> tuple[str, ...]:
    """States that no next state reads: nothing is fed back from them."""
    fed_back = {j // program.group for states in _reads(program) for j in states}
    return tuple(state.name for s, state in enumerate(cell.states) if s not in fed_back)


def _proof(cell: CellIR, structure: Structure, coupled: int, channels: int) -> str:
    states = len(cell.states)
    entries = (states * channels) ** 2
    counted = f"{states} state{'s' if states > 1 else ''}"
    alone = "each channel stands alone" if coupled == 1 else f"groups of {coupled} channels couple"
    lines = [
        f"{structure.kind}: the Jacobian over {channels} channels ({entries} entries) is zero "
        f"between {'channels' if coupled == 1 else 'groups'}, so {alone}.",
        f"blocks of {structure.block} ({counted} x {coupled} channel{'s' if coupled > 1 else ''}), "
        + ("affine in the state" if structure.affine else "nonlinear in the state")
        + (", spiking" if structure.spiking else ", smooth" if structure.smooth else ", with kinks")
        + ".",
    ]
    if structure.group > coupled:
        lines.append(f"evaluated in groups of {structure.group} channels, which a Matrix mixes.")
    if structure.readouts:
        lines.append(f"not fed back: {', '.join(structure.readouts)}.")
    return "\n".join(lines)
