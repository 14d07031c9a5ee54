"""RotRNN: a decaying rotation whose input is scaled so that the state keeps a mean square of 1.

Long-range linear memory. One plane of a head of the paper: there a head has several planes with one
gamma for all, and an orthogonal basis P, which in a single plane commutes with the rotation and
drops out. It differs from the LRU in that the angle itself is learned, not its logarithm, in how
gamma starts, in its scale, which holds for the two entries of u together, and in both entries being
output. The paper divides B by its own norm as well; here u is B x of unit variance per entry.
Field: time series, language models.
Source: Biegun et al. 2024, arXiv:2407.07239.
"""

from math import log

from rnncc import Input, Param, State, cell, cos, exp, expm1, sin, sqrt, uniform


@cell
def rot_rnn(
    x1: State, x2: State,
    u1: Input, u2: Input,
    gamma_log: Param(init=uniform(log(-log(0.999)), log(-log(0.9)))),
    theta: Param(init=uniform(0, 6.28)),
):
    nu = exp(gamma_log)
    gamma = exp(-nu)  # decay
    xi = sqrt(-expm1(-2 * nu) / 2)  # sqrt((1 - gamma^2) / tr(B^T B))
    A_re = gamma * cos(theta)
    A_im = gamma * sin(theta)
    x1_new = A_re * x1 - A_im * x2 + xi * u1
    x2_new = A_im * x1 + A_re * x2 + xi * u2
    return {"x1": x1_new, "x2": x2_new, "y1": x1_new, "y2": x2_new}
