"""Kalman filter of a local linear trend; the outputs are level and negative log-likelihood.

A level moves by a slope, both in noise, and z sees the level in noise. l and b are the estimates
after z, p, c and q the entries (l, l), (l, b) and (b, b) of their covariance. Variances are learned
as logarithms, by the likelihood. In float32, noise far smaller than the covariance is lost.
Field: time series.
Source: Kalman 1960, doi:10.1115/1.3662552; the trend: Harvey 1989, doi:10.1017/CBO9781107049994.
"""

import math

from rnncc import Input, Param, State, cell, exp, log, uniform


@cell
def kalman(
    l: State, b: State, p: State(init=1), c: State, q: State(init=1), z: Input,
    log_level: Param(init=uniform(-3, 0)), log_slope: Param(init=uniform(-5, -2)),
    log_noise: Param(init=uniform(-1, 1)),
):  # fmt: skip
    p_hat = p + 2 * c + q + exp(log_level)
    c_hat = c + q
    q_hat = q + exp(log_slope)
    total = p_hat + exp(log_noise)  # variance of what is seen
    error = z - l - b
    gain, gain_b = p_hat / total, c_hat / total
    return {
        "l": l + b + gain * error,
        "b": b + gain_b * error,
        "p": (1 - gain) * p_hat,
        "c": (1 - gain) * c_hat,
        "q": q_hat - gain_b * c_hat,
        "level": l + b + gain * error,
        "loss": 0.5 * (math.log(2 * math.pi) + log(total) + error * error / total),
    }
