"""GRU with diagonal state-to-state weights.

Field: language models, time series.
Source: Danieli et al. 2025, arXiv:2510.21450.
"""

from rnncc import Input, Param, State, cell, sigmoid, tanh, uniform


@cell
def para_gru(
    h: State,
    xz: Input, xr: Input, xc: Input,
    az: Param(init=uniform(-1, 1)), ar: Param(init=uniform(-1, 1)), ac: Param(init=uniform(-1, 1)),
):
    z = sigmoid(az * h + xz)  # update gate
    r = sigmoid(ar * h + xr)  # reset gate
    c = tanh(ac * r * h + xc)  # candidate
    return (1 - z) * h + z * c
