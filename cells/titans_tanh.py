"""Titans with a nonlinear memory tanh(M k): the smallest form in which its step is nonlinear.

As titans_linear, but what the memory gives for a key goes through tanh: each step is one of
gradient descent on (tanh(M k) - v)^2, with momentum S and weight decay alpha. Values beyond -1 and
1 can't be reached and drive M up until tanh is flat. The paper's deep memory is an MLP of two
layers or more; this is one weight per channel. Keep |k| below 1; the bias of alpha's gate is chosen
here, so that at the start a memory lasts 20 steps.
Field: language models.
Source: Behrouz et al. 2024, arXiv:2501.00663.
"""

from rnncc import Input, State, cell, constant, sigmoid, tanh, uniform


@cell
def titans_tanh(
    S: State, M: State,
    k: Input(typical=uniform(-1, 1)), v: Input(typical=uniform(-1, 1)),
    q: Input(typical=uniform(-1, 1)),
    x_theta: Input, x_eta: Input, x_alpha: Input(bias=constant(-3)),
):
    theta = sigmoid(x_theta)  # learning rate
    eta = sigmoid(x_eta)  # how much surprise lasts
    alpha = sigmoid(x_alpha)  # how much is forgotten
    p = tanh(M * k)  # what the memory gives for the key
    slope = 4 * sigmoid(2 * M * k) * sigmoid(-2 * M * k)  # 1 - p^2, with digits where p is near 1
    gradient = 2 * (p - v) * slope * k
    S_new = eta * S - theta * gradient
    M_new = (1 - alpha) * M + S_new
    return {"S": S_new, "M": M_new, "y": tanh(M_new * q)}
