"""minGRU: a GRU whose gate and candidate see the input only, so that it is affine in its state.

For long sequences that have to train in parallel. h stays within the range of its candidates.
This is the paper's plain form (its algorithm in "vanilla" mode): the candidate xh is the projected
input itself, without the function g of the log-space form.
Field: language models, time series.
Source: Feng et al. 2024, arXiv:2410.01201.
"""

from rnncc import Input, State, cell, sigmoid


@cell
def min_gru(h: State, xz: Input, xh: Input):
    z = sigmoid(xz)  # update gate
    return (1 - z) * h + z * xh
