"""Leaky integrate-and-fire neuron with a hard reset; the output is its spikes.

For spiking networks: the forward is a true step, the backward the surrogate's derivative, through
the reset as well. beta is clipped to [0, 1], as in snnTorch.
Field: neuroscience.
Source: Lapicque 1907; discrete form: Eshraghian et al. 2023, arXiv:2109.12894.
"""

from rnncc import Input, Param, State, cell, clip, constant, spike


@cell
def lif(v: State, I: Input, beta: Param(init=constant(0.9)), threshold=1.0, slope=25.0):
    u = clip(beta, 0, 1) * v + I  # membrane potential
    s = spike(u - threshold, surrogate="fast_sigmoid", slope=slope)
    return {"v": u * (1 - s), "s": s}
