"""Small cells with the features no shipped cell has: shared arguments, outputs of their own."""

from rnncc import Input, Matrix, Param, State, cell, exp, sigmoid, tanh


@cell
def clocked(h: State, x: Input, dt: Input(shared=True), a: Param, tau: Param(shared=True)):
    rate = sigmoid(tau + dt)
    return (1 - rate) * h + rate * tanh(a * h + x)


@cell
def pair(u: State, v: State(init=0.5), drive: Input, w: Param):
    u_new = tanh(0.9 * u - 0.5 * v + drive)
    v_new = 0.8 * v + 0.2 * w * u_new
    return {"u": u_new, "v": v_new, "energy": u_new * u_new + v_new * v_new, "old": u}


@cell
def crossed(h: State, k: State, x: Input, dt: Input(shared=True), R: Matrix(block=2), a: Param):
    h_new = tanh(R @ (h + a * k) + dt * x)
    return {"h": h_new, "k": 0.5 * k + h}


@cell
def driven(h: State, dt: Input(shared=True), a: Param):
    return exp(-a * a) * h + dt


SMALL = {c.name: c for c in (clocked, pair, crossed, driven)}
