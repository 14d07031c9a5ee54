"""Leaky integrate-and-fire neuron behind a synapse that filters its current (CuBa-LIF).

For spiking networks: I charges the synapse's current i, i the membrane v; s are the spikes. As in
snnTorch, i and v decay by alpha and beta, clipped to [0, 1], and the step after a spike takes the
threshold off v, without a gradient.
Field: neuroscience, time series.
Source: Eshraghian et al. 2023, arXiv:2109.12894.
"""

from rnncc import Input, Param, State, cell, clip, constant, normal, spike, where


@cell
def synaptic(
    i: State, v: State, I: Input(typical=normal(0.1, 0.3)),
    alpha: Param(init=constant(0.8)), beta: Param(init=constant(0.9)), threshold=1.0, slope=25.0,
):
    i_new = clip(alpha, 0, 1) * i + I
    reset = where(v > threshold, threshold, 0.0)
    v_new = clip(beta, 0, 1) * v + i_new - reset
    s = spike(v_new - threshold, surrogate="fast_sigmoid", slope=slope)
    return {"i": i_new, "v": v_new, "s": s}
