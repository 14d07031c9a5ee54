"""Two-compartment leaky integrate-and-fire neuron: a dendrite remembers, a soma fires.

For spiking networks with long memory. D and S are the potentials of dendrite and soma after their
soft resets, s the spikes. Between spikes D and S turn around each other without any loss, so that
what came in is kept, but also summed up without a bound. Recurrent weights, which the paper's
larger networks have, are left out; S is fed to D after its reset, as in the authors' program.
Field: neuroscience, time series.
Source: Zhang et al. 2024, arXiv:2308.13250.
"""

from rnncc import Input, Param, State, cell, constant, sigmoid, spike


@cell
def tc_lif(
    D: State, S: State, I: Input,
    c_1: Param(init=constant(0)), c_2: Param(init=constant(0)),
    gamma=0.5, theta=1.0, slope=1.0,
):
    U_D = D - sigmoid(c_1) * S + I  # dendrite
    U_S = S + sigmoid(c_2) * U_D  # soma
    s = spike(U_S - theta, surrogate="triangle", slope=slope)
    return {"D": U_D - gamma * s, "S": U_S - theta * s, "s": s}
