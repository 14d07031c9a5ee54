"""Neuromodulated bistable recurrent cell: brc whose gates see their neighbours.

For very long memory, with brc's difficulties. Other neurons set whether a neuron is bistable (a)
and how fast it is (c), while it excites itself alone. Wa and Wc are dense in the paper; here they
mix blocks of four channels, with Glorot's start for that size.
Field: time series, neuroscience.
Source: Vecoven et al. 2021, arXiv:2006.05252.
"""

from rnncc import Input, Matrix, State, cell, sigmoid, tanh, uniform


@cell
def nbrc(
    h: State,
    xa: Input, xc: Input, x: Input,
    Wa: Matrix(block=4, init=uniform(-0.866, 0.866)),
    Wc: Matrix(block=4, init=uniform(-0.866, 0.866)),
):
    a = 1 + tanh(Wa @ h + xa)  # feedback, 0 to 2: bistable above 1
    c = sigmoid(Wc @ h + xc)  # how much is kept
    return c * h + (1 - c) * tanh(x + a * h)
