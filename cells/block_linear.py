"""Linear RNN with block-diagonal transitions, which the input mixes from two learned ones.

For tracking a state: with permutations for A and B a block runs a finite automaton exactly, also
where its moves don't commute, as those of diagonal transitions always do. The choice is one for
all channels. In the paper the matrices are dense, may be more than two, and the columns of their
mixture are divided by their 1.2-norms; here they start small, and then nothing keeps the state from
growing.
Field: language models, dynamical systems.
Source: Terzic et al. 2025, arXiv:2412.19350 (SD-SSM); block-diagonal: arXiv:2309.07412.
"""

from rnncc import Input, Matrix, State, cell, sigmoid


@cell
def block_linear(
    h: State,
    x: Input, choice: Input(shared=True, projected=True),
    A: Matrix(block=4), B: Matrix(block=4),
):
    s = sigmoid(choice)  # softmax over the two
    return s * (A @ h) + (1 - s) * (B @ h) + x
