"""Stuart-Landau oscillator, z' = (mu + i omega - |z|^2) z + I, with z = re + i im.

The normal form of any oscillator near a Hopf bifurcation: for mu > 0 a cycle of radius sqrt(mu) and
angular velocity omega, for mu < 0 a damped resonator. A step turns z exactly by omega dt and takes
the rest by Euler's method, so both hold for any dt with mu dt < 1. The input I is real; the output
is re. It starts on the cycle of mu = 1, for at 0 it rests; on a cycle it never forgets its phase.
Field: dynamical systems, neuroscience.
Source: Stuart 1960, doi:10.1017/S002211206000116X, after Landau 1944.
"""

from rnncc import Input, Param, State, cell, constant, cos, sin, uniform


@cell
def stuart_landau(
    re: State(init=1.0), im: State, I: Input,
    mu: Param(init=constant(1)), omega: Param(init=uniform(0.5, 2)), dt=0.1,
):
    turn_re = cos(dt * omega)
    turn_im = sin(dt * omega)
    growth = 1 + dt * (mu - re**2 - im**2)
    re_new = growth * (turn_re * re - turn_im * im) + dt * I
    im_new = growth * (turn_im * re + turn_re * im)
    return {"re": re_new, "im": im_new, "y": re_new}
