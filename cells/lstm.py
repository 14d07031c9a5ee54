"""LSTM with diagonal state-to-state weights.

The classic for long memory; `forget_bias` opens the forget gate at the start (Jozefowicz 2015).
Field: language models, time series.
Source: Hochreiter and Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735; forget gate: Gers 2000.
"""

from rnncc import Input, Param, State, cell, sigmoid, tanh, uniform


@cell
def lstm(
    c: State, h: State,
    xi: Input, xf: Input, xz: Input, xo: Input,
    ri: Param(init=uniform(-1, 1)), rf: Param(init=uniform(-1, 1)),
    rz: Param(init=uniform(-1, 1)), ro: Param(init=uniform(-1, 1)),
    forget_bias=1.0,
):
    i = sigmoid(xi + ri * h)  # input gate
    f = sigmoid(xf + rf * h + forget_bias)  # forget gate
    z = tanh(xz + rz * h)  # block input
    o = sigmoid(xo + ro * h)  # output gate
    c_new = f * c + i * z
    h_new = o * tanh(c_new)
    return c_new, h_new
