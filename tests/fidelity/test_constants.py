"""Every compile-time constant at another value than its own, where a wrong use of it shows.

At a default of 1 or 0, or where two constants start equal, wrong and right uses give the same code.
The cell is traced with other values and held to its paper through the plain loop, which every
kernel is held to elsewhere; nothing is built.
"""

from __future__ import annotations

import functools
import inspect
import zlib
from collections.abc import Callable, Mapping
from math import isclose
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rnncc.export.torch_loop import plain_loop
from rnncc.ir.program import CellIR
from rnncc.lang.loader import find
from rnncc.lang.trace import trace
from rnncc.nn.initialize import fill
from tests.support.papers.continuous import (
    antisymmetric_rnn,
    co_rnn,
    fitzhugh_nagumo,
    lem,
    phase,
    phased_lstm,
    stuart_landau,
    unicornn,
    van_der_pol,
)
from tests.support.papers.gated import hopfield_step
from tests.support.papers.linear import (
    BATCH,
    CHANNELS,
    STEPS,
    Array,
    Step,
    Values,
    assert_same,
    hgrn,
    lmu,
    looped,
    rg_lru,
    sigma,
)
from tests.support.papers.neurons import (
    hindmarsh_rose_1984,
    hodgkin_huxley_1952,
    morris_lecar_1981,
    wilson_cowan_1972,
)
from tests.support.papers.signals import compressor_2012, mackey_glass_1977, refractory_lif
from tests.support.papers.spiking import adex_2005, alif_2018, se_adlif_2024, tc_lif_2024
from tests.support.runs import SHIPPED

Constants = dict[str, float]
Neuron = Mapping[str, float]  # inputs and params of one neuron at one step
Complex = Any  # an array of complex numbers

# Those of a surrogate move gradients alone.
SURROGATE = {"slope", "dampening"}

CHANGED: dict[str, Constants] = {
    "adex": {
        "C": 230.0, "g_L": 23.0, "E_L": -66.0, "V_T": -47.3, "Delta_T": 2.7, "a": 6.1,
        "tau_w": 87.0, "b": 57.0, "V_r": -63.0, "V_peak": -37.0, "slope": 3.1, "dt": 0.4,
    },
    "alif": {
        "b0": 0.017, "beta": 1.3, "tau_m": 13.0, "tau_a": 210.0, "dampening": 0.43, "dt": 1.7,
    },
    "antisymmetric_rnn": {"epsilon": 0.17, "gamma": 0.23},
    "compressor": {"knee": 11.0},
    "co_rnn": {"dt": 0.13, "gamma": 1.9, "epsilon": 3.1},
    "fitzhugh_nagumo": {"a": 0.59, "b": 0.67, "tau": 9.1, "drive": 0.37, "dt": 0.13},
    "hgrn": {"lower_bound": 0.37},
    "hindmarsh_rose": {
        "a": 1.3, "b": 2.6, "c": 0.7, "d": 4.3, "r": 0.11, "s": 3.3, "x_1": -1.9, "dt": 0.03,
    },
    "hodgkin_huxley": {
        "C": 1.7, "g_Na": 103.0, "g_K": 29.0, "g_L": 0.47, "E_Na": 43.0, "E_K": -83.0,
        "E_L": -59.0, "dt": 0.06,
    },
    "hopfield": {"tau": 1.7, "dt": 0.13},
    "izhikevich": {
        "a": 0.13, "b": 0.23, "c": -57.0, "d": 3.1, "v_peak": 23.0, "slope": 3.3, "dt": 0.6,
    },
    "janet": {"beta": 1.7},
    "lem": {"dt": 0.6},
    "lif": {"threshold": 0.7, "slope": 3.3},
    "lmu": {"theta": 17.0},
    "lstm": {"forget_bias": 1.7},
    "mackey_glass": {"beta": 0.27, "gamma": 0.13, "dt": 0.7, "tau": 13},
    "morris_lecar": {
        "C": 13.0, "g_Ca": 5.1, "g_K": 6.7, "g_L": 1.7, "E_Ca": 103.0, "E_K": -79.0, "E_L": -53.0,
        "V_1": -2.3, "V_2": 15.0, "V_3": 4.1, "V_4": 23.0, "phi": 0.13, "dt": 0.17,
    },
    "phase": {"dt": 0.27},
    "phased_lstm": {"alpha": 0.013},
    "refractory_lif": {"threshold": 0.7, "rest": 5, "slope": 3.3},
    "rg_lru": {"c": 5.3},
    "se_adlif": {"theta": 1.7, "q": 83.0, "slope": 3.3, "dt": 1.3},
    "stuart_landau": {"dt": 0.23},
    "synaptic": {"threshold": 0.6, "slope": 3.3},
    "tc_lif": {"gamma": 0.37, "theta": 1.3, "slope": 0.7},
    "unicornn": {"dt": 0.13, "alpha": 17.0},
    "van_der_pol": {"dt": 0.07},
    "wilson_cowan": {
        "c_1": 13.0, "c_2": 9.7, "c_3": 11.0, "c_4": 4.3, "a_e": 1.7, "theta_e": 2.9, "a_i": 1.1,
        "theta_i": 3.1, "r_e": 1.3, "r_i": 0.7, "tau": 6.1, "dt": 0.4,
    },
}  # fmt: skip


def constants_of(name: str) -> Constants:
    """A cell's compile-time constants as they are in its file."""
    given = inspect.signature(find(name).function).parameters.values()
    return {p.name: p.default for p in given if p.default is not p.empty}


def test_every_constant_of_every_cell_is_tried_at_another_value() -> None:
    own = {name: constants_of(name) for name in SHIPPED}
    assert {name: set(values) for name, values in own.items() if values} == {
        name: set(values) for name, values in CHANGED.items()
    }
    for name, values in CHANGED.items():
        assert not any(isclose(values[key], own[name][key], rel_tol=0.05) for key in values)
        assert len(set(values.values()) - {0.0, 1.0}) == len(values)


# --- the papers' equations ---------------------------------------------------------------------


def with_output(step: Callable[..., tuple[Array, ...]], output: Callable[..., Array]) -> Step:
    """A step that gives states alone, and the output from them."""

    def whole(v: Values, *states: Array, **constants: float) -> Any:
        new = step(v, *states, **constants)
        return new, (output(*new),)

    return whole


def one_by_one(step: Callable[..., tuple[list[float], float]]) -> Step:
    """A step of one neuron, (states, values) -> (states, output), for all of them."""

    def whole(v: Values, *states: Array, **constants: float) -> Any:
        shape = states[0].shape
        new, y = np.empty((len(states), *shape)), np.empty(shape)
        wide = {key: np.broadcast_to(value, shape) for key, value in v.items()}
        for at in np.ndindex(shape):
            values = {key: float(value[at]) for key, value in wide.items()}
            own = [float(state[at]) for state in states]
            new[(slice(None), *at)], y[at] = step(own, values, **constants)
        return tuple(new), (y,)

    return whole


def hopfield(v: Values, u: Array, **constants: float) -> Any:
    T = torch.block_diag(*torch.tensor(v["T"])).numpy()
    rows = [hopfield_step([u[b]], [v["I"][b]], [T], **constants) for b in range(BATCH)]
    return (np.stack([states[0] for states, _ in rows]),), (np.stack([y for _, y in rows]),)


def janet(v: Values, c: Array, *, beta: float) -> Any:
    """arXiv:1804.04849, equation 10: the input's share is 1 - sigmoid(s - beta)."""
    s = v["xf"] + v["uf"] * c
    c = sigma(s) * c + (1 - sigma(s - beta)) * np.tanh(v["xc"] + v["uc"] * c)
    return (c,), (c,)


def lstm(v: Values, c: Array, h: Array, *, forget_bias: float) -> Any:
    i, f, o = (v["x" + gate] + v["r" + gate] * h for gate in "ifo")
    keep = sigma(f + forget_bias)
    c = keep * c + sigma(i) * np.tanh(v["xz"] + v["rz"] * h)
    h = sigma(o) * np.tanh(c)
    return (c, h), (h,)


def lif(states: list[float], x: Neuron, *, threshold: float) -> tuple[list[float], float]:
    (v,) = states
    v = x["beta"] * v + x["I"]
    return ([0.0], 1.0) if v > threshold else ([v], 0.0)


def synaptic(states: list[float], x: Neuron, *, threshold: float) -> tuple[list[float], float]:
    i, v = states
    fired = v > threshold
    i = x["alpha"] * i + x["I"]
    v = x["beta"] * v + i - (threshold if fired else 0.0)
    return [i, v], float(v > threshold)


def izhikevich(
    states: list[float],
    x: Neuron,
    *,
    a: float,
    b: float,
    c: float,
    d: float,
    v_peak: float,
    dt: float,
) -> tuple[list[float], float]:
    """The paper's program, begun after its reset and ended by the reset of the next step."""
    v, u = states
    for _ in range(2):
        v = v + 0.5 * dt * (0.04 * v * v + 5 * v + 140 - u + x["I"])
    u = u + dt * (a * (b * min(v, v_peak) - u))
    return ([c, u + d], 1.0) if v > v_peak else ([v, u], 0.0)


STEPPED: dict[str, Step] = {
    "adex": one_by_one(adex_2005),
    "alif": one_by_one(alif_2018),
    "antisymmetric_rnn": with_output(antisymmetric_rnn, lambda u, v: v),
    "compressor": one_by_one(compressor_2012),
    "co_rnn": with_output(co_rnn, lambda z, y: y),
    "fitzhugh_nagumo": with_output(fitzhugh_nagumo, lambda v, w: v),
    "hgrn": hgrn,
    "hindmarsh_rose": one_by_one(hindmarsh_rose_1984),
    "hodgkin_huxley": one_by_one(hodgkin_huxley_1952),
    "hopfield": hopfield,
    "izhikevich": one_by_one(izhikevich),
    "janet": janet,
    "lem": with_output(lem, lambda z, y: y),
    "lif": one_by_one(lif),
    "lmu": lmu,
    "lstm": lstm,
    "mackey_glass": one_by_one(mackey_glass_1977),
    "morris_lecar": one_by_one(morris_lecar_1981),
    "phase": with_output(phase, np.cos),
    "phased_lstm": with_output(phased_lstm, lambda c, h: h),
    "refractory_lif": one_by_one(refractory_lif),
    "rg_lru": rg_lru,
    "se_adlif": one_by_one(se_adlif_2024),
    "stuart_landau": with_output(stuart_landau, lambda re, im: re),
    "synaptic": one_by_one(synaptic),
    "tc_lif": one_by_one(tc_lif_2024),
    "unicornn": with_output(unicornn, lambda z, y: y),
    "van_der_pol": with_output(van_der_pol, lambda x, w: x),
    "wilson_cowan": one_by_one(wilson_cowan_1972),
}


# --- holding the cell to them ------------------------------------------------------------------


def drawn(cell: CellIR) -> dict[str, Tensor]:
    """Typical inputs, and params between 0.2 and 0.9, which lies within the ranges of all."""
    generator = torch.Generator().manual_seed(zlib.crc32(cell.name.encode()))
    arguments = {}
    for i in cell.inputs:
        assert i.typical is not None
        shape = (BATCH, STEPS) if i.shared else (BATCH, STEPS, CHANNELS)
        arguments[i.name] = fill(torch.empty(shape, dtype=torch.float64), i.typical, generator)
    for p in cell.params:
        size = (CHANNELS,) if p.block is None else (CHANNELS // p.block, p.block, p.block)
        unit = torch.rand(size, generator=generator, dtype=torch.float64)
        arguments[p.name] = 0.2 + 0.7 * unit
    return arguments


@functools.cache
def changed(name: str) -> CellIR:
    """The cell with the other constants."""
    return trace(find(name), CHANGED[name])


def by_cell(cell: CellIR) -> list[Array]:
    """Outputs [B, T, N] and last states [B, N] of the traced cell, from its inits."""
    y, last = plain_loop(cell, drawn(cell))
    return [t.numpy() for t in (*y, *last)]


def by_paper(name: str) -> list[Array]:
    """The same by the transcription, which knows no surrogate."""
    cell = changed(name)
    start = [np.full((BATCH, CHANNELS), state.init) for state in cell.states]
    seen = {key: value for key, value in CHANGED[name].items() if key not in SURROGATE}
    step = functools.partial(STEPPED[name], **seen)
    values = {key: value.numpy() for key, value in drawn(cell).items()}
    blocks = {p.name: values.pop(p.name) for p in cell.params if p.block}  # not looped over
    y, along = looped(lambda v, *states: step(v | blocks, *states), values, start)
    return [*y, *(states[:, -1] for states in along)]


@pytest.mark.parametrize("name", CHANGED)
def test_with_other_constants_the_cell_still_steps_as_in_the_paper(name: str) -> None:
    for got, expected in zip(by_cell(changed(name)), by_paper(name), strict=True):
        assert_same(got, expected)


@pytest.mark.parametrize("name", CHANGED)
def test_each_constant_changes_the_results(name: str) -> None:
    """So that the test above sees it, and a neuron is run until it fires.

    The length of a delay also changes how many states there are.
    """
    whole, own = by_cell(changed(name)), constants_of(name)
    for key in CHANGED[name].keys() - SURROGATE:
        other = by_cell(trace(find(name), CHANGED[name] | {key: own[key]}))
        gap = max(np.abs(a - b).max() for a, b in zip(whole, other, strict=False))
        assert gap > 1e-6, key


# --- surrogates --------------------------------------------------------------------------------


def fast_sigmoid(u: Array, c: Constants) -> Array:
    return np.asarray(1 / (1 + c["slope"] * np.abs(u)) ** 2)


def triangle(u: Array, c: Constants) -> Array:
    return np.asarray(c["slope"] * np.maximum(0, 1 - c["slope"] * np.abs(u)))


def dampened(u: Array, c: Constants) -> Array:
    return np.asarray(c["dampening"] * np.maximum(0, 1 - np.abs(u)))


def over_adex(current: Complex, c: Constants) -> Complex:
    """(v - V_peak) / (V_T - E_L) after a step from the cell's inits."""
    v = -70.6
    upstroke = c["g_L"] * c["Delta_T"] * np.exp((v - c["V_T"]) / c["Delta_T"])
    v = v + c["dt"] * (c["g_L"] * (c["E_L"] - v) + upstroke + current) / c["C"]
    return (v - c["V_peak"]) / (c["V_T"] - c["E_L"])


def over_izhikevich(current: Complex, c: Constants) -> Complex:
    v = -65.0
    for _ in range(2):
        v = v + c["dt"] / 2 * (0.04 * v * v + 5 * v + 153 + current)
    return (v - c["v_peak"]) / 100


# How far a neuron is over its threshold after one step, and what gradient passes there. Of the
# params, all 0, only se_adlif's time constant of 5 and tc_lif's coupling of a half count.
SPIKING: dict[str, tuple[Callable[[Complex, Constants], Complex], Callable[..., Array]]] = {
    "adex": (over_adex, fast_sigmoid),
    "alif": (lambda x, c: (1 - np.exp(-c["dt"] / c["tau_m"])) * x / c["b0"] - 1, dampened),
    "izhikevich": (over_izhikevich, fast_sigmoid),
    "lif": (lambda x, c: x - c["threshold"], fast_sigmoid),
    "refractory_lif": (lambda x, c: x - c["threshold"], fast_sigmoid),
    "se_adlif": (lambda x, c: (1 - np.exp(-c["dt"] / 5)) * x - c["theta"], fast_sigmoid),
    "synaptic": (lambda x, c: x - c["threshold"], fast_sigmoid),
    "tc_lif": (lambda x, c: x / 2 - c["theta"], triangle),
}


def test_every_cell_with_a_surrogates_constant_is_among_the_spiking() -> None:
    assert SPIKING.keys() == {name for name, own in CHANGED.items() if own.keys() & SURROGATE}


@pytest.mark.parametrize("name", SPIKING)
def test_with_other_constants_the_surrogate_has_its_height_and_width(name: str) -> None:
    far, surrogate = SPIKING[name]
    constants = CHANGED[name]
    cell = changed(name)
    threshold = root(lambda x: float(far(x, constants)))
    current = (threshold * torch.linspace(0.3, 1.7, 40, dtype=torch.float64)).requires_grad_()
    zeros = {p.name: torch.zeros(40, dtype=torch.float64) for p in cell.params}
    (spikes,), _ = plain_loop(cell, {"I": current.view(1, 1, 40)} | zeros)
    (slope,) = torch.autograd.grad(spikes.sum(), current)
    at = far(current.detach().numpy() + 1e-30j, constants)
    assert (at.real < 0).sum() == spikes.numel() - spikes.sum() == 20
    assert_same(slope, at.imag / 1e-30 * surrogate(at.real, constants))


def root(rises: Callable[[float], float]) -> float:
    """Where a function that rises is 0, by halving."""
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if rises(middle) > 0 else (middle, high)
    return low
