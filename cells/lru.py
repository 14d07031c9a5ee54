"""Linear Recurrent Unit: a decaying rotation, written with two real states for one complex one.

Long-range linear memory, stable for any value of its params: |lambda| = exp(-exp(nu_log)) < 1.
Inputs are the real and imaginary part of B x; the output is the real part of the state. At the
start lambda is uniform over the ring 0.9 < |lambda| < 0.999, as the paper has it for long tasks;
gamma, which the paper learns from this init, is computed here.
Field: time series, language models.
Source: Orvieto et al. 2023, arXiv:2303.06349.
"""

from rnncc import Input, Param, State, cell, cos, exp, expm1, log, sin, sqrt, uniform


@cell
def lru(
    re: State, im: State,
    bx_re: Input, bx_im: Input,
    nu_log: Param(init=log(-0.5 * log(uniform(0.9**2, 0.999**2)))),
    theta_log: Param(init=log(uniform(0.001, 6.28))),
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
