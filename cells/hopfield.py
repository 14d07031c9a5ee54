"""Hopfield's network of graded neurons in blocks of four, by Euler's method.

An associative memory: with symmetric T an energy falls until the state rests at a stored pattern.
u is a neuron's input potential, tanh(u) its firing rate and the output, I a current from outside,
tau its time constant in units of dt; all without dimension, with resistance and gain 1 (a steeper
sigmoid is a larger T and I). Training does not keep T symmetric, and without that the energy need
not fall. Where it rests depends on where it started, so that parallel solvers may need many sweeps.
The paper has a dense T and any sigmoid.
Field: neuroscience, dynamical systems.
Source: Hopfield 1984, doi:10.1073/pnas.81.10.3088.
"""

from rnncc import Input, Matrix, State, cell, tanh


@cell
def hopfield(u: State, I: Input, T: Matrix(block=4), tau=1.0, dt=0.1):
    V = tanh(u)  # firing rates
    u_new = u + dt / tau * (T @ V - u + I)
    return {"u": u_new, "y": tanh(u_new)}
