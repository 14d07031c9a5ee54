"""`rnncc check`: equations, Jacobian, proof, cost, a plan for a shape; options that need others."""

import json
import re
import sys

import pytest

from tests.support.command_line import call, data, good, refused


def test_check_shows_equations_jacobian_proof_arguments_and_cost() -> None:
    text = good("check", "para_gru")
    sections = "Recurrence Jacobian Structure Arguments Cost".split()
    found = [re.search(rf"^{section}", text, re.MULTILINE) for section in sections]
    assert [m.start() for m in found if m] == sorted(m.start() for m in found if m)
    assert len([m for m in found if m]) == len(sections)
    for line in (
        "  z = sigmoid(az*h + xz)                              # update gate",
        "  d h' / d h = dh_next_dh",
        "is zero between channels, so each channel stands alone.",
        "  az    param  [N]        uniform(-1, 1)",
        "2 sigmoid, 1 tanh",
        "12 B (xz; xr; xc)",
        "4.25 B (h; states, every 16 steps in training)",
        "12 B (dxz; dxr; dxc)",
        "Next: rnncc compile para_gru",
    ):
        assert line in text


def test_check_names_unnamed_parts_that_the_jacobian_reads() -> None:
    assert "u_0 = clip(beta, 0, 1)" in good("check", "lif").partition("Jacobian")[2]


def test_check_shows_the_pattern_of_a_block_and_shortens_a_long_jacobian() -> None:
    text = good("check", "block_elman")
    assert "  h_ch0'     x     x     x     x" in text.splitlines()
    assert "more lines: rnncc show block_elman --stage jacobian" in text
    assert "matrix  [N / 4, 4, 4]  uniform(-0.5, 0.5)" in text


def test_check_as_data_holds_the_same() -> None:
    found = data("check", "para_gru")
    assert found["recurrence"]["lets"][0] == {
        "name": "z",
        "expr": "sigmoid(az*h + xz)",
        "note": "update gate",
        "line": 16,
    }
    assert found["jacobian"]["entries"] == [["dh_next_dh"]]
    assert found["structure"]["kind"] == "diagonal"
    assert found["arguments"][4] == {
        "name": "az",
        "role": "param",
        "shape": "[N]",
        "init": "uniform(-1, 1)",
    }
    assert found["cost"]["forward"]["functions"] == {"sigmoid": 2, "tanh": 1}
    assert found["cost"]["backward"]["writes"] == {"dxz": 4, "dxr": 4, "dxc": 4}
    assert found["source"] == "Danieli et al. 2025, arXiv:2510.21450."


def test_check_for_a_shape_prints_the_plan() -> None:
    assert "[8, 64, 32] float32: sequential" in good("check", "elman", "--shape", "8x64x32")
    assert data("check", "elman", "--shape", "8x64x32")["plan"].startswith("[8, 64, 32] float32")


def test_without_matplotlib_drawing_exits_with_3_before_it_probes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = refused(3, "check", "elman", "--plot", "seen.png")
    assert message.startswith("--plot: matplotlib can't be imported: ")
    assert message.endswith("\nFix: pip install 'rnncc[plot]'\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--plot", "seen.jpg"), "got 'seen.jpg', expected a name that ends in .png"),
        (("--weights", "3"), "--weights is an option of the probe: give --probe too"),
        (("--steps", "99"), "--steps is an option of the probe: give --probe too"),
    ],
)
def test_wrong_options_of_the_probe_are_wrong_usage(words: tuple[str, ...], message: str) -> None:
    assert message in refused(2, "check", "elman", *words)


def test_a_probe_that_does_not_fit_exits_with_1() -> None:
    message = refused(1, "check", "block_elman", "--probe", "--channels", "6")
    assert message.startswith("channels: got 6, expected a multiple of 4")


def test_set_changes_a_constant() -> None:
    assert data("check", "lif", "--set", "slope=10", "--set", "threshold=0.5")["constants"] == {
        "threshold": 0.5,
        "slope": 10,
    }


def test_check_exits_with_1_and_a_witness_where_channels_couple() -> None:
    message = refused(1, "check", "mix.py")
    assert message.startswith("mix.py:6: cell 'mix': channels couple: d h[0] / d h[1] = ")
    assert "\nFix: mix within groups with Matrix(block=k)" in message


def test_check_exits_with_1_where_an_argument_is_not_used() -> None:
    assert refused(1, "check", "wrong.py").startswith(
        "wrong.py:5: cell 'wrong': the argument 'y' is not used.\n"
    )


def test_prints_of_the_cells_file_stay_away_from_the_results() -> None:
    result = call("check", "loud.py", "--json")
    assert json.loads(result.stdout)["name"] == "loud"
    assert "hello from the file" in result.stderr
    assert "hello from the cell" in result.stderr


def test_check_plans_for_a_gpu_and_prints_the_least_time() -> None:
    shape = ("--shape", "8x2048x4096", "--device", "H100", "--dtype", "bfloat16")
    text = good("check", "para_gru", *shape)
    assert "a thread for each sequence and group of channels" in text
    assert "Least time on H100 SXM 80 GB, bfloat16" in text
    assert "An estimate from the datasheet" in text
    roofline = data("check", "para_gru", *shape)["roofline"]
    assert roofline["dtype"] == "bfloat16"
    # 3 inputs and an output of 2 bytes, and a saved state of 4 bytes every 8 steps
    assert roofline["forward"]["bytes"] == pytest.approx(8.5 * 8 * 2048 * 4096)


def test_a_gpu_that_is_not_known_is_refused() -> None:
    message = refused(1, "check", "lif", "--shape", "1x1x1", "--device", "voodoo2")
    assert "device: got 'voodoo2', expected one of H100, " in message
