"""QRNN's pooling with forget and output gates (fo-pooling), all gates from the input only.

For language models that train in parallel; the first of the affine gated recurrences that are
used today, without its output gate the GILR (arXiv:1709.04057). In the paper the pre-activations
come from a convolution over the last few inputs, here they are the caller's. c is the cell.
Field: language models, time series.
Source: Bradbury et al. 2016, arXiv:1611.01576.
"""

from rnncc import Input, State, cell, sigmoid, tanh


@cell
def qrnn(c: State, xz: Input, xf: Input, xo: Input):
    z = tanh(xz)  # candidate
    f = sigmoid(xf)  # forget gate
    o = sigmoid(xo)  # output gate
    c_new = f * c + (1 - f) * z
    return {"c": c_new, "h": o * c_new}
