"""Dynamic range compressor: attenuates x above a threshold, fast to act and slow to let go.

g is the attenuation in dB: a smooth branching detector in the log domain, behind a gain computer
with a soft knee. Threshold and knee are in dB, attack and release in samples. Below 1e-5 (-100 dB)
x counts as that and passes no gradient to g. Its choice of attack or release has no gradient.
Field: time series, dynamical systems.
Source: Giannoulis, Massberg and Reiss 2012, Digital dynamic range compressor design - a tutorial
and analysis, JAES 60(6): 399-408.
"""

import math

from rnncc import Input, Param, State, abs, cell, clip, exp, log10, maximum, relu, uniform, where


@cell
def compressor(
    g: State, x: Input, threshold: Param(init=uniform(-30, -10)), ratio: Param(init=uniform(2, 8)),
    attack: Param(init=uniform(2, 20)), release: Param(init=uniform(20, 200)), knee=6.0,
):  # fmt: skip
    over = 20 * log10(maximum(abs(x), 1e-5)) - threshold
    bent = clip(over + knee / 2, 0, knee)
    wanted = (1 - 1 / ratio) * (bent * bent / (2 * knee) + relu(over - knee / 2))
    keep = exp(-1 / where(wanted > g, attack, release))
    g_new = keep * g + (1 - keep) * wanted
    return {"g": g_new, "y": x * exp(-math.log(10) / 20 * g_new)}
