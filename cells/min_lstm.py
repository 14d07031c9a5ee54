"""minLSTM: an LSTM whose gates and candidate see the input only, the two gates made to sum to 1.

For long sequences that have to train in parallel: affine in its state, which is cell and hidden
state in one and stays within the range of its candidates. The forget gate is f / (f + i), taken
through logarithms, so that two closed gates don't give 0 / 0. This is the paper's plain form: the
candidate xh is the projected input itself, without the function g of the log-space form.
Field: language models, time series.
Source: Feng et al. 2024, arXiv:2410.01201.
"""

from rnncc import Input, State, cell, logsigmoid, sigmoid


@cell
def min_lstm(h: State, xf: Input, xi: Input, xh: Input):
    f = sigmoid(logsigmoid(xf) - logsigmoid(xi))  # sigmoid(xf) / (sigmoid(xf) + sigmoid(xi))
    return f * h + (1 - f) * xh
