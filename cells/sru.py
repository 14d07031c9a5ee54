"""Simple recurrent unit: a light recurrence of c, and a highway from the input to the output h.

Made to be fast: all products with matrices come before the recurrence, which is diagonal in the
paper as well. Both gates see the old c. The highway has a projection of its own here, while in the
paper it takes the input itself where sizes agree; its scaling constant is left to that projection.
Field: language models, time series.
Source: Lei et al. 2018, arXiv:1709.02755 (version 5); start of vf, vr: package sru 2.6.0.
"""

from rnncc import Input, Param, State, cell, constant, sigmoid, uniform


@cell
def sru(
    c: State,
    x: Input, xf: Input(bias=constant(0)), xr: Input(bias=constant(0)), skip: Input,
    vf: Param(init=uniform(-1.2247, 1.2247)), vr: Param(init=uniform(-1.2247, 1.2247)),
):
    f = sigmoid(xf + vf * c)  # forget gate
    r = sigmoid(xr + vr * c)  # reset gate: recurrence against highway
    c_new = f * c + (1 - f) * x
    return {"c": c_new, "h": r * c_new + (1 - r) * skip}
