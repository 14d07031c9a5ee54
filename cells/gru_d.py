"""GRU-D: a GRU whose state fades while variables go unseen, for series with missing values.

With m the mask, delta the time since each variable was last seen, and xd = W delta + b: the longer
unseen, the less of h is kept. The value that replaces a missing one needs no state, so it is
computed outside: m x + (1 - m)(g x_last + (1 - g) x_mean) with g = exp(-relu(w delta + b)). A
layer's input is that, m and delta side by side; its projection lets xd read all three. State
weights: diagonal.
Field: time series.
Source: Che et al. 2018, arXiv:1606.01865.
"""

from rnncc import Input, Param, State, cell, exp, relu, sigmoid, tanh, uniform


@cell
def gru_d(
    h: State,
    xd: Input, xz: Input, xr: Input, xc: Input,
    uz: Param(init=uniform(-1, 1)), ur: Param(init=uniform(-1, 1)), uc: Param(init=uniform(-1, 1)),
):
    gamma = exp(-relu(xd))  # decay
    h_hat = gamma * h
    z = sigmoid(xz + uz * h_hat)  # update gate
    r = sigmoid(xr + ur * h_hat)  # reset gate
    c = tanh(xc + uc * r * h_hat)  # candidate
    return (1 - z) * h_hat + z * c
