"""sLSTM: exponential gates with a normaliser n and a stabiliser m, diagonal recurrent weights.

Can revise what it stored: an input gate is not bounded by 1. c and n are the cell and the sum of
all weights in it, both times exp(-m). m keeps every exponential at or below 1; it starts far down,
so that the first step sets n to 1. The forget gate's bias starts from 5 down to -7 over the
channels, as in the first block of the authors' code; there recurrent weights are block-diagonal and
start at 0, here they are diagonal and random.
Field: language models, time series.
Source: Beck et al. 2024, arXiv:2405.04517, with a sigmoid forget gate.
"""

from rnncc import Input, Param, State, cell, exp, logsigmoid, maximum, sigmoid, spaced, tanh


@cell
def slstm(
    c: State, n: State, m: State(init=-1e30), h: State,
    xi: Input, xf: Input(bias=5 - 12 * spaced(0, 1) ** 0.3), xz: Input, xo: Input,
    ri: Param, rf: Param, rz: Param, ro: Param,
):
    log_i = xi + ri * h
    log_f = logsigmoid(xf + rf * h)
    z = tanh(xz + rz * h)  # cell input
    o = sigmoid(xo + ro * h)  # output gate
    m_new = maximum(log_f + m, log_i)  # stabiliser
    i = exp(log_i - m_new)  # input gate
    f = exp(log_f + m - m_new)  # forget gate
    c_new = f * c + i * z
    n_new = f * n + i  # normaliser
    h_new = o * c_new / n_new
    return c_new, n_new, m_new, h_new
