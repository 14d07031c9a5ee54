"""Small cells with the features no shipped cell has: shared arguments, outputs of their own."""

from rnncc import (
    Input,
    Matrix,
    Param,
    State,
    cell,
    exp,
    normal,
    sigmoid,
    spaced,
    sqrt,
    tanh,
    uniform,
)


@cell
def clocked(h: State, x: Input, dt: Input(shared=True), a: Param, tau: Param(shared=True)):
    rate = sigmoid(tau + dt)
    return (1 - rate) * h + rate * tanh(a * h + x)


@cell
def pair(
    u: State,
    v: State(init=0.5),
    drive: Input(bias=spaced(0.5, 1), typical=normal(0, 2)),
    w: Param(init=-sqrt(uniform(0.25, 1))),
):
    u_new = tanh(0.9 * u - 0.5 * v + drive)
    v_new = 0.8 * v + 0.2 * w * u_new
    return {"u": u_new, "v": v_new, "energy": u_new * u_new + v_new * v_new, "old": u}


@cell
def crossed(
    h: State,
    k: State,
    x: Input,
    dt: Input(shared=True),
    gain: Input(shared=True, projected=True),
    R: Matrix(block=2),
    a: Param,
):
    h_new = tanh(R @ (h + a * k) + dt * x) * sigmoid(gain)
    return {"h": h_new, "k": 0.5 * k + h}


@cell
def driven(h: State, dt: Input(shared=True), a: Param):
    return exp(-a * a) * h + dt


SMALL = {c.name: c for c in (clocked, pair, crossed, driven)}
