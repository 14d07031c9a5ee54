"""Once: a cell and its cost -> which of its functions a C++ compiler gets but once.

Inlined in each caller, for each choice of results, they are most of the time of a build.
"""

from __future__ import annotations

from dataclasses import dataclass

from rnncc.ir.program import Compiled
from rnncc.ir.spec import Effort, EffortSpec

WEIGHT_OF_FUNCTION = 6  # in operations
LARGE = 1000  # operations of a step, its product and its adjoint, more than any shipped cell has
ALIKE = 0.9  # of the whole adjoint, from where its variant without inputs and params saves little


@dataclass(frozen=True)
class Once:
    """What is compiled once.

    Attributes:
        large: the functions are called, none is inlined; a product calls the Jacobian.
        step: a step always stores the lets that its derivatives read.
        adjoint: the adjoint always gives the gradients of inputs and params too.
    """

    large: bool
    step: bool
    adjoint: bool


def once(compiled: Compiled, cost: EffortSpec) -> Once:
    """The functions of a large cell, and those variants of them that cost next to nothing."""
    program = compiled.program
    large = weight(cost.step) + weight(cost.carry) + weight(cost.adjoint) > LARGE
    stored = len(compiled.rows) - len(compiled.fission.crossing)
    alone = weight(cost.through) / (1 + len(compiled.fed))
    every = weight(cost.adjoint) + len(program.inputs) + len(program.params)  # which it adds up
    return Once(
        large=large,
        step=large and stored <= cost.step.functions,
        adjoint=large and alone > ALIKE * every,
    )


def weight(effort: Effort) -> float:
    """Of a part of a kernel, in operations."""
    return effort.operations + WEIGHT_OF_FUNCTION * effort.functions
