"""Light GRU: no reset gate, and relu in the place of tanh.

Made for speech recognition. relu leaves the state unbounded: where uh is above 1 it can grow from
step to step (arXiv:2302.10144 shows this as the cause of exploding gradients). The paper normalises
the projections over the batch, which belongs before the cell, and has dense recurrent weights,
orthogonal at the start; here they are diagonal.
Field: time series, language models.
Source: Ravanelli et al. 2018, arXiv:1803.10225.
"""

from rnncc import Input, Param, State, cell, relu, sigmoid, uniform


@cell
def li_gru(
    h: State,
    xz: Input, xh: Input,
    uz: Param(init=uniform(-1, 1)), uh: Param(init=uniform(-1, 1)),
):
    z = sigmoid(uz * h + xz)  # update gate: how much is kept
    c = relu(uh * h + xh)  # candidate
    return z * h + (1 - z) * c
