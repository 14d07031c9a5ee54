"""Phased LSTM: a rhythmic gate k opens each channel for a small part r_on of its period tau.

For event-based and irregular series: t is the time of a step. k goes up to 1 and down while the
gate is open; closed, c and h leak at the small rate alpha only (0 for inference). tau and s learn
from the slopes of k, floor has none. A t far above tau leaves phi few digits in float32. As in the
authors' code the output gate's peephole sees c_new, signs of tau and r_on don't count, and the
forget gate starts open; tau, s and r_on start as they advise. The weights of h are diagonal.
Field: time series.
Source: Neil et al. 2016, arXiv:1610.09513.
"""

from rnncc import Input, Param, State, cell, constant, exp, floor, sigmoid, tanh, uniform, where


@cell
def phased_lstm(
    c: State, h: State,
    xi: Input, xf: Input(bias=constant(2)), xz: Input, xo: Input,
    t: Input(shared=True, typical=uniform(0, 100)),
    ri: Param, rf: Param, rz: Param, ro: Param,
    pi: Param(init=uniform(-0.1, 0.1)), pf: Param(init=uniform(-0.1, 0.1)),
    po: Param(init=uniform(-0.1, 0.1)),
    tau: Param(init=exp(uniform(1, 5))), s: Param(init=uniform(0, 148)),
    r_on: Param(init=constant(0.05)), alpha=0.001,
):
    cycles = (t - s) / abs(tau)
    phi = cycles - floor(cycles)  # phase, in [0, 1)
    r = abs(r_on)
    k = where(phi < r / 2, 2 * phi / r, where(phi < r, 2 - 2 * phi / r, alpha * phi))
    c_new = sigmoid(xf + rf * h + pf * c) * c + sigmoid(xi + ri * h + pi * c) * tanh(xz + rz * h)
    h_new = sigmoid(xo + ro * h + po * c_new) * tanh(c_new)
    return k * c_new + (1 - k) * c, k * h_new + (1 - k) * h
