"""Structure: the coupling of channels is proved from the symbolic Jacobian, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from rnncc.calculus.structure import classify
from rnncc.errors import StructureError
from rnncc.ir.program import Structure
from rnncc.lang.loader import find, shipped
from rnncc.lang.trace import trace
from tests.support.cells import traced

ONE = "h: State, x: Input, a: Param"
TWO = "c: State, h: State, x: Input"
BLOCK = "h: State, x: Input, R: Matrix(block=2)"

LADDER = (
    *("1000x00x0", "x100xx0x0", "xx10xxxx0", "xxxxxxxx0"),  # voltages
    *("x000x00x0", "xx00xx0x0", "xxx0xxxx0"),  # their tanh
    *("xxxxxxxx1", "xxxxxxxx0"),  # feedback
)
DELAY = ("1" + "0" * 16 + "x", *("0" * k + "1" + "0" * (17 - k) for k in range(17)))

# kind, group, block, affine, smooth, spiking, pattern
SHIPPED = {
    "adex": ("diagonal", 1, 2, False, False, True, ("xx", "xx")),
    "alif": ("diagonal", 1, 3, False, False, True, ("1xx", "011", "000")),
    "antisymmetric_rnn": ("diagonal", 1, 2, False, True, False, ("xx", "xx")),
    "biquad": ("diagonal", 1, 2, True, True, False, ("x1", "x0")),
    "block_elman": ("block", 4, 4, False, True, False, ("xxxx",) * 4),
    "block_gru": ("block", 4, 4, False, True, False, ("xxxx",) * 4),
    "block_linear": ("block", 4, 4, True, True, False, ("xxxx",) * 4),
    "brc": ("diagonal", 1, 1, False, True, False, ("x",)),
    "cfc": ("diagonal", 1, 1, False, True, False, ("x",)),
    "co_rnn": ("diagonal", 1, 2, False, True, False, ("xx", "xx")),
    "compressor": ("diagonal", 1, 1, False, False, False, ("x",)),
    "egarch": ("diagonal", 1, 1, False, False, False, ("x",)),
    "elman": ("diagonal", 1, 1, False, True, False, ("x",)),
    "fitzhugh_nagumo": ("diagonal", 1, 2, False, True, False, ("x1", "11")),
    "gated_delta_net": ("diagonal", 1, 4, True, True, False, ("xxxx",) * 4),
    "gru_d": ("diagonal", 1, 1, False, False, False, ("x",)),
    "gru_ode": ("diagonal", 1, 1, False, True, False, ("x",)),
    "hbv": ("diagonal", 1, 3, False, False, False, ("x00", "xx0", "xxx")),
    "hgrn": ("diagonal", 1, 2, True, True, False, ("xx", "xx")),
    "higher_order_lru": ("diagonal", 1, 3, True, False, False, ("xxx", "100", "010")),
    "hindmarsh_rose": ("diagonal", 1, 3, False, True, False, ("x11", "xxx", "x11")),
    "hmm_forward": ("diagonal", 1, 3, False, False, False, ("xxx",) * 3),
    "hodgkin_huxley": ("diagonal", 1, 4, False, True, False, ("xxxx", "xx00", "x0x0", "x00x")),
    "hopfield": ("block", 4, 4, False, True, False, ("xxxx",) * 4),
    "ind_rnn": ("diagonal", 1, 1, False, False, False, ("x",)),
    "izhikevich": ("diagonal", 1, 2, False, False, True, ("xx", "xx")),
    "janet": ("diagonal", 1, 1, False, True, False, ("x",)),
    "kalman": ("diagonal", 1, 5, False, True, False, ("xxxxx",) * 2 + ("00xxx",) * 3),
    "lem": ("diagonal", 1, 2, False, True, False, ("xx", "xx")),
    "li_gru": ("diagonal", 1, 1, False, False, False, ("x",)),
    "lif": ("diagonal", 1, 1, False, False, True, ("x",)),
    "liquid_s4": ("diagonal", 1, 2, True, True, False, ("xx", "xx")),
    "lmu": ("diagonal", 1, 6, True, True, False, ("111111",) * 6),
    "lru": ("diagonal", 1, 2, True, True, False, ("xx", "xx")),
    "lstm": ("diagonal", 1, 2, False, True, False, ("xx", "xx")),
    "ltc": ("diagonal", 1, 1, False, True, False, ("x",)),
    "mackey_glass": ("diagonal", 1, 18, False, True, False, DELAY),
    "mamba3": ("diagonal", 1, 4, True, True, False, ("xxxx", "xxxx", "0000", "0000")),
    "mega_ema": ("diagonal", 1, 2, True, True, False, ("x0", "0x")),
    "mgu": ("diagonal", 1, 1, False, True, False, ("x",)),
    "min_gru": ("diagonal", 1, 1, True, True, False, ("x",)),
    "min_lstm": ("diagonal", 1, 1, True, True, False, ("x",)),
    "minimal_rnn": ("diagonal", 1, 1, False, True, False, ("x",)),
    "mlstm": ("diagonal", 1, 5, False, False, False, ("x000x", "0x00x", "00x0x", "000xx", "0000x")),
    "moog_ladder": ("diagonal", 1, 9, False, True, False, LADDER),
    "morris_lecar": ("diagonal", 1, 2, False, True, False, ("xx", "xx")),
    "nbrc": ("block", 4, 4, False, True, False, ("xxxx",) * 4),
    "para_gru": ("diagonal", 1, 1, False, True, False, ("x",)),
    "para_lstm": ("diagonal", 1, 2, False, True, False, ("xx", "xx")),
    "peephole_lstm": ("diagonal", 1, 2, False, True, False, ("xx", "xx")),
    "phase": ("diagonal", 1, 1, False, True, False, ("x",)),
    "phased_lstm": ("diagonal", 1, 2, False, False, False, ("xx", "xx")),
    "qrnn": ("diagonal", 1, 1, True, True, False, ("x",)),
    "refractory_lif": ("diagonal", 1, 2, False, False, True, ("x0", "0x")),
    "rg_lru": ("diagonal", 1, 1, True, False, False, ("x",)),
    "rot_rnn": ("diagonal", 1, 2, True, True, False, ("xx", "xx")),
    "rwkv4": ("diagonal", 1, 3, False, False, False, ("x0x", "0xx", "00x")),
    "s4d": ("diagonal", 1, 2, True, True, False, ("xx", "xx")),
    "se_adlif": ("diagonal", 1, 2, False, False, True, ("xx", "xx")),
    "selective_ssm": ("diagonal", 1, 4, True, True, False, ("x000", "0x00", "00x0", "000x")),
    "slstm": ("diagonal", 1, 4, False, False, False, ("x0xx", "0xxx", "00xx", "xxxx")),
    "slstm_exp": ("diagonal", 1, 4, False, False, False, ("x0xx", "0xxx", "00xx", "xxxx")),
    "sru": ("diagonal", 1, 1, False, True, False, ("x",)),
    "stuart_landau": ("diagonal", 1, 2, False, True, False, ("xx", "xx")),
    "synaptic": ("diagonal", 1, 2, False, False, True, ("x0", "xx")),
    "tc_lif": ("diagonal", 1, 2, False, False, True, ("1x", "xx")),
    "titans_linear": ("diagonal", 1, 2, True, True, False, ("xx", "xx")),
    "titans_tanh": ("diagonal", 1, 2, False, True, False, ("xx", "xx")),
    "ugrnn": ("diagonal", 1, 1, False, True, False, ("x",)),
    "unicornn": ("diagonal", 1, 2, False, True, False, ("1x", "xx")),
    "van_der_pol": ("diagonal", 1, 2, False, True, False, ("x1", "11")),
    "wilson_cowan": ("diagonal", 1, 2, False, True, False, ("xx", "xx")),
    "zoneout_gru": ("diagonal", 1, 1, False, True, False, ("x",)),
}


def structure_of(folder: Path, body: str, signature: str = ONE) -> Structure:
    return classify(traced(folder, body, signature))


def test_every_shipped_cell_has_its_structure_here() -> None:
    assert sorted(SHIPPED) == [path.stem for path in shipped()]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_cell_has_the_structure_of_its_paper(name: str) -> None:
    s = classify(trace(find(name)))
    got = (s.kind, s.group, s.block, s.affine, s.smooth, s.spiking, s.pattern)
    assert got == SHIPPED[name]


# --- which channels couple -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "signature", "kind", "group", "block"),
    [
        ("return a * h + x", ONE, "diagonal", 1, 1),
        ("return c + x * h, h", TWO, "diagonal", 1, 2),
        ("return R @ h + x", BLOCK, "block", 2, 2),
        ("return R @ h + x", "h: State, x: Input, R: Matrix(block=8)", "block", 8, 8),
        ("return R @ h + x", "h: State, x: Input, R: Matrix(block=3)", "block", 3, 3),
        ("return R @ c + h, h + x", TWO + ", R: Matrix(block=4)", "block", 4, 8),
        # a matrix of one channel couples nothing; nor does one that mixes inputs only
        ("return R @ h + x", "h: State, x: Input, R: Matrix(block=1)", "diagonal", 1, 1),
        ("return h * 0.5 + R @ x", BLOCK, "diagonal", 2, 1),
        # blocks of 2 and 4 in one cell: groups of 4
        ("return R @ h + Q @ x", BLOCK + ", Q: Matrix(block=4)", "block", 4, 2),
        ("return R @ x + Q @ h", BLOCK + ", Q: Matrix(block=4)", "block", 4, 4),
        ("return R @ h + Q @ h * x", BLOCK + ", Q: Matrix(block=4)", "block", 4, 4),
        ("return R @ h + Q @ h * x", BLOCK + ", Q: Matrix(block=3)", "block", 6, 6),
        # through lets, and only in one of two states
        ("u = R @ h\nreturn tanh(u * x)", BLOCK, "block", 2, 2),
        ("return c * x, h + R @ h", TWO + ", R: Matrix(block=2)", "block", 2, 4),
        # by a condition or a spike, which have no slope
        ("return where(R @ h > 0, x, h)", BLOCK, "block", 2, 2),
        ("return spike(R @ h - 1) + x", BLOCK, "block", 2, 2),
    ],
)
def test_channels_couple_where_a_matrix_reads_the_state(
    body: str, signature: str, kind: str, group: int, block: int, tmp_path: Path
) -> None:
    s = structure_of(tmp_path, body, signature)
    assert (s.kind, s.group, s.block) == (kind, group, block)


def test_coupling_that_cancels_is_none(tmp_path: Path) -> None:
    body = "u = R @ h\nreturn {'h': h + x + (u - u), 'y': u}"
    s = structure_of(tmp_path, body, BLOCK)
    assert (s.kind, s.group) == ("diagonal", 2)


@pytest.mark.parametrize(
    "body",
    [
        "return R @ h + x",
        "u = tanh(R @ h)\nreturn u * x",
        "return h + R @ x",
    ],
)
def test_a_matrix_without_block_is_refused(body: str, tmp_path: Path) -> None:
    with pytest.raises(StructureError, match="channels couple"):
        structure_of(tmp_path, body, "h: State, x: Input, R: Matrix")


@pytest.mark.parametrize("steps", [-90, -3, -1, 1, 2, 23, 24, 90])
def test_a_shift_of_any_distance_is_refused(steps: int, tmp_path: Path) -> None:
    with pytest.raises(StructureError, match="channels couple"):
        structure_of(tmp_path, f"return a * shift(h, {steps}) + x")


@pytest.mark.parametrize(
    "body",
    [
        "return a * mean(h) + x",
        "return a * h + mean(x)",
        "return mean(a) * h + x",
        "u = h * x\nv = mean(u)\nreturn v + a * h",
    ],
)
def test_a_mean_of_anything_is_refused(body: str, tmp_path: Path) -> None:
    with pytest.raises(StructureError, match="channels couple"):
        structure_of(tmp_path, body)


@pytest.mark.parametrize(("block", "states"), [(65, 1), (33, 2), (22, 3), (80, 1)])
def test_blocks_of_more_than_64_are_refused(block: int, states: int, tmp_path: Path) -> None:
    names = [f"s{i}" for i in range(states)]
    signature = ", ".join(f"{n}: State" for n in names) + f", x: Input, R: Matrix(block={block})"
    body = f"return {', '.join(f'R @ {n} + x' for n in names)}"
    with pytest.raises(StructureError, match=f"give blocks of {block * states}"):
        structure_of(tmp_path, body, signature)


@pytest.mark.parametrize(("block", "states"), [(8, 1), (4, 2), (2, 4), (1, 8)])
def test_blocks_of_8_are_proved(block: int, states: int, tmp_path: Path) -> None:
    names = [f"s{i}" for i in range(states)]
    signature = ", ".join(f"{n}: State" for n in names) + f", x: Input, R: Matrix(block={block})"
    total = " + ".join(names)
    body = f"u = R @ ({total}) + x\nreturn {', '.join(f'tanh(u * {n})' for n in names)}"
    s = structure_of(tmp_path, body, signature)
    assert s.block == 8
    assert s.pattern == ("x" * 8,) * 8


# --- inside a block --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "pattern"),
    [
        ("return c, h + x", ("10", "01")),
        ("return h, c + x", ("01", "10")),
        ("return x * 2, c * h", ("00", "xx")),
        ("return c + h, h + x", ("11", "01")),
        ("return 0.5 * c + h, x * h", ("11", "0x")),
        ("return tanh(c) + x, x * c + h", ("x0", "x1")),
        ("u = c * x\nreturn u, tanh(u) * h", ("x0", "xx")),
    ],
)
def test_zeros_and_constants_of_the_jacobian_are_seen(
    body: str, pattern: tuple[str, ...], tmp_path: Path
) -> None:
    assert structure_of(tmp_path, body, TWO).pattern == pattern


def test_the_pattern_of_a_group_orders_states_then_channels(tmp_path: Path) -> None:
    signature = TWO + ", R: Matrix(block=2)"
    s = structure_of(tmp_path, "return R @ c + x, h * 0.5 + c", signature)
    assert s.pattern == ("xx00", "xx00", "1010", "0101")


@pytest.mark.parametrize(
    ("body", "affine"),
    [
        ("return a * h + x", True),
        ("return sigmoid(x) * h + tanh(a)", True),
        ("return h / (1 + x * x) + a", True),
        ("return (h + x) * (a + x)", True),
        ("return where(x > a, h, 0.5 * h)", True),
        ("u = h * a\nreturn u * x + u", True),
        ("return h * h * a + x", False),
        ("return tanh(h * a) + x", False),
        ("return a / h + x", False),
        ("return abs(h) * a + x", False),
        ("return where(h > 0, a, x)", False),
        ("return where(h > x, h, a * h)", False),
        ("up = h > 0\nu = where(up, 1, 2)\nreturn h + u * a * x", False),
        ("u = h * x\nreturn h + where(u == a, 1, 2)", False),
        ("return maximum(h, x) * a", False),
        ("return sign(h) * a + x", False),
        ("return spike(h - a) + x", False),
        ("return clip(h, -1, 1) * a + x", False),
    ],
)
def test_a_cell_is_affine_if_its_next_state_is(body: str, affine: bool, tmp_path: Path) -> None:
    assert structure_of(tmp_path, body).affine is affine


def test_a_product_of_two_states_is_not_affine(tmp_path: Path) -> None:
    assert not structure_of(tmp_path, "return c * x, c * h", TWO).affine
    assert structure_of(tmp_path, "return c * x + h, c - h * x", TWO).affine


@pytest.mark.parametrize(
    ("body", "smooth", "spiking"),
    [
        ("return tanh(h) * a + x", True, False),
        ("return relu(h) * a + x", False, False),
        ("return abs(h) * a + x", False, False),
        ("return where(h > 0, a, x)", False, False),
        ("return minimum(h, a) + x", False, False),
        ("return spike(h - a) + x", False, True),
        ("return h * a + spike(x)", False, True),
    ],
)
def test_kinks_and_spikes_are_seen(body: str, smooth: bool, spiking: bool, tmp_path: Path) -> None:
    s = structure_of(tmp_path, body)
    assert (s.smooth, s.spiking) == (smooth, spiking)


@pytest.mark.parametrize(
    ("body", "readouts"),
    [
        ("return c * x, c + x + h", ()),
        ("return {'c': c + x, 'h': c * x, 'y': h}", ("h",)),
        ("return {'c': x * 2, 'h': x * 3, 'y': h + c}", ("c", "h")),
        ("return h + x, c", ()),
        # read by a condition or a spike only: no slope, and fed back all the same
        ("return x * c, where(h > 0, 1, c)", ()),
        ("return spike(h - 1) * x, c * x", ()),
    ],
)
def test_states_that_feed_nothing_back_are_readouts(
    body: str, readouts: tuple[str, ...], tmp_path: Path
) -> None:
    assert structure_of(tmp_path, body, TWO).readouts == readouts


# --- what is said ----------------------------------------------------------------------------


def test_the_proof_says_what_was_shown(tmp_path: Path) -> None:
    assert structure_of(tmp_path, "return a * h + x").proof == (
        "diagonal: the Jacobian over 3 channels (9 entries) is zero between channels, "
        "so each channel stands alone.\n"
        "blocks of 1 (1 state x 1 channel), affine in the state, smooth."
    )
    body = "return {'c': tanh(R @ c) + x, 'h': relu(c), 'y': h}"
    assert structure_of(tmp_path, body, TWO + ", R: Matrix(block=2)").proof == (
        "block: the Jacobian over 4 channels (64 entries) is zero between groups, "
        "so groups of 2 channels couple.\n"
        "blocks of 4 (2 states x 2 channels), nonlinear in the state, with kinks.\n"
        "not fed back: h."
    )


def test_a_structure_prints_its_proof_and_sums_up_without_it(tmp_path: Path) -> None:
    s = structure_of(tmp_path, "return a * h + x")
    assert str(s) == s.proof
    assert "proof" not in s.summary()
    assert s.summary()["pattern"] == ["x"]
