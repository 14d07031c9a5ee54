"""Mamba-3: a selective state space that rotates, its input taken in by a trapezoidal rule.

For language models that track state: the angle dt theta comes from the input, so that parity is one
turn by pi. h is one complex state, v = B x of the step before. lam weighs the new end of the step
against the old one (1: Mamba-2). Here dt, A and lam are per channel, in the paper per head; B and C
start at 1 by their biases. Left out are their norm, more ranks and the gate, and the bounds that
the authors' code puts on A and theta.
Field: language models.
Source: Lahoti et al. 2026, arXiv:2603.15569.
"""

import math

from rnncc import (
    Input, Param, State, cell, constant, cos, exp, expm1, log, sigmoid, sin, softplus, uniform,
)


@cell
def mamba3(
    h_re: State, h_im: State, v_re: State, v_im: State,
    x: Input, x_dt: Input(bias=log(expm1(exp(uniform(math.log(0.001), math.log(0.1)))))),
    x_A: Input, x_lam: Input, theta: Input(shared=True, projected=True),
    B_re: Input(shared=True, projected=True, bias=constant(1)),
    B_im: Input(shared=True, projected=True, bias=constant(1)),
    C_re: Input(shared=True, projected=True, bias=constant(1)),
    C_im: Input(shared=True, projected=True, bias=constant(1)), D: Param(init=constant(1)),
):
    dt, lam = softplus(x_dt), sigmoid(x_lam)
    alpha = exp(-dt * softplus(x_A))
    beta = (1 - lam) * dt * alpha  # weight of the step's old end
    turn_re, turn_im = cos(dt * theta), sin(dt * theta)
    u_re, u_im = alpha * h_re + beta * v_re, alpha * h_im + beta * v_im
    w_re, w_im = B_re * x, B_im * x
    re = turn_re * u_re - turn_im * u_im + lam * dt * w_re
    im = turn_im * u_re + turn_re * u_im + lam * dt * w_im
    return {"h_re": re, "h_im": im, "v_re": w_re, "v_im": w_im, "y": C_re * re + C_im * im + D * x}
