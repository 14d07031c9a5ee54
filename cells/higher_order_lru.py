"""H-LRU: a linear recurrence over the last three states, weighted by a softmax of gates.

For compressing and copying with few channels: a recurrence of order m has complex eigenvalues,
which one of order 1 has not. h1 is the newest state, h2 and h3 those before. The weights of the
three states and of the input v sum to 1, which keeps every state within the range of its inputs.
The paper's layer reads all m states, here the newest is the output; its orders go from 1 to 16.
Field: language models, time series.
Source: Dubinin et al. 2026, arXiv:2602.12021.
"""

from rnncc import Input, State, cell, exp, maximum


@cell
def higher_order_lru(
    h1: State, h2: State, h3: State,
    v: Input,
    g0: Input, g1: Input, g2: Input, g3: Input,
):
    top = maximum(maximum(g0, g1), maximum(g2, g3))  # keeps the softmax from overflowing
    a0 = exp(g0 - top)  # weight of the input
    a1 = exp(g1 - top)
    a2 = exp(g2 - top)
    a3 = exp(g3 - top)
    h = (a1 * h1 + a2 * h2 + a3 * h3 + a0 * v) / (a0 + a1 + a2 + a3)
    return {"h1": h, "h2": h1, "h3": h2, "y": h}
