"""Hindmarsh-Rose neuron: bursts of spikes, and chaos, from three states without dimension.

x is the membrane's potential, y recovers from each spike, z adapts slowly and ends a burst. It
rests at I = 0, bursts at 2 and fires without pause at 4; with r=0.005 the bursts are chaotic at
3.25, and then any two computations of a long sequence part. Euler's method with the new x in y and
z, as accurate as plain Euler with a quarter of the dt. Solve in one pass over time.
Field: neuroscience, dynamical systems.
Source: Hindmarsh and Rose 1984, doi:10.1098/rspb.1984.0024.
"""

from rnncc import Input, State, cell, uniform


@cell
def hindmarsh_rose(
    x: State(init=-1.6045), y: State(init=-11.872), z: State(init=-0.018),
    I: Input(typical=uniform(2, 5)),
    a=1.0, b=3.0, c=1.0, d=5.0, r=0.001, s=4.0, x_1=-1.6, dt=0.02,
):
    x_new = x + dt * (y - a * x**3 + b * x**2 - z + I)
    y_new = y + dt * (c - d * x_new**2 - y)
    z_new = z + dt * r * (s * (x_new - x_1) - z)
    return {"x": x_new, "y": y_new, "z": z_new, "v": x_new}
