"""Liquid-S4: a state space whose transition is moved by the input, x' = (A + B u) x + B u.

For time series whose dynamics depend on their input: products of inputs at different times enter
the state. Bilinear discretisation with a learned step dt, as in S4. Two real states are one complex
mode, whose conjugate the output counts as well. The paper has a diagonal plus low-rank A and more
modes; here each channel has one, S4D-Lin's imaginary parts 0 to 31 pi spread over the channels. A
steady input above about -Re A / B makes it grow.
Field: time series.
Source: Hasani et al. 2022, arXiv:2209.12951.
"""

from math import log, pi

from rnncc import Input, Param, State, cell, constant, exp, normal, spaced, uniform


@cell
def liquid_s4(
    x_re: State, x_im: State, u: Input,
    log_dt: Param(init=uniform(log(0.001), log(0.1))),
    a_log: Param(init=constant(log(0.5))), a_im: Param(init=spaced(0, 31 * pi)),
    b: Param(init=constant(1)),
    c_re: Param(init=normal(0, 0.5**0.5)), c_im: Param(init=normal(0, 0.5**0.5)),
    D: Param(init=normal(0, 1)),
):
    dt = exp(log_dt)
    d_re = 1 + dt / 2 * exp(a_log)
    d_im = -dt / 2 * a_im
    r_re = d_re / (d_re**2 + d_im**2)  # 1 / (1 - dt A / 2)
    r_im = -d_im / (d_re**2 + d_im**2)
    Bu_re = dt * b * r_re * u
    Bu_im = dt * b * r_im * u
    A_re = 2 * r_re - 1 + Bu_re  # the transition, moved by the input
    A_im = 2 * r_im + Bu_im
    re = A_re * x_re - A_im * x_im + Bu_re
    im = A_im * x_re + A_re * x_im + Bu_im
    return {"x_re": re, "x_im": im, "y": 2 * (c_re * re - c_im * im) + D * u}
