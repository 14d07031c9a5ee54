"""Bistable recurrent cell: a channel can hold one bit forever by itself.

For very long memory. Where the feedback a is above 1 a channel without input has two stable values
of either sign, where it is below 1 only 0; c slows the channel down. Once it has settled, small
inputs can't move it, and gradients through it vanish; as its end depends on where it started,
parallel solvers may need many sweeps. Its recurrent weights are diagonal in the paper as well.
Field: time series, neuroscience.
Source: Vecoven et al. 2021, arXiv:2006.05252.
"""

from rnncc import Input, Param, State, cell, constant, sigmoid, tanh


@cell
def brc(
    h: State,
    xa: Input, xc: Input, x: Input,
    wa: Param(init=constant(1)), wc: Param(init=constant(1)),
):
    a = 1 + tanh(wa * h + xa)  # feedback, 0 to 2: bistable above 1
    c = sigmoid(wc * h + xc)  # how much is kept
    return c * h + (1 - c) * tanh(x + a * h)
