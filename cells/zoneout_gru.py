"""GRU with zoneout: in each step some channels keep their state, drawn anew, as a regularizer.

keep is 1 where the state is kept and 0 where it moves: draw it with the rate of zoneout in
training, and give the rate itself in evaluation, by name: `layer(x, keep=keep)`. State weights:
diagonal; the paper's are dense.
Field: language models, time series.
Source: Krueger et al. 2016, arXiv:1606.01305; GRU: Cho et al. 2014, arXiv:1406.1078.
"""

from rnncc import Input, Param, State, cell, sigmoid, tanh


@cell
def zoneout_gru(
    h: State, xz: Input, xr: Input, xc: Input, keep: Input(projected=False),
    uz: Param, ur: Param, uc: Param,
):  # fmt: skip
    z = sigmoid(xz + uz * h)  # update gate
    r = sigmoid(xr + ur * h)  # reset gate
    c = tanh(xc + uc * (r * h))  # candidate
    return keep * h + (1 - keep) * ((1 - z) * c + z * h)
