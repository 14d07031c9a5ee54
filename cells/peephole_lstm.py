"""LSTM whose gates look at the memory c itself through peepholes.

For precise timing and counting: a closed output gate no longer hides c from the other gates. Input
and forget gate see the old c, the output gate the new one. The paper's peepholes are diagonal too,
its other recurrent weights dense; here all are diagonal. The forget gate's bias starts at 1.
Field: time series, language models.
Source: Gers and Schmidhuber 2000, doi:10.1109/IJCNN.2000.861302.
"""

from rnncc import Input, Param, State, cell, constant, sigmoid, tanh, uniform


@cell
def peephole_lstm(
    c: State, h: State,
    xi: Input, xf: Input(bias=constant(1)), xz: Input, xo: Input,
    ri: Param(init=uniform(-1, 1)), rf: Param(init=uniform(-1, 1)),
    rz: Param(init=uniform(-1, 1)), ro: Param(init=uniform(-1, 1)),
    pi: Param(init=uniform(-1, 1)), pf: Param(init=uniform(-1, 1)), po: Param(init=uniform(-1, 1)),
):
    i = sigmoid(xi + ri * h + pi * c)  # input gate
    f = sigmoid(xf + rf * h + pf * c)  # forget gate
    z = tanh(xz + rz * h)  # block input
    c_new = f * c + i * z
    o = sigmoid(xo + ro * h + po * c_new)  # output gate, sees the new c
    h_new = o * tanh(c_new)
    return c_new, h_new
