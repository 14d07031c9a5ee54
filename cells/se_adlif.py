"""Adaptive leaky integrate-and-fire neuron, discretised by symplectic Euler.

For spiking networks on temporal patterns: w is fed by the new u and pulls it back, so that the
membrane oscillates and prefers a frequency, stably for all a and b in their ranges. u is the
membrane's potential, w the adaptation, z the spikes; times in ms. m_u and m_w choose time constants
of 5 to 25 and 60 to 300. The paper resets its params to their ranges after each training step, here
they are clipped. It learns u's start, has dense recurrent weights, and an exponential surrogate:
fast_sigmoid has the same height and area. No gradient goes through the reset, as there.
Field: neuroscience, time series.
Source: Baronig et al. 2024, arXiv:2408.07517.
"""

from rnncc import Input, Param, State, cell, clip, exp, normal, spike, uniform, where


@cell
def se_adlif(
    u: State, w: State, I: Input(typical=normal(1.5, 4)),
    m_u: Param(init=uniform(0, 1)), m_w: Param(init=uniform(0, 1)),
    a: Param(init=uniform(0, 1)), b: Param(init=uniform(0, 2)),
    theta=1.0, q=120.0, slope=5.0, dt=1.0,
):
    alpha = exp(-dt / (5 + 20 * clip(m_u, 0, 1)))
    beta = exp(-dt / (60 + 240 * clip(m_w, 0, 1)))
    u_hat = alpha * u + (1 - alpha) * (I - w)
    z = spike(u_hat - theta, surrogate="fast_sigmoid", slope=slope)
    u_new = where(u_hat > theta, 0.0, u_hat)
    w_new = beta * w + (1 - beta) * q * (clip(a, 0, 1) * u_new + clip(b, 0, 2) * z)
    return {"u": u_new, "w": w_new, "z": z}
