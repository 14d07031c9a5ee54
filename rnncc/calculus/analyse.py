"""Analyse: CellIR -> Compiled, all passes of the calculus in their order."""

from __future__ import annotations

from rnncc.calculus.differentiate import adjoint, differentiate
from rnncc.calculus.fission import fission
from rnncc.calculus.lower import lower
from rnncc.calculus.rematerialize import rematerialize
from rnncc.calculus.structure import classify
from rnncc.ir.program import CellIR, Compiled


def analyse(cell: CellIR) -> Compiled:
    """All of the calculus: structure, the program of one group, its Jacobian and its adjoint.

    Raises:
        StructureError: channels couple.
    """
    structure = classify(cell)  # CellIR -> Structure
    program = lower(cell, structure.group)  # CellIR -> Program
    jacobian = differentiate(program)  # Program -> JacobianIR
    reverse = adjoint(program)  # Program -> AdjointIR
    stored = rematerialize(program, jacobian, reverse)  # Program, both IRs -> Rematerialized
    parts = fission(program)  # Program -> Fission
    return Compiled(cell, structure, program, jacobian, reverse, stored, parts)
