"""Morris-Lecar neuron by Euler's method: a spike in two states, from a barnacle's muscle fibre.

v is the membrane's potential (mV), w the open share of its potassium channels; calcium channels
follow v at once. I is in uA/cm2, dt in ms. It rests until I reaches 93.9, where it starts to fire
at a rate above 0 (a Hopf bifurcation) until 212. With g_Ca=4, V_3=12, V_4=17.4, phi=1/15 it starts
at 40 with a rate near 0 (class I). Firing keeps its phase forever, so solve in one pass.
Field: neuroscience, dynamical systems.
Source: Morris and Lecar 1981, doi:10.1016/S0006-3495(81)84782-0; values: Rinzel and Ermentrout
1989, Analysis of neural excitability and oscillations.
"""

from rnncc import Input, State, cell, cosh, tanh, uniform


@cell
def morris_lecar(
    v: State(init=-60.855), w: State(init=0.0149), I: Input(typical=uniform(0, 200)),
    C=20.0, g_Ca=4.4, g_K=8.0, g_L=2.0, E_Ca=120.0, E_K=-84.0, E_L=-60.0,
    V_1=-1.2, V_2=18.0, V_3=2.0, V_4=30.0, phi=0.04, dt=0.1,
):
    m_inf = (1 + tanh((v - V_1) / V_2)) / 2  # open share of the calcium channels
    w_inf = (1 + tanh((v - V_3) / V_4)) / 2
    rate = phi * cosh((v - V_3) / (2 * V_4))  # of w, 1/ms
    i_Ca = g_Ca * m_inf * (v - E_Ca)  # outward currents
    i_K = g_K * w * (v - E_K)
    v_new = v + dt * (I - i_Ca - i_K - g_L * (v - E_L)) / C
    w_new = w + dt * rate * (w_inf - w)
    return {"v": v_new, "w": w_new, "y": v_new}
