"""Van der Pol oscillator, x'' = mu (1 - x^2) x' - x + I, by the semi-implicit Euler method.

A limit cycle of amplitude about 2 for any mu > 0: nearly a sine of period 2 pi for small mu, for
large mu a relaxation oscillation of period about (3 - 2 ln 2) mu. In Lienard's form, of which
x' = mu (x - x^3/3) - w: jumps of x at large mu cost little accuracy, and mu = 0 keeps its
amplitude. Large mu is stiff: 3 mu dt has to stay below 2. It starts near the cycle, for at 0 it
rests; on it the phase is never forgotten, and one pass over time is the right solver.
Field: dynamical systems.
Source: van der Pol 1926, doi:10.1080/14786442608564127.
"""

from rnncc import Input, Param, State, cell, uniform


@cell
def van_der_pol(
    x: State(init=2.0), w: State, I: Input, mu: Param(init=uniform(0.2, 2)), dt=0.05,
):
    w_new = w + dt * (x - I)
    x_new = x + dt * (mu * (x - x**3 / 3) - w_new)
    return {"x": x_new, "w": w_new, "y": x_new}
