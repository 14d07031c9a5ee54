"""mLSTM: the matrix memory of xLSTM, exponential input gate, normaliser n and stabiliser m.

One head with keys of two entries: C is a channel's row of the head's matrix, the channels are the
entries of its values; keys, queries and gates are one for all, so that every channel carries the
same n and m. C and n are times exp(-m), on which the output hardly depends: the 1e-6 is that of the
authors' code, and exp(-m) is held at exp(80), where the output is 0 either way. The paper's keys
have far more entries; its forget gates' biases start from 3 to 6 over the heads.
Field: language models.
Source: Beck et al. 2024, arXiv:2405.04517, with a sigmoid forget gate.
"""

from rnncc import Input, State, cell, exp, logsigmoid, maximum, minimum, normal, sigmoid, uniform


@cell
def mlstm(
    C1: State, C2: State, n1: State, n2: State, m: State,
    v: Input, xo: Input,
    k1: Input(shared=True, projected=True), k2: Input(shared=True, projected=True),
    q1: Input(shared=True, projected=True), q2: Input(shared=True, projected=True),
    xi: Input(shared=True, projected=True, bias=normal(0, 0.1)),
    xf: Input(shared=True, projected=True, bias=uniform(3, 6)),
):
    log_f = logsigmoid(xf) + m
    m_new = maximum(log_f, xi)  # stabiliser
    f = exp(log_f - m_new)  # forget gate
    i = exp(xi - m_new) * 0.5**0.5  # input gate, over sqrt(2 entries)
    score = q1 * k1 + q2 * k2  # of the newest value
    held = f * (q1 * C1 + q2 * C2) + i * v * score
    weight = f * (q1 * n1 + q2 * n2) + i * score
    h = sigmoid(xo) * held / (maximum(abs(weight), exp(minimum(-m_new, 80))) + 1e-6)
    C1_new, C2_new = f * C1 + i * v * k1, f * C2 + i * v * k2
    n1_new, n2_new = f * n1 + i * k1, f * n2 + i * k2  # normaliser
    return {"C1": C1_new, "C2": C2_new, "n1": n1_new, "n2": n2_new, "m": m_new, "h": h}
