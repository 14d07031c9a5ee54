"""HGRN: a gated complex rotation, with a lower bound on how much is kept.

For language models: lower layers forget fast, upper ones slowly, because a layer's forget gate
never falls below lower_bound; the paper learns these bounds, increasing from layer to layer, here
each layer is compiled with its own. Two real states for one complex one: its modulus is the gate,
its phase theta doesn't depend on the input. Both parts are outputs; the paper's output gate and
norm come after the cell.
Field: language models.
Source: Qin et al. 2023, arXiv:2311.04823.
"""

from math import log

from rnncc import Input, Param, State, cell, cos, exp, sigmoid, silu, sin, spaced


@cell
def hgrn(
    h_re: State, h_im: State,
    xf: Input, xc_re: Input, xc_im: Input,
    theta: Param(init=exp(spaced(0, -2 * log(10000)))),
    lower_bound=0.0,
):
    decay = lower_bound + (1 - lower_bound) * sigmoid(xf)  # forget gate, |lambda|
    lambda_re = decay * cos(theta)
    lambda_im = decay * sin(theta)
    re = lambda_re * h_re - lambda_im * h_im + (1 - decay) * silu(xc_re)
    im = lambda_im * h_re + lambda_re * h_im + (1 - decay) * silu(xc_im)
    return {"h_re": re, "h_im": im, "y_re": re, "y_im": im}
