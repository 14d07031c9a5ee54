"""AntisymmetricRNN: h' = h + epsilon tanh((W - W^T - gamma) h + x), in pairs of channels.

For long sequences: an antisymmetric matrix has imaginary eigenvalues, so that the state turns and
neither grows nor dies; gamma makes up for what Euler's method adds. The paper's W is dense; here
W - W^T has blocks of two, [[0, a], [-a, 0]], and such a pair is one channel with the states u and
v. The output is v.
Field: time series, dynamical systems.
Source: Chang et al. 2019, arXiv:1902.09689.
"""

from rnncc import Input, Param, State, cell, normal, tanh


@cell
def antisymmetric_rnn(
    u: State, v: State, xu: Input, xv: Input, a: Param(init=normal(0, 1)),
    epsilon=0.1, gamma=0.01,
):
    u_new = u + epsilon * tanh(a * v - gamma * u + xu)
    v_new = v + epsilon * tanh(-a * u - gamma * v + xv)
    return u_new, v_new
