"""Moog's ladder filter: four saturating low-pass stages with feedback; a synthesizer's filter.

Y are the stages' voltages in units of 2 V_t, W the tanh of the first three, which the next sample
takes up; d is the fed-back voltage, delayed by half a sample: the mean of two. g is the cutoff
(1 - exp(-2 pi f / f_s)), 4 r the gain of the feedback: near r = 1 it sings. The paper runs it at
twice the rate of samples.
Field: time series, dynamical systems.
Source: Huovilainen 2004, Non-linear digital implementation of the Moog ladder filter, DAFx.
"""

from rnncc import Input, Param, State, cell, tanh, uniform


@cell
def moog_ladder(
    Y1: State, Y2: State, Y3: State, Y4: State, W1: State, W2: State, W3: State, d: State,
    last: State, x: Input, g: Param(init=uniform(0.1, 0.5)), r: Param(init=uniform(0, 1)),
):  # fmt: skip
    y1 = Y1 + g * (tanh(x - 4 * r * d) - W1)
    w1 = tanh(y1)
    y2 = Y2 + g * (w1 - W2)
    w2 = tanh(y2)
    y3 = Y3 + g * (w2 - W3)
    w3 = tanh(y3)
    y4 = Y4 + g * (w3 - tanh(Y4))
    half = 0.5 * (y4 + last)
    return {"Y1": y1, "Y2": y2, "Y3": y3, "Y4": y4, "W1": w1, "W2": w2, "W3": w3, "d": half,
            "last": y4, "y": half}  # fmt: skip
