"""HBV: rain to runoff by three buckets, the model of a catchment; the output is the runoff.

s is the soil's moisture, u and l what the upper and lower zones store, P rain and E potential
evaporation, all in mm (per day). Snow comes before it, the routing (a convolution) behind. What the
soil can't hold goes on to the upper zone. Stores stay at 0 or above; where one runs dry, no
gradient passes.
Field: time series, dynamical systems.
Source: Bergstrom 1976, SMHI RHO 7; as in Seibert and Vis 2012, doi:10.5194/hess-16-3315-2012; the
order of a day's steps as in Feng et al. 2022, doi:10.1029/2022WR032404.
"""

from rnncc import Input, Param, State, cell, clip, minimum, relu, uniform


@cell
def hbv(
    s: State(init=100), u: State(init=5), l: State(init=20),
    P: Input(typical=uniform(0, 20)), E: Input(typical=uniform(0, 5)),
    FC: Param(init=uniform(100, 300)), LP: Param(init=uniform(0.5, 0.9)),
    beta: Param(init=uniform(1, 4)), PERC: Param(init=uniform(0.5, 3)),
    UZL: Param(init=uniform(5, 30)), k0: Param(init=uniform(0.1, 0.4)),
    k1: Param(init=uniform(0.05, 0.2)), k2: Param(init=uniform(0.01, 0.05)),
):  # fmt: skip
    wet = P * clip(s / FC, 1e-6, 1) ** beta
    soil = s + P - wet
    recharge = wet + relu(soil - FC)
    held = minimum(soil, FC)
    evaporated = E * minimum(held / (LP * FC), 1)
    filled = u + recharge
    percolated = minimum(filled, PERC)
    upper, lower = filled - percolated, l + percolated
    quick = minimum(k0 * relu(upper - UZL) + k1 * upper, upper)
    slow = k2 * lower
    s_new = clip(held - evaporated, 0, None)
    return {"s": s_new, "u": upper - quick, "l": lower - slow, "y": quick + slow}
