"""Lower: opaque parts get names, and one group of channels is written out as scalars."""

from __future__ import annotations

from pathlib import Path

import pytest

from rnncc.calculus.lower import flatten, group_size, lower
from rnncc.ir import functions
from rnncc.ir.functions import MIXING, Opaque
from rnncc.ir.program import CellIR, Program
from rnncc.lang.loader import find, shipped
from rnncc.lang.trace import trace
from tests.support.cells import traced

CELLS = [path.stem for path in shipped()]


def lines(program: Program | CellIR) -> list[str]:
    return [str(let).split("  #")[0].rstrip() for let in program.lets]


# --- naming subexpressions -------------------------------------------------------------------


def test_a_part_of_a_let_is_named_after_it(tmp_path: Path) -> None:
    ir = traced(tmp_path, "z = tanh(exp(h * a) * x)\nreturn z * sigmoid(x) + exp(h)")
    assert lines(lower(ir, 1)) == [
        "z_0 = exp(a*h)",
        "z = tanh(x*z_0)",
        "h_next_0 = sigmoid(x)",
        "h_next_1 = exp(h)",
        "h_next = h_next_0*z + h_next_1",
    ]


def test_a_new_let_renumbers_no_other(tmp_path: Path) -> None:
    body = "z = tanh(exp(h * a) * x)\n{}return z * sigmoid(x)"
    before = lines(lower(traced(tmp_path, body.format("")), 1))
    after = lines(lower(traced(tmp_path, body.format("w = exp(sin(h))\nz2 = w * x\n")), 1))
    assert before == after
    used = lines(lower(traced(tmp_path, body.format("w = exp(sin(h))\n") + " + w"), 1))
    assert used[:2] == before[:2]
    assert used[2:4] == ["w_0 = sin(h)", "w = exp(w_0)"]


def test_a_part_gives_way_to_a_name_of_the_author(tmp_path: Path) -> None:
    body = "z_0 = a * h\nz_1 = z_0 * x\nz = tanh(exp(z_1) * sin(z_0))\nreturn z"
    assert lines(lower(traced(tmp_path, body), 1)) == [
        "z_0 = a*h",
        "z_1 = x*z_0",
        "z_2 = exp(z_1)",
        "z_3 = sin(z_0)",
        "z = tanh(z_2*z_3)",
    ]


def test_functions_of_functions_are_computed_once_in_a_cell_of_many_lets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A let of another can be read by itself, and keeps its last bits."""
    body = "t = [tanh(exp(h * a)), exp(x)]\ny = t[0] / t[1]\nreturn y - t[0] * t[1]"
    ir = traced(tmp_path, body)
    y = ["y_0 = exp(a*h)", "y_1 = tanh(y_0)", "y_2 = exp(x)", "y = div(y_1, y_2)"]
    assert lines(lower(ir, 1)) == [
        *y,
        "h_next_0 = exp(x)",
        "h_next_1 = exp(a*h)",
        "h_next_2 = tanh(h_next_1)",
        "h_next = -h_next_0*h_next_2 + y",
    ]
    monkeypatch.setattr("rnncc.calculus.lower.MANY_LETS", 7)
    assert lines(lower(ir, 1)) == [*y, "h_next_0 = exp(x)", "h_next = -h_next_0*y_1 + y"]


def test_a_part_that_occurs_twice_in_a_let_is_computed_once(tmp_path: Path) -> None:
    program = lower(traced(tmp_path, "return exp(h * a) + x / (1 + exp(h * a))"), 1)
    assert sum(str(let.expr).startswith("exp(") for let in program.lets) == 1


def test_a_quotient_by_a_symbol_is_named_so_that_its_derivative_needs_no_square(
    tmp_path: Path,
) -> None:
    program = lower(traced(tmp_path, "return a * x / (1 + h * h)"), 1)
    assert lines(program) == ["h_next_0 = h**2 + 1", "h_next = div(a*x, h_next_0)"]


def test_a_quotient_by_a_number_stays_arithmetic(tmp_path: Path) -> None:
    assert lines(lower(traced(tmp_path, "return a * h / 3 + x / 0.5"), 1)) == [
        "h_next = a*h/3 + 2.0*x"
    ]


def test_notes_and_lines_stay_with_their_let_only(tmp_path: Path) -> None:
    ir = traced(tmp_path, "z = tanh(exp(h * a) * x)  # gate\nreturn z")
    flat = flatten(ir).lets
    assert [(let.name, let.note) for let in flat] == [("z_0", ""), ("z", "gate")]
    assert flat[0].line == flat[1].line


@pytest.mark.parametrize("name", CELLS)
def test_every_let_is_arithmetic_or_one_function_of_arithmetic(name: str) -> None:
    ir = trace(find(name))
    for let in lower(ir, group_size(ir)).lets:
        inner = let.expr.args if isinstance(let.expr, Opaque) else (let.expr,)
        nested = {o for arg in inner for o in arg.atoms(Opaque)}
        assert all(isinstance(o, functions.Comparison) for o in nested), let
        assert not let.expr.atoms(*MIXING)


@pytest.mark.parametrize("name", CELLS)
def test_every_name_is_defined_before_it_is_used_and_only_once(name: str) -> None:
    ir = trace(find(name))
    program = lower(ir, group_size(ir))
    known = [s.name for s in program.arguments]
    for let in program.lets:
        assert {s.name for s in let.expr.free_symbols} <= set(known)
        known.append(let.name)
    assert len(known) == len(set(known))
    assert {s.name for s in (*program.next, *program.outputs)} <= set(known)


# --- writing out channels --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("blocks", "size"), [((), 1), ((2,), 2), ((2, 4), 4), ((2, 3), 6), ((1,), 1), ((4, 4), 4)]
)
def test_a_group_is_the_least_common_multiple_of_the_blocks(
    blocks: tuple[int, ...], size: int, tmp_path: Path
) -> None:
    signature = "h: State, x: Input" + "".join(
        f", R{i}: Matrix(block={k})" for i, k in enumerate(blocks)
    )
    total = " + ".join(["h * 0.5 + x", *(f"R{i} @ x" for i in range(len(blocks)))])
    assert group_size(traced(tmp_path, f"return {total}", signature)) == size


def test_a_matrix_product_is_written_out_within_its_blocks(tmp_path: Path) -> None:
    signature = "h: State, x: Input, R: Matrix(block=2), dt: Input(shared=True)"
    program = lower(traced(tmp_path, "return R @ h * dt + x", signature), 4)
    assert lines(program) == [
        "h_next_0_ch0 = R_0_0*h_ch0 + R_0_1*h_ch1",
        "h_next_0_ch1 = R_1_0*h_ch0 + R_1_1*h_ch1",
        "h_next_0_ch2 = R_2_2*h_ch2 + R_2_3*h_ch3",
        "h_next_0_ch3 = R_3_2*h_ch2 + R_3_3*h_ch3",
        *(f"h_next_ch{i} = dt*h_next_0_ch{i} + x_ch{i}" for i in range(4)),
    ]


def test_slots_say_where_each_scalar_lies(tmp_path: Path) -> None:
    signature = "h: State, g: State, x: Input, dt: Input(shared=True), a: Param, R: Matrix(block=2)"
    program = lower(traced(tmp_path, "return R @ h * dt + x, g * a", signature), 2)
    assert [(s.symbol.name, s.tensor, s.offset, s.stride) for s in program.states] == [
        ("h_ch0", 0, 0, 2),
        ("h_ch1", 0, 1, 2),
        ("g_ch0", 1, 0, 2),
        ("g_ch1", 1, 1, 2),
    ]
    assert [(s.symbol.name, s.tensor, s.offset, s.stride) for s in program.inputs] == [
        ("x_ch0", 0, 0, 2),
        ("x_ch1", 0, 1, 2),
        ("dt", 1, 0, 0),
    ]
    assert [(s.symbol.name, s.tensor, s.offset, s.stride) for s in program.params] == [
        ("a_ch0", 0, 0, 2),
        ("a_ch1", 0, 1, 2),
        ("R_0_0", 1, 0, 4),
        ("R_0_1", 1, 1, 4),
        ("R_1_0", 1, 2, 4),
        ("R_1_1", 1, 3, 4),
    ]


def test_smaller_blocks_of_a_group_follow_each_other_in_their_tensor(tmp_path: Path) -> None:
    signature = "h: State, x: Input, R: Matrix(block=2), Q: Matrix(block=4)"
    program = lower(traced(tmp_path, "return R @ h + Q @ x", signature), 4)
    of_r = [(s.symbol.name, s.offset, s.stride) for s in program.params if s.tensor == 0]
    assert of_r == [
        (f"R_{i}_{i // 2 * 2 + j}", 2 * i + j, 8) for i in range(4) for j in range(2)
    ]  # fmt: skip
    assert [s.offset for s in program.params if s.tensor == 1] == list(range(16))


def test_outputs_and_readouts_are_told_apart(tmp_path: Path) -> None:
    body = "u = a * h + x\nreturn {'h': u, 'y': u, 'z': x, 'w': x}"
    program = lower(traced(tmp_path, body), 1)
    assert [str(v) for v in program.outputs] == ["u", "x", "x"]
    assert [str(v) for v in program.readouts] == ["x"]


def test_shift_reads_zero_beyond_the_edge(tmp_path: Path) -> None:
    assert lines(lower(traced(tmp_path, "return a * shift(h, 1) + x"), 2)) == [
        "h_next_0_ch0 = 0",
        "h_next_0_ch1 = h_ch0",
        "h_next_ch0 = a_ch0*h_next_0_ch0 + x_ch0",
        "h_next_ch1 = a_ch1*h_next_0_ch1 + x_ch1",
    ]


def test_mean_reads_all_channels(tmp_path: Path) -> None:
    assert lines(lower(traced(tmp_path, "return a * mean(h) + x"), 2)) == [
        "h_next_0_ch0 = h_ch0/2 + h_ch1/2",
        "h_next_0_ch1 = h_ch0/2 + h_ch1/2",
        "h_next_ch0 = a_ch0*h_next_0_ch0 + x_ch0",
        "h_next_ch1 = a_ch1*h_next_0_ch1 + x_ch1",
    ]


def test_names_of_channels_and_entries_stay_apart_from_those_of_shared_arguments(
    tmp_path: Path,
) -> None:
    signature = "h: State, x: Input, h_ch0: Input(shared=True), R: Matrix(block=2), "
    signature += "R_0_1: Param(shared=True), h_ch0_: Param(shared=True)"
    program = lower(traced(tmp_path, "return R @ h + x * h_ch0 * R_0_1 * h_ch0_", signature), 2)
    names = [str(symbol) for symbol in program.arguments]
    assert names == [
        *("h_ch0__", "h_ch1", "x_ch0", "x_ch1", "h_ch0"),
        *("R_0_0", "R_0_1_", "R_1_0", "R_1_1", "R_0_1", "h_ch0_"),
    ]
    assert str(program.lets[0].expr) == "R_0_0*h_ch0__ + R_0_1_*h_ch1"
