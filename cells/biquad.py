"""Biquad: a resonant low-pass filter of order two whose cutoff and resonance are signals.

f is the logit of the cutoff as a part of Nyquist's frequency, Q = 0.5 + softplus(r): both move from
sample to sample. s1 and s2 are the stores of the transposed direct form II, which stays calm while
coefficients move. At any constant f and r the filter is stable; fast sweeps have no such proof.
Field: time series, dynamical systems.
Source: Bristow-Johnson, Audio EQ Cookbook, W3C Note 2021, w3.org/TR/audio-eq-cookbook (LPF).
"""

import math

from rnncc import Input, State, cell, cos, sigmoid, sin, softplus


@cell
def biquad(s1: State, s2: State, x: Input, f: Input, r: Input):
    w = math.pi * sigmoid(f)  # cutoff, radians per sample
    alpha = sin(w) / (1 + 2 * softplus(r))  # sin(w) / 2Q
    c = cos(w)
    a0 = 1 + alpha
    b0 = (1 - c) / (2 * a0)
    y = b0 * x + s1
    s1_new = 2 * b0 * x + 2 * c / a0 * y + s2
    s2_new = b0 * x - (1 - alpha) / a0 * y
    return {"s1": s1_new, "s2": s2_new, "y": y}
