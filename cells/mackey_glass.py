"""Mackey and Glass's equation: a density that is fed back late; chaotic from a delay of 17 on.

x is the density of blood cells, relative to where production is half; its last tau values, dt
apart, are part of the state. u disturbs it. With beta = 0.2, gamma = 0.1 and n = 10 of the paper,
by Euler's method with dt = 1, as common benchmarks have it: finer steps change the orbit, not its
kind.
Field: dynamical systems, time series.
Source: Mackey and Glass 1977, doi:10.1126/science.267326; the onset of chaos: Farmer 1982,
doi:10.1016/0167-2789(82)90042-2.
"""

from rnncc import Input, State, cell, normal


@cell
def mackey_glass(
    x: State(delay="tau", init=0.9), u: Input(typical=normal(0, 0.01)),
    beta=0.2, gamma=0.1, dt=1.0, tau=17,
):  # fmt: skip
    past = x.ago(tau)
    return x + dt * (beta * past / (1 + past**10) - gamma * x) + u
