"""sLSTM: exponential gates with a normaliser n and a stabiliser m, diagonal recurrent weights.

Can revise what it stored: an input gate is not bounded by 1. m keeps every exponential at or below
1; it starts far down, so that the first step sets n to 1 and n stays at 1 or above.
Source: Beck et al. 2024, arXiv:2405.04517, with a sigmoid forget gate.
"""

from rnncc import Input, Param, State, cell, exp, logsigmoid, maximum, sigmoid, tanh, uniform


@cell
def slstm(
    c: State, n: State, m: State(init=-1e30), h: State,
    xi: Input, xf: Input, xz: Input, xo: Input,
    ri: Param(init=uniform(-1, 1)), rf: Param(init=uniform(-1, 1)),
    rz: Param(init=uniform(-1, 1)), ro: Param(init=uniform(-1, 1)),
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
