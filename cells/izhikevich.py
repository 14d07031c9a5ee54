"""Izhikevich's simple neuron: the firing patterns of cortical cells from two states.

v is the membrane's potential (mV), u its recovery, s the spikes; I and u are in mV/ms, dt in ms. As
in the paper's program, which has dt=1, v takes two half steps, then u one with the new v; but what
v overshoots its peak by does not reach u, where it would make the firing irregular. This one fires
regularly; a=0.1, d=2 fires fast, c=-50, d=2 in bursts, c=-55, d=4 bursts once. A gradient passes
the spikes s by a surrogate in units of 100 mV, and the reset as the step it is: not at all in v.
Where I just makes it fire, an upstroke enlarges every difference and gradient a thousandfold.
Field: neuroscience.
Source: Izhikevich 2003, doi:10.1109/TNN.2003.820440.
"""

from rnncc import Input, State, cell, minimum, spike, uniform, where


@cell
def izhikevich(
    v: State(init=-65), u: State(init=-13), I: Input(typical=uniform(20, 40)),
    a=0.02, b=0.2, c=-65.0, d=8.0, v_peak=30.0, slope=5.0, dt=0.1,
):
    v_half = v + dt / 2 * (0.04 * v**2 + 5 * v + 140 - u + I)
    v_hat = v_half + dt / 2 * (0.04 * v_half**2 + 5 * v_half + 140 - u + I)
    u_hat = u + dt * a * (b * minimum(v_hat, v_peak) - u)
    s = spike((v_hat - v_peak) / 100, surrogate="fast_sigmoid", slope=slope)
    v_new = where(v_hat > v_peak, c, v_hat)
    u_new = where(v_hat > v_peak, u_hat + d, u_hat)
    return {"v": v_new, "u": u_new, "s": s}
