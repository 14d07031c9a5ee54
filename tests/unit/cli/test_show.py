"""`rnncc show`: the summary, and every stage."""

import re
from pathlib import Path

import pytest

import rnncc
from rnncc.cli.show import STAGES
from tests.support.command_line import UNITS, data, good, refused, written


@pytest.mark.parametrize(
    ("stage", "line"),
    [
        ("recurrence", "  z = sigmoid(az*h + xz)                              # update gate"),
        ("latex", r"  z_t &= \sigma(x_{z,t} + a_z\,h_{t-1}) && \text{update gate} \\"),
        ("lets", "r = sigmoid(ar*h + xr)                              # reset gate"),
        ("jacobian", "d h' / d h = dh_next_dh"),
        ("structure", "h' x"),
        ("adjoint", "d_xz = g_z_arg"),
        ("cpp", "RNNCC_FN void para_gru_adjoint("),
        ("cuda", "RNNCC_FN void para_gru_adjoint("),
        ("torch", "    z = (torch.sigmoid(az*h + xz))"),
    ],
)
def test_show_prints_a_stage(stage: str, line: str) -> None:
    text = good("show", "para_gru", "--stage", stage)
    assert line in text.splitlines()
    assert data("show", "para_gru", "--stage", stage) == {
        "name": "para_gru",
        "stage": stage,
        "text": text.removesuffix("\n"),
    }


def test_show_without_a_stage_says_what_a_cell_is_and_how_to_use_it() -> None:
    text = good("show", "para_gru")
    for line in (
        "  GRU with diagonal state-to-state weights.",
        "  z = sigmoid(az*h + xz)                              # update gate",
        "  diagonal, blocks of 1, nonlinear, smooth",
        "  h     state  [B, N]     0",
        "  y, h = layer(x)",
        "  y = para_gru(xz, xr, xc, az, ar, ac)",
        "More: rnncc check para_gru, rnncc show para_gru --stage latex",
    ):
        assert line in text.splitlines()
    found = data("show", "para_gru")
    assert found["source"] == "Danieli et al. 2025, arXiv:2510.21450."
    assert found["doc"] == "GRU with diagonal state-to-state weights."
    assert found["structure"]["kind"] == "diagonal"
    assert (
        found["recurrence"][0]
        == "z = sigmoid(az*h + xz)                              # update gate"
    )


def test_show_says_which_inputs_a_layer_is_given() -> None:
    Path("masked.py").write_text(
        "from rnncc import Input, State, cell\n\n\n@cell\n"
        "def masked(h: State, x: Input, mask: Input(projected=False)):\n    return mask * h + x\n"
    )
    lines = good("show", "masked.py").splitlines()
    assert "  mask  input, given  [B, T, N]  given at each step, like uniform(0, 1)" in lines
    assert "  y, h = layer(x, mask=mask)" in lines


def test_show_has_the_units_of_the_docstring_and_what_inputs_are_like() -> None:
    Path("membrane.py").write_text(UNITS)
    found = data("show", "membrane.py", "--set", "tau=7")
    assert found["fields"] == ["neuroscience"]
    assert {row["name"]: row["init"] for row in found["arguments"]} == {
        "v": "-65 mV",
        "w": "0",
        "h": "0",
        "I": "given at each step, in uA/cm2, like uniform(0, 20)",
        "g": "given at each step; init of its bias: constant(1)",
        "dt": "given at each step, in ms, like uniform(0, 1)",
        "tau": "7, changed by --set tau=...",
    }


def test_every_stage_is_explained_in_the_help() -> None:
    text = good("show", "--help")
    for stage, words in STAGES.items():
        assert re.search(rf"^ +{stage} +{re.escape(words)}$", text, re.MULTILINE)


def test_the_emitted_code_that_show_prints_is_what_compile_writes() -> None:
    good("compile", "elman")
    files = written("generated/elman")
    for stage, kernel in (("cpp", "kernel.cpp"), ("cuda", "kernel.cu")):
        shown = good("show", "elman", "--stage", stage)
        assert shown.startswith(files["cell.h"].partition("#ifdef")[0])
        assert shown.endswith(files[kernel])


def test_the_code_is_shown_for_its_own_target_only() -> None:
    on_cpu, on_gpu = (good("show", "elman", "--stage", stage) for stage in ("cpp", "cuda"))
    assert "struct Lanes" in on_cpu
    assert "struct Lane " not in on_cpu
    assert "struct Lane " in on_gpu
    assert "struct Lanes" not in on_gpu


def test_whole_code_is_what_is_compiled() -> None:
    text = data("show", "elman", "--stage", "cuda", "--whole")["text"]
    assert text + "\n" == rnncc.compile("elman").source("cuda")
    assert '#include "' not in text


def test_only_code_can_be_shown_whole() -> None:
    message = refused(2, "show", "elman", "--stage", "lets", "--whole")
    assert "--whole is for --stage cpp and cuda" in message


def test_a_stage_that_does_not_exist_is_wrong_usage() -> None:
    message = refused(2, "show", "para_gru", "--stage", "fortran")
    assert "'fortran' is not one of 'recurrence', 'lets', 'jacobian'" in message


def test_arch_and_dtype_are_for_the_stages_of_a_gpu() -> None:
    message = refused(2, "show", "elman", "--arch", "sm_80")
    assert "--arch is for --stage ptx, sass and resources" in message
    message = refused(2, "show", "elman", "--fast-math")
    assert "--fast-math is for --stage cuda, ptx, sass and resources" in message
