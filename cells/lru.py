"""Linear Recurrent Unit: a decaying rotation, written with two real states for one complex one.

Long-range linear memory, stable for any value of its params: |lambda| = exp(-exp(nu_log)) < 1.
Inputs are the real and imaginary part of B x; the output is the real part of the state. The starts
give |lambda| from 0.9 to 0.999 and phases from 0.01 to 1; gamma is computed here, not learnt.
Source: Orvieto et al. 2023, arXiv:2303.06349.
"""

from rnncc import Input, Param, State, cell, cos, exp, expm1, sin, sqrt, uniform


@cell
def lru(
    re: State, im: State,
    bx_re: Input, bx_im: Input,
    nu_log: Param(init=uniform(-6.9, -2.25)), theta_log: Param(init=uniform(-4.6, 0)),
):
    nu = exp(nu_log)
    theta = exp(theta_log)  # phase
    radius = exp(-nu)  # |lambda|
    gamma = sqrt(-expm1(-2 * nu))  # sqrt(1 - |lambda|^2)
    lambda_re = radius * cos(theta)
    lambda_im = radius * sin(theta)
    re_new = lambda_re * re - lambda_im * im + gamma * bx_re
    im_new = lambda_im * re + lambda_re * im + gamma * bx_im
    return {"re": re_new, "im": im_new, "y": re_new}
