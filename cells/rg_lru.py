"""RG-LRU: the recurrence of Griffin and RecurrentGemma, a real gated linear recurrent unit.

For language models with long contexts: its decay a = sigmoid(Lambda) is learned per channel and
sharpened by the recurrence gate r; at the start a^c is uniform in (0.9, 0.999). The input is scaled
by sqrt(1 - a_t^2), whose slope is infinite at a_t = 1: below 1e-12 it is held, where the authors'
code bounds the slope itself. That code also takes the first input of a text unscaled, this doesn't.
Field: language models.
Source: De et al. 2024, arXiv:2402.19427.
"""

from rnncc import Input, Param, State, cell, exp, expm1, log, logsigmoid, maximum, sigmoid, uniform


@cell
def rg_lru(
    h: State,
    x: Input, xr: Input, xi: Input,
    Lambda: Param(init=-log(expm1(-log(uniform(0.9, 0.999)) / 8))),
    c=8.0,
):
    r = sigmoid(xr)  # recurrence gate
    i = sigmoid(xi)  # input gate
    log_a = c * r * logsigmoid(Lambda)
    scale = maximum(-expm1(2 * log_a), 1e-12) ** 0.5  # sqrt(1 - a^2)
    return exp(log_a) * h + scale * (i * x)
