"""UnICORNN: undamped oscillators of position y and velocity z, each with a time scale of its own.

For very long sequences: a step keeps volumes in (z, y) and can be run backwards, and the paper
bounds its gradients. w is one weight per channel in the paper too: its layers mix between cells.
Without input z^2/2 + alpha y^2/2 + log(cosh(w y))/w doesn't drift. The output is y. dt and alpha
are the authors' for permuted MNIST; it is stable while step sqrt(alpha + w) < 2.
Field: time series, dynamical systems.
Source: Rusch and Mishra 2021, arXiv:2103.05487.
"""

from rnncc import Input, Param, State, cell, sigmoid, tanh, uniform


@cell
def unicornn(
    z: State, y: State, x: Input,
    w: Param(init=uniform(0, 1)), c: Param(init=uniform(-0.1, 0.1)),
    dt=0.19, alpha=30.65,
):
    step = dt * sigmoid(c)
    z_new = z - step * (tanh(w * y + x) + alpha * y)
    y_new = y + step * z_new
    return z_new, y_new
