"""MinimalRNN: the state is a gated average of encoded inputs, and never leaves their space.

The candidate z sees the input only, so that the state stays within (-1, 1) and is easy to read:
each value is a weighted mean of past z. The gate sees the input through z alone, by a weight uz
and a bias bu. The paper's weights uh and uz are dense, here they are diagonal.
Field: language models, time series.
Source: Chen 2017, arXiv:1711.06788.
"""

from rnncc import Input, Param, State, cell, constant, sigmoid, tanh, uniform


@cell
def minimal_rnn(
    h: State,
    x: Input,
    uh: Param(init=uniform(-1, 1)), uz: Param(init=uniform(-1, 1)), bu: Param(init=constant(0)),
):
    z = tanh(x)  # encoded input
    u = sigmoid(uh * h + uz * z + bu)  # update gate: how much is kept
    return u * h + (1 - u) * z
