"""RWKV-4's time mixing: an average of all values so far, weighted by exp(key) and by their age.

For language models, attention without a quadratic cost. a and b are the sums of weights times
values and of weights, both times exp(-p), p being the largest exponent so far; it starts far down.
The newest value has a weight of its own, exp(time_first + k). The starts are those of the lowest
layer; time_first's zigzag over channels is drawn at random. Mixing x with the x before it, which
the paper does before the projections, is left to the caller.
Field: language models.
Source: Peng et al. 2023, arXiv:2305.13048.
"""

from math import log

from rnncc import Input, Param, State, cell, exp, maximum, sigmoid, spaced, uniform


@cell
def rwkv4(
    a: State, b: State, p: State(init=-1e30),
    k: Input, v: Input, r: Input,
    time_decay: Param(init=8 * spaced(0, 1) ** 0.7 - 5),
    time_first: Param(init=uniform(log(0.3) - 0.5, log(0.3) + 0.5)),
):
    bonus = time_first + k
    top = maximum(p, bonus)
    past = exp(p - top)
    present = exp(bonus - top)
    wkv = (past * a + present * v) / (past * b + present)
    aged = p - exp(time_decay)
    p_new = maximum(aged, k)
    keep = exp(aged - p_new)
    take = exp(k - p_new)
    return {"a": keep * a + take * v, "b": keep * b + take, "p": p_new, "y": sigmoid(r) * wkv}
