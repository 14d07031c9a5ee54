"""Adaptive leaky integrate-and-fire neuron of the LSNN: each spike raises its threshold for long.

For memory over many steps in spiking networks: b decays with tau_a (ms), so that who fired lately
shows in who fires less now. v is the membrane's potential, z the output, 1 at a spike; I moves v by
(1 - alpha) I. The resting threshold b0 is as small as in the authors' program, and the surrogate as
there, `dampening` high. An LSNN mixes these with neurons of beta=0 and has dense recurrent weights,
delays and a refractory period, which are left out here.
Field: neuroscience, time series.
Source: Bellec et al. 2018, arXiv:1803.09574; order of updates: github.com/IGITUGraz/LSNN-official.
"""

from rnncc import Input, State, cell, exp, spike, where


@cell
def alif(
    v: State, b: State, z: State, I: Input,
    b0=0.01, beta=1.8, tau_m=20.0, tau_a=700.0, dampening=0.3, dt=1.0,
):
    alpha, rho = exp(-dt / tau_m), exp(-dt / tau_a)
    b_new = rho * b + (1 - rho) * z
    B = b0 + beta * b_new  # threshold
    v_new = alpha * v + (1 - alpha) * I - z * B
    u = (v_new - B) / B
    step = where(u > 0, 1.0, 0.0)  # has no gradient, the rest no value
    z_new = step + dampening * (spike(u, surrogate="triangle", slope=1.0) - step)
    return v_new, b_new, z_new
