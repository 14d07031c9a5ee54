"""Elman's and the gated cells against other implementations, transcriptions and known facts.

torchrecurrent and torch.nn have dense recurrent weights; given diagonal or block-diagonal ones they
must agree with the cells here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy
import pytest
import torch
import torchrecurrent
from torch import Tensor, nn

from tests.support.papers.gated import hopfield_step
from tests.support.runs import Call, compiled, random_call, solve

BATCH, STEPS, CHANNELS = 2, 50, 8
SHUT = -800.0  # before a sigmoid: exactly 0 in float64

Step = Callable[..., Any]


# --- drawing, running, comparing -------------------------------------------------------------


def drawn(name: str, weights: float = 1.5) -> Call:
    """Normal inputs, weights within the bound, and an initial state that the cell reaches."""
    return random_call(name, (BATCH, STEPS, CHANNELS), torch.float64, weights=weights)


def pick(call: Call, *names: str) -> list[Tensor]:
    return [call.arguments[name] for name in names]


def start(call: Call) -> tuple[Tensor, ...]:
    assert call.h0 is not None
    return call.h0


def diagonals(call: Call, *names: str) -> Tensor:
    """Vectors [N] as diagonal matrices below each other, [len(names) * N, N]."""
    return torch.cat([torch.diag(vector) for vector in pick(call, *names)])


def blocks(call: Call, *names: str) -> Tensor:
    """Block matrices [N / k, k, k] as dense ones below each other."""
    return torch.cat([torch.block_diag(*matrix) for matrix in pick(call, *names)])


def unrolled(
    module: nn.Module, inputs: Sequence[Tensor], state: Any, **weights: Tensor
) -> tuple[Tensor, Any]:
    """A cell with the interface of torch.nn's, stepped through time.

    Args:
        inputs: [B, T, N] for each gate in the module's order; its input weights pass them as
            they are.
        state: before the first step, h or (h, c).
        weights: its other parameters by name; those not given are 0.

    Returns:
        h after each step, [B, T, N], and the last state.
    """
    x = torch.cat(list(inputs), -1)
    weights |= {"weight_ih": torch.eye(x.shape[-1])}
    parameters = dict(module.double().named_parameters())
    assert weights.keys() <= parameters.keys()
    hidden = []
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights.get(name, torch.zeros(())))
        for t in range(x.shape[1]):
            state = module(x[:, t], state)
            hidden.append(state[0] if isinstance(state, tuple) else state)
    return torch.stack(hidden, 1), state


def transcribed(
    step: Step, call: Call, inputs: Sequence[str], weights: Sequence[str]
) -> tuple[Tensor, list[Tensor]]:
    """Equations on vectors of one sequence and step, run in plain loops.

    Args:
        step: (states, inputs, weights) -> (states, output), each [N]; matrices are dense.

    Returns:
        the outputs [B, T, N] and the last states, each [B, N].
    """
    dense = [w if w.dim() == 1 else torch.block_diag(*w) for w in pick(call, *weights)]
    matrices = [w.numpy() for w in dense]
    outputs, ends = [], []
    for b in range(BATCH):
        states = [h[b].numpy() for h in start(call)]
        for t in range(STEPS):
            states, y = step(states, [x[b, t].numpy() for x in pick(call, *inputs)], matrices)
            outputs.append(y)
        ends.append(numpy.stack(states))
    y = torch.tensor(numpy.stack(outputs)).reshape(BATCH, STEPS, CHANNELS)
    return y, list(torch.tensor(numpy.stack(ends)).unbind(1))


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def agree(name: str, call: Call, y: Tensor, *states: Tensor) -> None:
    """The compiled cell gives these outputs and these last states."""
    outputs, last = solve(name, call.arguments, call.h0)
    close(outputs[0], y)
    assert len(last) == len(states)
    for got, expected in zip(last, states, strict=True):
        close(got, expected)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + numpy.exp(-x))


def steady(steps: int, channels: int, **inputs: float) -> dict[str, Tensor]:
    """Inputs [1, T, N] that hold one value."""
    shape = (1, steps, channels)
    return {name: torch.full(shape, value, dtype=torch.float64) for name, value in inputs.items()}


def each(channels: int, **params: float) -> dict[str, Tensor]:
    """Params [N] of one value."""
    return {n: torch.full((channels,), v, dtype=torch.float64) for n, v in params.items()}


# --- against other implementations -----------------------------------------------------------


def test_elman_is_torchs_rnn_with_diagonal_weights() -> None:
    call = drawn("elman")
    y, h = unrolled(
        nn.RNNCell(CHANNELS, CHANNELS),
        pick(call, "x"), *start(call), weight_hh=diagonals(call, "a"),
    )  # fmt: skip
    agree("elman", call, y, h)


def test_block_elman_is_torchs_rnn_with_block_diagonal_weights() -> None:
    call = drawn("block_elman")
    y, h = unrolled(
        nn.RNNCell(CHANNELS, CHANNELS),
        pick(call, "x"), *start(call), weight_hh=blocks(call, "R"),
    )  # fmt: skip
    agree("block_elman", call, y, h)


def as_torchs_gru(call: Call, weight_hh: Tensor, z: str, r: str, c: str) -> tuple[Tensor, Any]:
    """torch.nn.GRUCell, whose z is the share of the old state: both of its weights change sign."""
    xz, xr, xc = pick(call, z, r, c)
    weight_hh = torch.cat([weight_hh[:CHANNELS], -weight_hh[CHANNELS : 2 * CHANNELS],
                           weight_hh[2 * CHANNELS :]])  # fmt: skip
    module = nn.GRUCell(3 * CHANNELS, CHANNELS)
    return unrolled(module, (xr, -xz, xc), *start(call), weight_hh=weight_hh)


def test_para_gru_is_torchs_gru_with_diagonal_weights_and_z_turned() -> None:
    call = drawn("para_gru")
    y, h = as_torchs_gru(call, diagonals(call, "ar", "az", "ac"), "xz", "xr", "xc")
    agree("para_gru", call, y, h)


def test_block_gru_is_torchs_gru_where_the_candidates_matrix_is_diagonal() -> None:
    call = drawn("block_gru")
    call.arguments["Rc"] = call.arguments["Rc"] * torch.eye(4)
    y, h = as_torchs_gru(call, blocks(call, "Rr", "Rz", "Rc"), "xz", "xr", "xc")
    agree("block_gru", call, y, h)


def test_mgu_is_torchs_gru_with_one_gate_in_both_places() -> None:
    call = drawn("mgu")
    y, h = as_torchs_gru(call, diagonals(call, "uf", "uf", "uh"), "xf", "xf", "xh")
    agree("mgu", call, y, h)


def test_ugrnn_is_torchs_gru_with_its_reset_gate_open() -> None:
    call = drawn("ugrnn")
    xc, xg = pick(call, "xc", "xg")
    none = torch.zeros(CHANNELS, CHANNELS)
    y, h = unrolled(
        nn.GRUCell(3 * CHANNELS, CHANNELS),
        (torch.full_like(xg, -SHUT), xg, xc), *start(call),
        weight_hh=torch.cat([none, diagonals(call, "rg", "rc")]),
    )  # fmt: skip
    agree("ugrnn", call, y, h)


def test_lstm_is_torchs_with_diagonal_weights_and_a_forget_bias_of_one() -> None:
    call = drawn("lstm")
    c, h = start(call)
    bias = torch.zeros(4, CHANNELS)
    bias[1] = 1
    y, (h, c) = unrolled(
        nn.LSTMCell(4 * CHANNELS, CHANNELS),
        pick(call, "xi", "xf", "xz", "xo"), (h, c),
        weight_hh=diagonals(call, "ri", "rf", "rz", "ro"), bias_hh=bias.flatten(),
    )  # fmt: skip
    agree("lstm", call, y, c, h)


def test_peephole_lstm_is_torchrecurrents_with_diagonal_weights() -> None:
    call = drawn("peephole_lstm")
    c, h = start(call)
    y, (h, c) = unrolled(
        torchrecurrent.PeepholeLSTMCell(4 * CHANNELS, CHANNELS),
        pick(call, "xi", "xf", "xz", "xo"), (h, c),
        weight_hh=diagonals(call, "ri", "rf", "rz", "ro"),
        weight_ph=torch.cat(pick(call, "pi", "pf", "po")),
    )  # fmt: skip
    agree("peephole_lstm", call, y, c, h)


def test_para_lstm_is_torchrecurrents_peephole_lstm_with_its_input_gate_tied() -> None:
    """sigmoid(-s) = 1 - sigmoid(s): the input gate has the forget gate's weights, negative."""
    call = drawn("para_lstm")
    c, h = start(call)
    xf, xc, xo = pick(call, "xf", "xc", "xo")
    cf, co = pick(call, "cf", "co")
    y, (h, c) = unrolled(
        torchrecurrent.PeepholeLSTMCell(4 * CHANNELS, CHANNELS),
        (-xf, xf, xc, xo), (h, c),
        weight_hh=torch.cat([-diagonals(call, "af"), diagonals(call, "af", "ac", "ao")]),
        weight_ph=torch.cat([-cf, cf, co]),
    )  # fmt: skip
    agree("para_lstm", call, y, c, h)


def test_ind_rnn_is_torchrecurrents_with_relu() -> None:
    call = drawn("ind_rnn", weights=1.0)
    y, h = unrolled(
        torchrecurrent.IndRNNCell(CHANNELS, CHANNELS, nonlinearity="relu"),
        pick(call, "x"), *start(call), vector_u=call.arguments["u"],
    )  # fmt: skip
    agree("ind_rnn", call, y, h)


def test_mgu_is_torchrecurrents_with_diagonal_weights() -> None:
    call = drawn("mgu")
    y, h = unrolled(
        torchrecurrent.MGUCell(2 * CHANNELS, CHANNELS),
        pick(call, "xf", "xh"), *start(call), weight_hh=diagonals(call, "uf", "uh"),
    )  # fmt: skip
    agree("mgu", call, y, h)


def test_minimal_rnn_is_torchrecurrents_with_diagonal_weights() -> None:
    call = drawn("minimal_rnn")
    y, h = unrolled(
        torchrecurrent.MinimalRNNCell(CHANNELS, CHANNELS),
        pick(call, "x"), *start(call),
        weight_hh=diagonals(call, "uh"), weight_mm=diagonals(call, "uz"),
        bias_hh=call.arguments["bu"],
    )  # fmt: skip
    agree("minimal_rnn", call, y, h)


def test_li_gru_is_torchrecurrents_with_diagonal_weights() -> None:
    call = drawn("li_gru")
    y, h = unrolled(
        torchrecurrent.LiGRUCell(2 * CHANNELS, CHANNELS),
        pick(call, "xz", "xh"), *start(call), weight_hh=diagonals(call, "uz", "uh"),
    )  # fmt: skip
    agree("li_gru", call, y, h)


def test_janet_is_torchrecurrents_with_diagonal_weights() -> None:
    call = drawn("janet")
    (c,) = start(call)
    y, (_, c) = unrolled(
        torchrecurrent.JANETCell(2 * CHANNELS, CHANNELS),
        pick(call, "xf", "xc"), (c, c),
        weight_hh=diagonals(call, "uf", "uc"), beta=torch.tensor(1.0),
    )  # fmt: skip
    agree("janet", call, y, c)


def test_brc_is_torchrecurrents() -> None:
    call = drawn("brc")
    y, h = unrolled(
        torchrecurrent.BRCell(3 * CHANNELS, CHANNELS),
        pick(call, "xa", "xc", "x"), *start(call), weight_hh=torch.cat(pick(call, "wa", "wc")),
    )  # fmt: skip
    agree("brc", call, y, h)


def test_nbrc_is_torchrecurrents_with_block_diagonal_weights() -> None:
    call = drawn("nbrc")
    y, h = unrolled(
        torchrecurrent.NBRCell(3 * CHANNELS, CHANNELS),
        pick(call, "xa", "xc", "x"), *start(call), weight_hh=blocks(call, "Wa", "Wc"),
    )  # fmt: skip
    agree("nbrc", call, y, h)


def test_ugrnn_is_torchrecurrents_with_diagonal_weights() -> None:
    call = drawn("ugrnn")
    y, h = unrolled(
        torchrecurrent.UGRNNCell(2 * CHANNELS, CHANNELS),
        pick(call, "xc", "xg"), *start(call), weight_hh=diagonals(call, "rc", "rg"),
    )  # fmt: skip
    agree("ugrnn", call, y, h)


# --- against the paper's equations -----------------------------------------------------------


def sru_step(states: Any, inputs: Any, weights: Any) -> Any:
    """arXiv:1709.02755v5, equations 1 to 4: f, c, r and the highway h."""
    (before,), (projected, to_forget, to_reset, skipped), (vf, vr) = states, inputs, weights
    forget = sigmoid(to_forget + vf * before)
    reset = sigmoid(to_reset + vr * before)
    c = projected + forget * (before - projected)
    return [c], skipped + reset * (c - skipped)


def test_sru_follows_its_papers_equations() -> None:
    call = drawn("sru")
    y, (c,) = transcribed(sru_step, call, ("x", "xf", "xr", "skip"), ("vf", "vr"))
    agree("sru", call, y, c)


def block_gru_step(states: Any, inputs: Any, weights: Any) -> Any:
    """arXiv:1406.1078, equations 5 to 8, with arXiv:1412.3555's sense of z."""
    (h,), (to_update, to_reset, x), (update_matrix, reset_matrix, matrix) = states, inputs, weights
    z = sigmoid(update_matrix @ h + to_update)
    r = sigmoid(reset_matrix @ h + to_reset)
    h = h + z * (numpy.tanh(x + matrix @ (h * r)) - h)
    return [h], h


def test_block_gru_resets_before_its_matrix() -> None:
    call = drawn("block_gru")
    y, (h,) = transcribed(block_gru_step, call, ("xz", "xr", "xc"), ("Rz", "Rr", "Rc"))
    agree("block_gru", call, y, h)


def test_hopfield_follows_its_papers_equation() -> None:
    call = drawn("hopfield", weights=3.0)
    y, (u,) = transcribed(hopfield_step, call, ("I",), ("T",))
    agree("hopfield", call, y, u)


def block_linear_step(states: Any, inputs: Any, weights: Any) -> Any:
    """arXiv:2412.19350: a dictionary of matrices, mixed by a softmax; here without norms."""
    (h,), (x, choice), dictionary = states, inputs, weights
    shares = numpy.exp([choice, 0.0])
    transition = numpy.tensordot(shares / shares.sum(), numpy.stack(dictionary), 1)
    h = transition @ h + x
    return [h], h


def test_block_linear_mixes_its_matrices_by_a_softmax() -> None:
    call = drawn("block_linear", weights=0.8)
    y, (h,) = transcribed(block_linear_step, call, ("x", "choice"), ("A", "B"))
    agree("block_linear", call, y, h)


# --- known facts -----------------------------------------------------------------------------


def test_ind_rnns_gradient_doubles_over_t_steps_where_u_is_the_tth_root_of_two() -> None:
    """The bound of the paper, reached where relu stays open."""
    h = torch.zeros(1, CHANNELS, dtype=torch.float64, requires_grad=True)
    arguments = steady(STEPS, CHANNELS, x=0.1) | each(CHANNELS, u=2 ** (1 / STEPS))
    _, (last,) = solve("ind_rnn", arguments, [h])
    (gradient,) = torch.autograd.grad(last.sum(), h)
    close(gradient, torch.full_like(h, 2.0))


def test_ind_rnns_gradient_never_exceeds_u_to_the_t() -> None:
    call = drawn("ind_rnn", weights=1.2)
    h = start(call)[0].requires_grad_()
    _, (last,) = solve("ind_rnn", call.arguments, [h])
    (gradient,) = torch.autograd.grad(last.sum(), h)
    bound = call.arguments["u"].abs() ** STEPS
    assert (gradient.abs() <= bound * (1 + 1e-12)).all()


def test_minimal_rnn_stays_among_the_inputs_it_has_encoded() -> None:
    call = drawn("minimal_rnn")
    (y,), _ = solve("minimal_rnn", call.arguments, call.h0)
    encoded = torch.cat([start(call)[0][:, None], call.arguments["x"].tanh()], 1)
    assert (y <= encoded.cummax(1).values[:, 1:] + 1e-12).all()
    assert (y >= encoded.cummin(1).values[:, 1:] - 1e-12).all()


def test_li_grus_state_grows_without_bound_where_its_weight_is_above_one() -> None:
    arguments = steady(200, 1, xz=0.0, xh=0.0) | each(1, uz=0.0, uh=2.0)
    _, (h,) = solve("li_gru", arguments, [torch.ones(1, 1, dtype=torch.float64)])
    close(h, torch.full_like(h, 1.5**200))  # a half is kept, the other half doubled


@pytest.mark.parametrize("steps", [10, 100, 700])
def test_janet_forgets_to_one_part_in_e_over_the_steps_its_bias_is_the_logarithm_of(
    steps: int,
) -> None:
    arguments = steady(steps, 1, xf=math.log(steps - 1), xc=0.0) | each(1, uf=0.0, uc=0.0)
    _, (c,) = solve("janet", arguments, [torch.ones(1, 1, dtype=torch.float64)])
    close(c, torch.full_like(c, (1 - 1 / steps) ** steps))
    assert abs(float(c) - math.exp(-1)) < 0.6 / (math.e * steps)


def test_janets_forget_biases_start_over_the_logarithms_of_all_times_up_to_the_sequences() -> None:
    layer = compiled("janet").layer(3, 500)
    forget, candidate = layer.projection.bias.detach().reshape(2, 500)
    times = forget.exp().sort().values
    assert 1 <= times[0] < 40
    assert 740 < times[-1] <= 783
    assert abs(float(times.mean()) - 392) < 40  # uniform between 1 and 783
    assert (candidate == 0).all()


def test_srus_highway_passes_its_input_where_the_reset_gate_is_shut_and_c_where_it_is_open() -> (
    None
):
    call = drawn("sru", weights=0.5)
    shut = call.arguments | {"xr": torch.full_like(call.arguments["xr"], SHUT)}
    (y,), _ = solve("sru", shut, call.h0)
    close(y, call.arguments["skip"])
    (y,), (c,) = solve("sru", call.arguments | {"xr": -shut["xr"]}, call.h0)
    close(y[:, -1], c)
    assert (y - call.arguments["skip"]).abs().min() > 1e-6


def brc_at(feedback: float, h: float) -> float:
    """Where a channel without input comes to rest."""
    arguments = steady(2000, 1, xa=math.atanh(feedback - 1), xc=0.0, x=0.0)
    arguments |= each(1, wa=0.0, wc=0.0)
    _, (last,) = solve("brc", arguments, [torch.full((1, 1), h, dtype=torch.float64)])
    return float(last)


def test_brc_has_two_stable_states_where_its_feedback_is_above_one() -> None:
    low, high = 0.5, 1.0
    for _ in range(60):  # h = tanh(1.5 h) by bisection
        middle = (low + high) / 2
        low, high = (middle, high) if math.tanh(1.5 * middle) > middle else (low, middle)
    for h in (0.01, 0.3, 1.0):
        assert brc_at(1.5, h) == pytest.approx(low, abs=1e-12)
        assert brc_at(1.5, -h) == pytest.approx(-low, abs=1e-12)


def test_brc_forgets_where_its_feedback_is_below_one() -> None:
    for h in (-1.0, 0.3, 1.0):
        assert brc_at(0.9, h) == pytest.approx(0, abs=1e-12)


def test_brc_keeps_the_sign_of_a_pulse_until_the_next() -> None:
    arguments = steady(300, 1, xa=1.0, xc=0.0, x=0.0) | each(1, wa=0.0, wc=0.0)
    arguments["x"][0, 0], arguments["x"][0, 100], arguments["x"][0, 101] = 3.0, -5.0, -5.0
    (y,), _ = solve("brc", arguments, None)
    assert (y[0, 10:100] > 0.8).all()
    assert (y[0, 110:] < -0.8).all()


def test_nbrc_with_diagonal_matrices_is_brc() -> None:
    call = drawn("brc")
    arguments = {name: call.arguments[name] for name in ("xa", "xc", "x")}
    for matrix, vector in (("Wa", "wa"), ("Wc", "wc")):
        arguments[matrix] = torch.diag_embed(call.arguments[vector].reshape(-1, 4))
    (y,), (h,) = solve("nbrc", arguments, call.h0)
    agree("brc", call, y, h)


def test_hopfields_energy_falls_until_it_rests_where_its_matrix_is_symmetric() -> None:
    """Hopfield 1984, equation 7: E = -V T V / 2 + integral of atanh(V) - I V."""
    call = drawn("hopfield", weights=2.0)
    T = call.arguments["T"]
    call.arguments["T"] = (T + T.mT) / 2
    current = call.arguments["I"][:, :1]
    call.arguments["I"] = current.expand(BATCH, 2000, CHANNELS).contiguous()
    (V,), _ = solve("hopfield", call.arguments, call.h0)
    mixed = V @ torch.block_diag(*call.arguments["T"])
    integral = V * V.atanh() + torch.log1p(-V * V) / 2
    energy = (-V * mixed / 2 + integral - current * V).sum(-1)
    falls = -energy.diff(dim=1)
    assert (falls >= -1e-13).all()
    assert (falls[:, :20] > 1e-6).all()
    assert (falls[:, -1] < 1e-6).all()


def test_hopfield_recalls_a_stored_pattern_from_one_with_a_wrong_bit() -> None:
    pattern = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    T = torch.outer(pattern, pattern) - torch.eye(4)  # Hebb's rule, no neuron on itself
    wrong = pattern * (1 - 2 * torch.eye(4, dtype=torch.float64))
    arguments = {"I": torch.zeros(4, 300, 4, dtype=torch.float64), "T": T[None]}
    (V,), _ = solve("hopfield", arguments, [wrong])
    assert (V[:, -1].sign() == pattern).all()
    assert (V[:, -1].abs() > 0.95).all()


def test_ugrnns_gate_starts_towards_keeping_its_state() -> None:
    layer = compiled("ugrnn").layer(3, 5)
    assert (layer.projection.bias[5:] == 1).all()
    assert not (layer.projection.bias[:5] == 1).any()


def test_peephole_lstm_without_peepholes_is_torchs_lstm() -> None:
    call = drawn("peephole_lstm")
    c, h = start(call)
    call.arguments |= {name: torch.zeros_like(call.arguments[name]) for name in ("pi", "pf", "po")}
    y, (h, c) = unrolled(
        nn.LSTMCell(4 * CHANNELS, CHANNELS),
        pick(call, "xi", "xf", "xz", "xo"), (h, c),
        weight_hh=diagonals(call, "ri", "rf", "rz", "ro"),
    )  # fmt: skip
    agree("peephole_lstm", call, y, c, h)


def test_block_linear_composes_permutations_that_do_not_commute() -> None:
    """A swap and a cycle make all 24 orders of four things; a block holds which it is in."""
    swap, cycle = [1, 0, 2, 3], [1, 2, 3, 0]
    generator = torch.Generator().manual_seed(0)
    swaps = torch.rand(200, generator=generator) < 0.5
    place = list(range(4))  # where each thing is
    for chosen in swaps.tolist():
        place = [(swap if chosen else cycle)[p] for p in place]
    things = torch.eye(4, dtype=torch.float64)
    choice = torch.where(swaps, -SHUT, SHUT).double().expand(4, 200).contiguous()
    arguments = {"x": torch.zeros(4, 200, 4, dtype=torch.float64), "choice": choice}
    arguments |= {"A": things[swap].mT[None], "B": things[cycle].mT[None]}
    _, (h,) = solve("block_linear", arguments, [things])
    close(h, things[place])
