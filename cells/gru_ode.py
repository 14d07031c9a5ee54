"""GRU-ODE: the GRU as a differential equation, dh/dt = (1 - z)(g - h), one Euler step of dt each.

For series sampled at irregular times: dt is the time since the sample before, the inputs hold for
that long. Of first order in dt; h stays within [-1, 1] for dt up to 1 and may overshoot beyond. The
jumps at observations of GRU-ODE-Bayes are a step of a plain GRU. State weights: diagonal.
Field: time series, dynamical systems.
Source: De Brouwer et al. 2019, arXiv:1905.12374.
"""

from rnncc import Input, Param, State, cell, sigmoid, tanh, uniform


@cell
def gru_ode(
    h: State,
    xr: Input, xz: Input, xg: Input, dt: Input(shared=True),
    ur: Param(init=uniform(-1, 1)), uz: Param(init=uniform(-1, 1)), ug: Param(init=uniform(-1, 1)),
):
    r = sigmoid(xr + ur * h)  # reset gate
    z = sigmoid(xz + uz * h)  # 1: h stands still
    g = tanh(xg + ug * r * h)  # where h goes
    return h + dt * (1 - z) * (g - h)
