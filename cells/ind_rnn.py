"""IndRNN: an Elman network of independent channels with relu, made to be stacked deep.

For long sequences: relu does not saturate, and a gradient through T steps is at most abs(u)**T.
Keep abs(u) at or below 2**(1/T), as the paper does by clipping after each step of training; above
1 the state grows without bound as long as relu is open. u starts between 0 and 1, the paper's
range for long T; its batch normalisation between layers is left to the network around the cell.
Field: language models, time series.
Source: Li et al. 2018, arXiv:1803.04831.
"""

from rnncc import Input, Param, State, cell, relu, uniform


@cell
def ind_rnn(h: State, x: Input, u: Param(init=uniform(0, 1))):
    return relu(u * h + x)
