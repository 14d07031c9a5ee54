"""Long expressive memory: two states, each of which moves by a time step that it learns.

For long sequences and dynamics of several time scales: every channel finds its own. z reads y, then
y, the output, reads the new z; with dt up to 1 both stay within [-1, 1]. State weights: diagonal.
Field: time series, dynamical systems, language models.
Source: Rusch et al. 2022, arXiv:2110.04744.
"""

from rnncc import Input, Param, State, cell, sigmoid, tanh, uniform


@cell
def lem(
    z: State, y: State,
    x1: Input, x2: Input, xz: Input, xy: Input,
    w1: Param(init=uniform(-1, 1)), w2: Param(init=uniform(-1, 1)),
    wz: Param(init=uniform(-1, 1)), wy: Param(init=uniform(-1, 1)),
    dt=1.0,
):
    step_z = dt * sigmoid(x1 + w1 * y)
    step_y = dt * sigmoid(x2 + w2 * y)
    z_new = (1 - step_z) * z + step_z * tanh(xz + wz * y)
    y_new = (1 - step_y) * y + step_y * tanh(xy + wy * z_new)
    return z_new, y_new
