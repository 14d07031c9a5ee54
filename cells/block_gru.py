"""GRU whose channels mix in blocks of four.

Between the diagonal GRU (para_gru) and the dense one. As there, the reset gate acts on h before the
matrix does; torch.nn.GRU has it after, with the opposite sense of z.
Field: language models, time series.
Source: Cho et al. 2014, arXiv:1406.1078; z as in Chung et al. 2014, arXiv:1412.3555; block-diagonal
recurrent weights.
"""

from rnncc import Input, Matrix, State, cell, sigmoid, tanh


@cell
def block_gru(
    h: State,
    xz: Input, xr: Input, xc: Input,
    Rz: Matrix(block=4), Rr: Matrix(block=4), Rc: Matrix(block=4),
):
    z = sigmoid(Rz @ h + xz)  # update gate: how much is new
    r = sigmoid(Rr @ h + xr)  # reset gate
    c = tanh(Rc @ (r * h) + xc)  # candidate
    return (1 - z) * h + z * c
