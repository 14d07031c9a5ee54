"""Cells of more than 8 values in a group of channels, which are solved by one pass."""

from rnncc import Input, Matrix, Param, State, cell, sigmoid, tanh, uniform


@cell
def moog_saved(
    s0: State, s1: State, s2: State, s3: State, t0: State, t1: State, t2: State, d0: State,
    y0: State, x: Input, tune: Param(init=uniform(0.1, 0.5)), res4: Param(init=uniform(0, 2)),
):  # fmt: skip
    n0 = s0 + tune * (tanh(x - res4 * d0) - t0)
    a0 = tanh(n0)
    n1 = s1 + tune * (a0 - t1)
    a1 = tanh(n1)
    n2 = s2 + tune * (a1 - t2)
    a2 = tanh(n2)
    n3 = s3 + tune * (a2 - tanh(s3))
    return {"s0": n0, "s1": n1, "s2": n2, "s3": n3, "t0": a0, "t1": a1, "t2": a2,
            "d0": 0.5 * (n3 + y0), "y0": n3, "y": n3}  # fmt: skip


@cell
def delayed(
    h: State(init=0.5), d1: State, d2: State, d3: State, d4: State, d5: State, d6: State,
    d7: State, d8: State, d9: State, d10: State, d11: State, d12: State, d13: State, d14: State,
    d15: State, d16: State, x: Input, dt: Input(shared=True), a: Param(init=uniform(0.1, 0.3)),
):  # fmt: skip
    h_new = (1 - 0.1 * dt) * h + a * d16 / (1 + d16**2) + 0.1 * x
    return h_new, h, d1, d2, d3, d4, d5, d6, d7, d8, d9, d10, d11, d12, d13, d14, d15


@cell
def head(h: State, z: Input, x: Input, R: Matrix(block=16)):
    gate = sigmoid(z)
    return gate * h + (1 - gate) * tanh(R @ h + x)


@cell
def values_64(
    a: State, b: State, c: State(init=0.25), d: State, x: Input, w: Param(shared=True),
    R: Matrix(block=16),
):  # fmt: skip
    mixed = tanh(R @ (a - w * d) + x)
    b_new = 0.5 * b + mixed
    c_new = 0.9 * c + 0.1 * a * b
    return {"a": mixed, "b": b_new, "c": c_new, "d": tanh(c), "sum": b_new + c_new}


MANY = {c.name: c for c in (moog_saved, delayed, head, values_64)}
