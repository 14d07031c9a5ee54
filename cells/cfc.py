"""Closed-form continuous-time cell: elapsed time moves the state from one candidate to another.

For series sampled at irregular times: dt is the time since the sample before. The gate s closes at
the rate f as time passes; no differential equation is solved, and two steps of dt are not one of
2 dt. As in the authors' code s has a bias b, and f may have either sign. The weights of the state
are diagonal, and f, b, g and h read it directly, without the shared network before them.
Field: time series, dynamical systems.
Source: Hasani et al. 2022, arXiv:2106.13898; b: the authors' package ncps.
"""

from rnncc import Input, Param, State, cell, sigmoid, tanh, uniform


@cell
def cfc(
    x: State,
    If: Input, Ib: Input, Ig: Input, Ih: Input, dt: Input(shared=True),
    wf: Param(init=uniform(-1, 1)), wb: Param(init=uniform(-1, 1)),
    wg: Param(init=uniform(-1, 1)), wh: Param(init=uniform(-1, 1)),
):
    f = If + wf * x  # rate
    b = Ib + wb * x  # bias of the time gate
    g = tanh(Ig + wg * x)  # candidate for a short dt
    h = tanh(Ih + wh * x)  # candidate for a long dt
    s = sigmoid(b - f * dt)  # time gate
    return s * g + (1 - s) * h
