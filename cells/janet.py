"""JANET: an LSTM with nothing but its forget gate.

For long memory: the gate's bias starts at log(uniform(1, T - 1)), so that channels forget over all
time scales up to T steps, here the 784 pixels of the paper's MNIST; set it to the length of your
sequences. beta lets the cell take in more than it forgets. The state c is the output. The paper's
recurrent weights are dense, here they are diagonal.
Field: language models, time series.
Source: van der Westhuizen and Lasenby 2018, arXiv:1804.04849; start of the bias: arXiv:1804.11188.
"""

from rnncc import Input, Param, State, cell, constant, log, sigmoid, tanh, uniform


@cell
def janet(
    c: State,
    xf: Input(bias=log(uniform(1, 783))), xc: Input(bias=constant(0)),
    uf: Param(init=uniform(-1, 1)), uc: Param(init=uniform(-1, 1)),
    beta=1.0,
):
    s = uf * c + xf  # forget gate, before its sigmoid
    candidate = tanh(uc * c + xc)
    c_new = sigmoid(s) * c + sigmoid(beta - s) * candidate  # the latter is 1 - sigmoid(s - beta)
    return c_new
