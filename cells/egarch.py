"""EGARCH(1, 1): the logarithm of the variance of returns, which falls and rises with them.

r is a return, h the logarithm of its variance as known before it; the output is that of the next.
alpha and gamma are the paper's gamma and theta: losses (gamma < 0) may raise the variance more than
gains. A logarithm needs no bound on params but |beta| < 1. Where h is low by mistake, a return
counts exp(-h / 2) times: start near the data's own.
Field: time series.
Source: Nelson 1991, doi:10.2307/2938260.
"""

import math

from rnncc import Input, Param, State, abs, cell, exp, uniform


@cell
def egarch(
    h: State, r: Input,
    omega: Param(init=uniform(-0.1, 0.1)), alpha: Param(init=uniform(0, 0.3)),
    gamma: Param(init=uniform(-0.2, 0)), beta: Param(init=uniform(0.8, 0.99)),
):  # fmt: skip
    z = r * exp(-0.5 * h)  # standardized return
    surprise = abs(z) - math.sqrt(2 / math.pi)  # less its mean for normal z
    return omega + beta * h + alpha * surprise + gamma * z
