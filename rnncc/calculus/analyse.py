"""Analyse: CellIR -> Compiled, all passes of the calculus in their order."""

from __future__ import annotations

from rnncc.calculus.differentiate import adjoint, differentiate
from rnncc.calculus.fission import fission
from rnncc.calculus.lower import flatten, group_size, write_out
from rnncc.calculus.rematerialize import rematerialize
from rnncc.calculus.structure import describe, examine
from rnncc.ir.program import CellIR, Compiled


def analyse(cell: CellIR) -> Compiled:
    """All of the calculus: structure, the program of one group, its Jacobian and its adjoint.

    Raises:
        StructureError: channels couple.
    """
    flat = flatten(cell)  # CellIR -> CellIR: each let arithmetic, or one function of it
    examined = examine(cell, flat)  # CellIR -> Examined: which channels couple
    program = write_out(flat, group_size(cell))  # CellIR -> Program
    jacobian = differentiate(program)  # Program -> JacobianIR
    structure = describe(cell, examined, program, jacobian)  # all of these -> Structure
    reverse = adjoint(program)  # Program -> AdjointIR
    stored = rematerialize(program, jacobian, reverse)  # Program, both IRs -> Rematerialized
    parts = fission(program)  # Program -> Fission
    return Compiled(cell, structure, program, jacobian, reverse, stored, parts)
