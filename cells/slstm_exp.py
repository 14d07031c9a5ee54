"""sLSTM with an exponential forget gate, the other of the two that xLSTM's paper allows.

As slstm, but the past can be raised as well as forgotten: the forget gate's pre-activation is its
logarithm, of either sign. c and n are the cell and its normaliser, both times exp(-m); h = o c / n
doesn't depend on the stabiliser m. Where the gate stays above 1, m grows with every step, and
float32 loses digits of it after some 1e5 steps. The gate's bias starts from 5 down to -7 over the
channels, as the authors' code has it for the sigmoid gate in its first block; there recurrent
weights are block-diagonal and start at 0, here they are diagonal and random.
Field: language models, time series.
Source: Beck et al. 2024, arXiv:2405.04517.
"""

from rnncc import Input, Param, State, cell, exp, maximum, sigmoid, spaced, tanh


@cell
def slstm_exp(
    c: State, n: State, m: State(init=-1e30), h: State,
    xi: Input, xf: Input(bias=5 - 12 * spaced(0, 1) ** 0.3), xz: Input, xo: Input,
    ri: Param, rf: Param, rz: Param, ro: Param,
):
    log_i = xi + ri * h
    log_f = xf + rf * h
    z = tanh(xz + rz * h)  # cell input
    o = sigmoid(xo + ro * h)  # output gate
    m_new = maximum(log_f + m, log_i)  # stabiliser
    i = exp(log_i - m_new)  # input gate
    f = exp(log_f + m - m_new)  # forget gate
    c_new = f * c + i * z
    n_new = f * n + i  # normaliser
    h_new = o * c_new / n_new
    return c_new, n_new, m_new, h_new
