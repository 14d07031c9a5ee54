"""Elman's simple recurrent network with diagonal state-to-state weights.

The smallest nonlinear recurrence: a baseline, and the first cell to read.
Field: time series.
Source: Elman 1990, doi:10.1207/s15516709cog1402_1; one weight per channel as in arXiv:1803.04831.
"""

from rnncc import Input, Param, State, cell, tanh, uniform


@cell
def elman(h: State, x: Input, a: Param(init=uniform(-1, 1))):
    return tanh(a * h + x)
