"""Titans with a linear memory: one weight M learns at test time to give v for the key k.

For language models with long memory: each step is one of gradient descent on (M k - v)^2, with
momentum S ("past surprise") and weight decay alpha, all rates gated by the input. y reads the new
memory at the query q. One weight per channel, in the paper a matrix or an MLP. Keys and queries are
of length 1 there: keep |k| below 1, or the steps overshoot. The bias of alpha's gate is chosen
here, so that at the start a memory lasts 20 steps.
Field: language models.
Source: Behrouz et al. 2024, arXiv:2501.00663.
"""

from rnncc import Input, State, cell, constant, sigmoid, uniform


@cell
def titans_linear(
    S: State, M: State,
    k: Input(typical=uniform(-1, 1)), v: Input, q: Input(typical=uniform(-1, 1)),
    x_theta: Input, x_eta: Input, x_alpha: Input(bias=constant(-3)),
):
    theta = sigmoid(x_theta)  # learning rate
    eta = sigmoid(x_eta)  # how much surprise lasts
    alpha = sigmoid(x_alpha)  # how much is forgotten
    gradient = 2 * (M * k - v) * k
    S_new = eta * S - theta * gradient
    M_new = (1 - alpha) * M + S_new
    return {"S": S_new, "M": M_new, "y": M_new * q}
