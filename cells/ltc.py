"""Liquid time-constant cell: a leaky neuron whose synapse f drives it towards A and speeds it up.

For series sampled at irregular times: dt is the time since the sample before. One step of the
paper's fused solver, of first order in dt and stable for any: x stays between 0 and A, once there.
The authors take 6 such steps per sample; so may a caller, with the sample repeated. f is one
sigmoid of input and state (diagonal weight w), not a sum of synapses; softplus keeps tau positive.
Field: time series, dynamical systems, neuroscience.
Source: Hasani et al. 2021, arXiv:2006.04439; start of the leak: the authors' package ncps.
"""

from rnncc import Input, Param, State, cell, expm1, log, sigmoid, softplus, uniform


@cell
def ltc(
    x: State, I: Input, dt: Input(shared=True),
    w: Param(init=uniform(-1, 1)), A: Param(init=uniform(-1, 1)),
    leak: Param(init=log(expm1(uniform(0.001, 1)))),
):
    f = sigmoid(I + w * x)  # conductance of the synapse
    rate = softplus(leak)  # 1 / tau
    return (x + dt * f * A) / (1 + dt * (rate + f))
