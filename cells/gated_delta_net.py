"""Gated DeltaNet: a linear attention that corrects what it holds for a key, and forgets.

One head with keys of four entries: S is a channel's row of the head's matrix, the channels are the
entries of its values; keys, queries and gates are one for all. Before writing v for the key k it
takes out what S gives for k, so a key is overwritten, not added to. The paper's keys have far more
entries; its short convolutions come before the cell, its norm and gate after.
Field: language models.
Source: Yang et al. 2024, arXiv:2412.06464.
"""

import math

from rnncc import Input, Param, State, cell, exp, expm1, log, rsqrt, sigmoid, softplus, uniform


@cell
def gated_delta_net(
    S1: State, S2: State, S3: State, S4: State, v: Input,
    k1: Input(shared=True, projected=True), k2: Input(shared=True, projected=True),
    k3: Input(shared=True, projected=True), k4: Input(shared=True, projected=True),
    q1: Input(shared=True, projected=True), q2: Input(shared=True, projected=True),
    q3: Input(shared=True, projected=True), q4: Input(shared=True, projected=True),
    x_dt: Input(shared=True, projected=True,
                bias=log(expm1(exp(uniform(math.log(0.001), math.log(0.1)))))),
    x_beta: Input(shared=True, projected=True),
    A_log: Param(shared=True, init=log(uniform(0.01, 16))),
):
    alpha = exp(-exp(A_log) * softplus(x_dt))  # how much is kept
    beta = sigmoid(x_beta)  # how far the value is corrected
    unit_k = rsqrt(k1**2 + k2**2 + k3**2 + k4**2 + 1e-6)
    held = alpha * unit_k * (S1 * k1 + S2 * k2 + S3 * k3 + S4 * k4)
    write = beta * unit_k * (v - held)
    T1, T2, T3, T4 = (alpha * S + write * k for S, k in ((S1, k1), (S2, k2), (S3, k3), (S4, k4)))
    unit_q = rsqrt(q1**2 + q2**2 + q3**2 + q4**2 + 1e-6)
    y = 0.5 * unit_q * (T1 * q1 + T2 * q2 + T3 * q3 + T4 * q4)  # 0.5 = 1 / sqrt(4 entries)
    return {"S1": T1, "S2": T2, "S3": T3, "S4": T4, "y": y}
