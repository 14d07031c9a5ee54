"""Selective state space model, the recurrence of Mamba: four states per channel, dt by the input.

For language models: a large dt takes the input in and forgets, a small one passes it by. The input
is held over a step, by Euler's rule as in the authors' code (the paper has zero-order hold). B and
C are projected once for all channels. Mamba has 16 states, and around this a short convolution and
a gate; it projects dt through a bottleneck.
Field: language models, time series.
Source: Gu and Dao 2023, arXiv:2312.00752.
"""

import math

from rnncc import Input, Param, State, cell, constant, exp, expm1, log, softplus, uniform


@cell
def selective_ssm(
    h1: State, h2: State, h3: State, h4: State,
    x: Input,
    x_dt: Input(bias=log(expm1(exp(uniform(math.log(0.001), math.log(0.1)))))),
    B1: Input(shared=True, projected=True), B2: Input(shared=True, projected=True),
    B3: Input(shared=True, projected=True), B4: Input(shared=True, projected=True),
    C1: Input(shared=True, projected=True), C2: Input(shared=True, projected=True),
    C3: Input(shared=True, projected=True), C4: Input(shared=True, projected=True),
    A_log1: Param(init=constant(math.log(1))), A_log2: Param(init=constant(math.log(2))),
    A_log3: Param(init=constant(math.log(3))), A_log4: Param(init=constant(math.log(4))),
    D: Param(init=constant(1)),
):
    dt = softplus(x_dt)
    u = dt * x
    h1_new = exp(-dt * exp(A_log1)) * h1 + u * B1
    h2_new = exp(-dt * exp(A_log2)) * h2 + u * B2
    h3_new = exp(-dt * exp(A_log3)) * h3 + u * B3
    h4_new = exp(-dt * exp(A_log4)) * h4 + u * B4
    y = C1 * h1_new + C2 * h2_new + C3 * h3_new + C4 * h4_new + D * x
    return {"h1": h1_new, "h2": h2_new, "h3": h3_new, "h4": h4_new, "y": y}
