"""S4D, also S5's element: a diagonal state space with complex modes, the same at every step.

For very long, smooth sequences (audio, sensors): A = -exp(a_log) + i a_im is discretised by
zero-order hold with a learned step dt. Two real states are one complex mode; the mode's conjugate
is left out, so the output counts it twice. The paper has 32 modes per channel; here each channel
has one, and S4D-Lin's imaginary parts, 0 to 31 pi, are spread over the channels. B is 1, as in S4D.
Field: time series, language models.
Source: Gu et al. 2022, arXiv:2206.11893; Smith et al. 2023, arXiv:2208.04933.
"""

from math import log, pi

from rnncc import Input, Param, State, cell, constant, cos, exp, expm1, normal, sin, spaced, uniform


@cell
def s4d(
    x_re: State, x_im: State, u: Input,
    log_dt: Param(init=uniform(log(0.001), log(0.1))),
    a_log: Param(init=constant(log(0.5))), a_im: Param(init=spaced(0, 31 * pi)),
    c_re: Param(init=normal(0, 0.5**0.5)), c_im: Param(init=normal(0, 0.5**0.5)),
    D: Param(init=normal(0, 1)),
):
    dt = exp(log_dt)
    a = exp(a_log)  # - Re A
    size, angle = exp(-dt * a), dt * a_im
    A_re, A_im = size * cos(angle), size * sin(angle)
    less = expm1(-dt * a) * cos(angle) - 2 * sin(angle / 2) ** 2  # A_re - 1
    B_re = (A_im * a_im - less * a) / (a**2 + a_im**2)  # (exp(dt A) - 1) / A
    B_im = -(A_im * a + less * a_im) / (a**2 + a_im**2)
    re = A_re * x_re - A_im * x_im + B_re * u
    im = A_im * x_re + A_re * x_im + B_im * u
    return {"x_re": re, "x_im": im, "y": 2 * (c_re * re - c_im * im) + D * u}
