"""Driven phase oscillator: Adler's theta' = omega + K sin(psi - theta), by Euler's method.

psi is the phase of what drives it. If that turns at a rate within K of omega, it locks and lags by
an angle whose sine is (rate - omega) / K; else it slips, once in 2 pi / sqrt((rate - omega)^2 -
K^2). theta grows without bound, in rad, so the output is its cosine; omega and K are in rad per
unit of time. Locked, it forgets its start; slipping, it doesn't.
Field: dynamical systems, neuroscience.
Source: Adler 1946, doi:10.1109/JRPROC.1946.229930.
"""

from rnncc import Input, Param, State, cell, cos, sin, uniform


@cell
def phase(
    theta: State, psi: Input,
    omega: Param(init=uniform(0, 2)), K: Param(init=uniform(0, 1)),
    dt=0.1,
):
    theta_new = theta + dt * (omega + K * sin(psi - theta))
    return {"theta": theta_new, "y": cos(theta_new)}
