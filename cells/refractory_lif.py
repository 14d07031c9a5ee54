"""Leaky integrate-and-fire neuron that rests for some steps after a spike; its output is spikes.

v is the membrane's potential in units of the threshold, wait the steps that it still rests: v is
held at 0 then, and no current enters. A gradient passes a spike by its surrogate and the reset of
v, not the count.
Field: neuroscience.
Source: Gerstner and Kistler 2002, doi:10.1017/CBO9780511815706.
"""

from rnncc import Input, Param, State, cell, clip, constant, spike, uniform, where


@cell
def refractory_lif(
    v: State, wait: State, I: Input(typical=uniform(-0.5, 1)), beta: Param(init=constant(0.9)),
    threshold=1.0, rest=3, slope=25.0,
):  # fmt: skip
    u = where(wait > 0.5, 0, clip(beta, 0, 1) * v + I)
    s = spike(u - threshold, surrogate="fast_sigmoid", slope=slope)
    wait_new = where(u > threshold, rest, clip(wait - 1, 0, None))
    return {"v": u * (1 - s), "wait": wait_new, "s": s}
