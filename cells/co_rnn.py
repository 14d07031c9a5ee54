"""coRNN: damped, driven oscillators of position y and velocity z; the output is y.

For long sequences: the paper bounds its gradients for small dt. As |tanh| < 1, the energy
gamma y^2 + z^2 after a time t is at most t / (2 epsilon - dt (gamma + epsilon^2)). The damping is
explicit, as in the authors' code; dt, gamma and epsilon are theirs for sequential MNIST. The
weights w and w_z are diagonal, so that an oscillator drives itself but not its neighbours.
Field: time series, dynamical systems.
Source: Rusch and Mishra 2021, arXiv:2010.00951.
"""

from rnncc import Input, Param, State, cell, tanh, uniform


@cell
def co_rnn(
    z: State, y: State, x: Input,
    w: Param(init=uniform(-1, 1)), w_z: Param(init=uniform(-1, 1)),
    dt=0.042, gamma=2.7, epsilon=4.7,
):
    force = tanh(w * y + w_z * z + x)
    z_new = z + dt * (force - gamma * y - epsilon * z)
    y_new = y + dt * z_new
    return z_new, y_new
