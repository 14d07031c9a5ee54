"""Mega's damped moving average: each channel seen through two averages of different length.

For smoothing before attention, and for time series; learned, but independent of the input. alpha is
how much of a new input is taken, 1 - alpha delta how much is kept: by the damping delta the two may
sum to more than 1. beta spreads the channel over the averages, eta gathers them, omega passes the
input by. The paper has 16 averages, the authors' code two if not told otherwise; its silu comes
after the cell.
Field: language models, time series.
Source: Ma et al. 2022, arXiv:2209.10655.
"""

from rnncc import Input, Param, State, cell, normal, sigmoid


@cell
def mega_ema(
    h1: State, h2: State,
    x: Input,
    x_alpha1: Param(init=normal(0, 0.2)), x_alpha2: Param(init=normal(0, 0.2)),
    x_delta1: Param(init=normal(0, 0.2)), x_delta2: Param(init=normal(0, 0.2)),
    beta1: Param(init=normal(1, 0.02)), beta2: Param(init=normal(-1, 0.02)),
    eta1: Param(init=normal(0, 1)), eta2: Param(init=normal(0, 1)),
    omega: Param(init=normal(0, 1)),
):
    alpha1 = sigmoid(x_alpha1)
    alpha2 = sigmoid(x_alpha2)
    h1_new = alpha1 * beta1 * x + (1 - alpha1 * sigmoid(x_delta1)) * h1
    h2_new = alpha2 * beta2 * x + (1 - alpha2 * sigmoid(x_delta2)) * h2
    y = 0.5**0.5 * (eta1 * h1_new + eta2 * h2_new) + omega * x
    return {"h1": h1_new, "h2": h2_new, "y": y}
