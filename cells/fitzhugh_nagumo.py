"""FitzHugh-Nagumo neuron by Euler's method: v is the membrane's potential, w its recovery.

Two states of a neuron that fires. With `drive`, a steady current beside the input I, it runs on a
limit cycle: it never forgets its phase, so that segments of time can't be solved side by side and
one pass over time is the right solver. It starts where it rests without any current.
Field: neuroscience, dynamical systems.
Source: FitzHugh 1961, doi:10.1016/S0006-3495(61)86902-6; Nagumo et al. 1962,
doi:10.1109/JRPROC.1962.288235; a and b as there, tau as is usual today.
"""

from rnncc import Input, State, cell


@cell
def fitzhugh_nagumo(
    v: State(init=-1.1994), w: State(init=-0.6243), I: Input,
    a=0.7, b=0.8, tau=12.5, drive=0.5, dt=0.1,
):
    v_new = v + dt * (v - v**3 / 3 - w + I + drive)
    w_new = w + dt * (v + a - b * w) / tau
    return {"v": v_new, "w": w_new, "y": v_new}
