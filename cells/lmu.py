"""Legendre memory: the last theta steps of the input, as coefficients of Legendre polynomials.

For delays over long windows: m holds the window's projection on the first six polynomials, nothing
in A and B is learned. The output is a learned mix of them: with c_i = P_i(2 (d + 1/2) / theta - 1)
it is the input of d steps ago, at the start (c = 1) that of theta steps ago. Needs inputs that
change little within theta / 6 steps. This is the LMU's memory alone, one per channel; its dense
nonlinear hidden state, which also feeds the memory, is left out.
Field: time series, neuroscience.
Source: Voelker et al. 2019, NeurIPS 32 (Legendre Memory Units); zero-order hold, as its code.
"""

from rnncc import Input, Param, State, cell, constant


def zero_order_hold(theta: float, n: int) -> list[list[float]]:
    """[A, B] of one step: the upper rows of exp([[A, B], [0, 0]] / theta), by its series."""
    rows, columns = range(n), (*range(n), -1)  # the last is B: the formula of A at j = -1
    sign = [[-1 if i < j else (-1) ** (i - j + 1) for j in columns] for i in rows]
    A = total = term = [[(2 * i + 1) / theta * sign[i][j] for j in columns] for i in rows]
    for power in range(2, 99):
        term = [[sum(A[i][k] * term[k][j] for k in rows) / power for j in columns] for i in rows]
        total = [[total[i][j] + term[i][j] for j in columns] for i in rows]
    return [[total[i][j] + (i == j) for j in columns] for i in rows]


@cell
def lmu(
    m0: State, m1: State, m2: State, m3: State, m4: State, m5: State, u: Input,
    c0: Param(init=constant(1)), c1: Param(init=constant(1)), c2: Param(init=constant(1)),
    c3: Param(init=constant(1)), c4: Param(init=constant(1)), c5: Param(init=constant(1)),
    theta=64.0,
):
    m = (m0, m1, m2, m3, m4, m5, u)
    n0, n1, n2, n3, n4, n5 = (
        sum(row[j] * m[j] for j in range(7)) for row in zero_order_hold(theta, 6)
    )
    y = c0 * n0 + c1 * n1 + c2 * n2 + c3 * n3 + c4 * n4 + c5 * n5
    return {"m0": n0, "m1": n1, "m2": n2, "m3": n3, "m4": n4, "m5": n5, "y": y}
