"""Adaptive exponential integrate-and-fire neuron (AdEx) by Euler's method.

v is the membrane's potential (mV), w is an adaptation current (pA) that grows by b at each spike.
I is in pA, C in pF, conductances in nS, times in ms. It fires from I = 627 on, fast at first. The
exponential is clipped at V_peak, as simulators do, or it would overflow; V_peak is 5 Delta_T above
V_T, as theirs often is, where the spike is certain and near (the paper has 20 mV). A gradient
passes the spikes s by a surrogate in units of V_T - E_L, and the reset as the step it is: not at
all in v.
Field: neuroscience.
Source: Brette and Gerstner 2005, doi:10.1152/jn.00686.2005.
"""

from rnncc import Input, State, cell, exp, minimum, spike, uniform, where


@cell
def adex(
    v: State(init=-70.6), w: State, I: Input(typical=uniform(0, 1500)),
    C=281.0, g_L=30.0, E_L=-70.6, V_T=-50.4, Delta_T=2.0, a=4.0, tau_w=144.0, b=80.5,
    V_r=-70.6, V_peak=-40.4, slope=5.0, dt=0.1,
):
    upstroke = g_L * Delta_T * exp((minimum(v, V_peak) - V_T) / Delta_T)
    v_hat = v + dt / C * (g_L * (E_L - v) + upstroke - w + I)
    w_hat = w + dt / tau_w * (a * (v - E_L) - w)
    s = spike((v_hat - V_peak) / (V_T - E_L), surrogate="fast_sigmoid", slope=slope)
    v_new = where(v_hat > V_peak, V_r, v_hat)
    w_new = where(v_hat > V_peak, w_hat + b, w_hat)
    return {"v": v_new, "w": w_new, "s": s}
