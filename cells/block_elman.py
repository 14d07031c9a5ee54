"""Elman's network whose channels mix in blocks of four.

Between a diagonal recurrence and a dense one: what a channel can't do alone (an oscillation, a
small automaton), a block can, at the cost of a 4 x 4 Jacobian.
Field: language models, time series.
Source: Elman 1990, doi:10.1207/s15516709cog1402_1; block-diagonal weights.
"""

from rnncc import Input, Matrix, State, cell, tanh


@cell
def block_elman(h: State, x: Input, R: Matrix(block=4)):
    return tanh(R @ h + x)
