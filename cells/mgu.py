"""Minimal gated unit: a GRU with one gate, which both resets and updates.

A small gated baseline: two projections where a GRU has three. f near 1 overwrites the state with
the candidate, f near 0 keeps it. The paper's recurrent weights are dense, here they are diagonal.
Field: language models, time series.
Source: Zhou et al. 2016, arXiv:1603.09420.
"""

from rnncc import Input, Param, State, cell, sigmoid, tanh, uniform


@cell
def mgu(
    h: State,
    xf: Input, xh: Input,
    uf: Param(init=uniform(-1, 1)), uh: Param(init=uniform(-1, 1)),
):
    f = sigmoid(uf * h + xf)  # forget gate
    c = tanh(uh * f * h + xh)  # candidate
    return (1 - f) * h + f * c
