"""Filters, series and hidden states against what other packages compute for the same numbers.

The packages aren't needed here: their figures are written down, beside the call that gave them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from tests.support.runs import compiled, listed

T = np.arange(12)


def outputs(name: str, **given: ArrayLike) -> list[NDArray[np.float64]]:
    """One sequence of one channel; a list of T values is an input, and a number a param."""
    cell = compiled(name).stages.cell
    inputs = {i.vector.name if i.vector else i.name for i in cell.inputs}
    arguments: dict[str, Any] = {}
    for key, value in given.items():
        tensor = torch.tensor(np.asarray(value, dtype=float))
        if key in inputs:
            arguments[key] = tensor.reshape(1, len(T), 1, *tensor.shape[1:])
        else:
            arguments[key] = tensor.reshape(1, *tensor.shape)
    return [y[0, :, 0].numpy() for y in listed(compiled(name)(**arguments))]


def test_biquad_is_the_bilinear_transform_of_the_analog_low_pass() -> None:
    """SciPy 1.17.1: lfilter(*bilinear([1], [1, 1 / Q, 1], fs=1 / tan(w / 2) / 2), x).

    w is the cutoff, pi * sigmoid(0.3), and Q = 0.5 + softplus(0.8); the cookbook isn't used.
    """
    x = np.sin(0.7 * T) + 0.3 * np.cos(2.1 * T)
    (y,) = outputs("biquad", x=x, f=np.full(12, 0.3), r=np.full(12, 0.8))
    np.testing.assert_allclose(y, [
        0.143108350, 0.469903553, 0.765882783, 1.056798266, 0.795192570, -0.375330669,
        -0.959938749, -0.775167654, -0.924433114, -0.370663904, 0.810539232, 0.941139076,
    ], rtol=1e-7)  # fmt: skip


def test_kalman_filters_as_statsmodels_does() -> None:
    """statsmodels 0.15.0: UnobservedComponents(z, "local linear trend").smooth([0.8, 0.3, 0.05]).

    It begins at the state predicted from level and slope 0 of variance 1: initialize_known([0, 0],
    [[2.3, 1], [1, 1.05]]); filtered_state[0] and -llf_obs, none burnt.
    """
    z = np.sin(0.7 * T) + 0.1 * T
    logs = {"log_level": math.log(0.3), "log_slope": math.log(0.05), "log_noise": math.log(0.8)}
    level, loss = outputs("kalman", z=z, **logs)
    np.testing.assert_allclose(level, [
        0.000000000, 0.541509300, 1.067137156, 1.249891911, 1.028086639, 0.535249246,
        0.028393526, -0.221981236, -0.055597464, 0.498463439, 1.230750169, 1.847466242,
    ], rtol=1e-7, atol=1e-8)  # fmt: skip
    np.testing.assert_allclose(loss, [
        1.484639589, 1.551936313, 1.438324647, 1.369487791, 1.467277416, 1.543468508,
        1.429771733, 1.283616478, 1.354940153, 1.551389738, 1.561087028, 1.364579603,
    ], rtol=1e-7)  # fmt: skip


def test_egarch_has_the_variance_of_the_package_arch() -> None:
    """arch 8.0.0: log of EGARCH(p=1, o=1, q=1).compute_variance, for [0.05, 0.2, -0.1, 0.9].

    Its backcast is -0.05 / 0.9, so that the first variance is 1, as the cell's.
    """
    r = 0.8 * np.sin(1.3 * T) + 0.2 * np.cos(0.4 * T)
    (h,) = outputs("egarch", r=r, omega=0.05, alpha=0.2, gamma=-0.1, beta=0.9)
    np.testing.assert_allclose(h, [
        -0.089576912, -0.090315459, -0.133137925, -0.076213080, 0.043916069, -0.061358795,
        -0.097634944, -0.190430577, 0.003442223, 0.129795649, 0.026488964, -0.013899522,
    ], rtol=1e-6)  # fmt: skip


def test_hmm_forward_scores_as_hmmlearn_does() -> None:
    """hmmlearn 0.3.3: GaussianHMM(3).score(x[:t]) for all t, means -1, 0, 1 and variance 1.

    Its startprob_ is that after the first transition from equal probabilities.
    """
    A = [[0.1, 0.5, -0.3], [-0.2, 0.4, 0.0], [0.3, -0.6, 0.2]]
    apart = np.sin(0.7 * T)[:, None] - np.array([-1.0, 0.0, 1.0])
    (y,) = outputs("hmm_forward", e=-0.5 * apart**2 - 0.5 * math.log(2 * math.pi), A=A)
    np.testing.assert_allclose(y.cumsum(), [
        -1.205847863, -2.513177993, -3.970931050, -5.384092948, -6.653532165, -7.893514878,
        -9.269754132, -10.694306995, -11.960431378, -13.132750693, -14.438039278, -15.896832650,
    ], rtol=1e-7)  # fmt: skip


def test_zoneout_gru_without_zoneout_is_that_of_pytorch_with_diagonal_weights() -> None:
    """torch.nn.GRU, whose input weights pass the gates through; a kept channel stays as it was."""
    generator = torch.Generator().manual_seed(0)
    uz, ur, uc = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    xz, xr, xc = torch.randn(3, 2, 20, 4, generator=generator, dtype=torch.float64)
    gru = torch.nn.GRU(12, 4, bias=False, batch_first=True).double()
    with torch.no_grad():
        gru.weight_ih_l0.copy_(torch.eye(12))
        gru.weight_hh_l0.copy_(torch.cat([torch.diag(u) for u in (ur, uz, uc)]))
        expected, _ = gru(torch.cat([xr, xz, xc], -1))
    y = compiled("zoneout_gru")(xz, xr, xc, torch.zeros_like(xz), uz, ur, uc)
    torch.testing.assert_close(y, expected)
