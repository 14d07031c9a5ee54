"""Update gate RNN: an Elman network that a gate can tell to keep its state.

Between a plain RNN and a GRU: highway connections in time, easy to train in deep stacks. The gate's
bias starts at 1, towards keeping. The paper's recurrent weights are dense, here they are diagonal.
Field: language models, time series.
Source: Collins et al. 2017, arXiv:1611.09913.
"""

from rnncc import Input, Param, State, cell, constant, sigmoid, tanh, uniform


@cell
def ugrnn(
    h: State,
    xc: Input, xg: Input(bias=constant(1)),
    rc: Param(init=uniform(-1, 1)), rg: Param(init=uniform(-1, 1)),
):
    c = tanh(rc * h + xc)  # candidate
    g = sigmoid(rg * h + xg)  # update gate: how much is kept
    return g * h + (1 - g) * c
