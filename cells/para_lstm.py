"""LSTM with diagonal weights, coupled input and forget gates, and peepholes.

Made for parallel training of language models; the state of a channel is the pair (c, h).
Field: language models.
Source: Danieli et al. 2025, arXiv:2510.21450; coupled gates (CIFG): arXiv:1503.04069.
"""

from rnncc import Input, Param, State, cell, sigmoid, tanh, uniform


@cell
def para_lstm(
    c: State, h: State,
    xf: Input, xc: Input, xo: Input,
    af: Param(init=uniform(-1, 1)), ac: Param(init=uniform(-1, 1)), ao: Param(init=uniform(-1, 1)),
    cf: Param(init=uniform(-1, 1)), co: Param(init=uniform(-1, 1)),
):
    f = sigmoid(af * h + xf + cf * c)  # forget gate, sees the old c
    z = tanh(ac * h + xc)  # candidate
    c_new = f * c + (1 - f) * z
    o = sigmoid(ao * h + xo + co * c_new)  # output gate, sees the new c
    h_new = o * tanh(c_new)
    return c_new, h_new
