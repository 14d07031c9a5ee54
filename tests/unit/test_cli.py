"""The command line: every command, its --json, its exit codes, and what each failure says."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner, Result

import rnncc
from rnncc import __version__
from rnncc.bench import timing
from rnncc.cli import main as cli
from rnncc.cli import starter, terminal
from rnncc.errors import BuildError, LoadError
from rnncc.lang.loader import find, shipped

ROOT = Path(__file__).parents[2]
COMMANDS = ("check", "compile", "show", "list", "new", "bench", "doctor")

COUPLED = """
from rnncc import Input, Matrix, State, cell, tanh

@cell
def mix(h: State, x: Input, R: Matrix):
    return tanh(R @ h + x)
"""
WRONG = """
from rnncc import Input, State, cell

@cell
def wrong(h: State, x: Input, y: Input):
    return h + x
"""
LOUD = """
from rnncc import Input, State, cell
print("hello from the file")

@cell
def loud(h: State, x: Input):
    print("hello from the cell")
    return 0.5 * h + x
"""


UNITS = '''
"""A membrane.

v is its potential (mV), w a current, which grows (in a way); I is in uA/cm2, dt in ms.
Field: neuroscience.
Source: nobody, who measured h in mV.
"""
from rnncc import Input, State, cell, constant, uniform

@cell
def membrane(
    v: State(init=-65), w: State, h: State, I: Input(typical=uniform(0, 20)),
    g: Input(bias=constant(1)), dt: Input(shared=True), tau=5.0,
):
    return {"v": v + dt * (I - w - h - v) / tau, "w": w + g * v, "h": h / 2, "a": v, "b": w}
'''


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with cells that can't be compiled in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RNNCC_TRACEBACK", raising=False)
    for name, text in (("mix", COUPLED), ("wrong", WRONG), ("loud", LOUD)):
        Path(f"{name}.py").write_text(text)
    return tmp_path


def call(*words: str) -> Result:
    """Run the command line in this process."""
    return CliRunner().invoke(cli.main, words, prog_name="rnncc")


def good(*words: str) -> str:
    result = call(*words)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def data(*words: str, exit_code: int = 0) -> dict[str, Any]:
    """What --json prints: one object on stdout, and nothing on stderr."""
    result = call(*words, "--json")
    assert (result.exit_code, result.stderr) == (exit_code, "")
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def refused(exit_code: int, *words: str) -> str:
    """What a failure says on stderr; stdout stays empty."""
    result = call(*words)
    assert (result.exit_code, result.stdout) == (exit_code, "")
    return result.stderr


def process(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m rnncc` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "rnncc", *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
        check=False,
    )


# --- all commands ----------------------------------------------------------------------------


def test_help_lists_the_commands_in_the_order_of_use() -> None:
    text = good("--help")
    found = [text.index(f"\n  {command} ") for command in COMMANDS]
    assert found == sorted(found)
    assert "Exit codes: 0 done, 1 the cell or input is at fault" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_ends_with_examples(command: str) -> None:
    examples = re.findall(rf"^  +rnncc {command}\b", good(command, "--help"), re.MULTILINE)
    assert 2 <= len(examples) <= 4


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_json_and_traceback(command: str) -> None:
    text = good(command, "-h")
    assert "--json" in text
    assert "--traceback" in text


def test_version_is_the_packages() -> None:
    assert process("--version").stdout == f"rnncc {__version__}\n"


@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        (["--help"], ["torch", "sympy", "pydantic", "rich"]),
        (["new", "some_cell"], ["torch", "pydantic", "rich"]),
        (["check", "elman"], ["torch", "rich"]),
        (["compile", "elman"], ["torch", "rich"]),
        (["list"], ["torch", "rich"]),
    ],
    ids=lambda words: words[0],
)
def test_a_command_imports_no_more_than_it_needs(words: list[str], heavy: list[str]) -> None:
    program = (
        "import sys\nfrom rnncc.cli.main import main\n"
        f"try: main({words})\nexcept SystemExit as end: assert not end.code\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.splitlines()[-1] == "[]"


# --- check -----------------------------------------------------------------------------------


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


def test_check_names_what_the_jacobian_reads_and_the_author_did_not_name() -> None:
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
        "start": "uniform(-1, 1)",
    }
    assert found["cost"]["forward"]["functions"] == {"sigmoid": 2, "tanh": 1}
    assert found["cost"]["backward"]["writes"] == {"dxz": 4, "dxr": 4, "dxc": 4}
    assert found["source"] == "Danieli et al. 2025, arXiv:2510.21450."


def test_check_for_a_shape_tells_the_plan() -> None:
    assert "[8, 64, 32] float32: sequential" in good("check", "elman", "--shape", "8x64x32")
    assert data("check", "elman", "--shape", "8x64x32")["plan"].startswith("[8, 64, 32] float32")


SMALL_PROBE = ("--probe", "--steps", "64", "--channels", "4")


def test_check_probes_a_cell_and_says_what_it_is() -> None:
    text = good("check", "elman", *SMALL_PROBE, "--weights", "0.5", "--seed", "3")
    for line in (
        r"^Probe of 64 steps and 4 channels, float64$",
        r"^  inputs: as is typical of the cell; params: uniform in \[-0.5, 0.5\]; seed 3$",
        r"^Sweeps until neighbours agree to 1e-12$",
        r"^  16 +4 +\d$",
        r"^  32 +2 +\d$",
        r"^  64 +1 +\d +Newton over all steps; after 6 iterations off by \S+$",
        r"^  -[\d.]+ at most, -[\d.]+ in the median channel$",
        r"^  contracting: what it starts from is forgotten after \d+ steps\.$",
        r"^  auto takes sequential \(one pass over time: .*\)\.$",
        r"^Next: rnncc compile elman$",
    ):
        assert re.search(line, text, re.MULTILINE), f"{line}\n{text}"


def test_check_as_data_holds_the_probe_only_where_it_was_asked_for() -> None:
    found = data("check", "elman", *SMALL_PROBE)["probe"]
    assert (found["verdict"], found["steps"], found["weights"]) == ("contracting", 64, None)
    assert [cut["segments"] for cut in found["sweeps"]] == [16, 32]
    assert "probe" not in data("check", "elman")


def test_check_draws_the_probe() -> None:
    pytest.importorskip("matplotlib")
    drawn = ("--plot", "seen.png", *SMALL_PROBE[1:])
    assert good("check", "elman", *drawn).count("\nseen.png: written.\n") == 1
    assert Path("seen.png").read_bytes().startswith(b"\x89PNG")
    assert data("check", "elman", *drawn)["plot"] == "seen.png"


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


def test_what_the_cells_file_prints_stays_away_from_the_results() -> None:
    result = call("check", "loud.py", "--json")
    assert json.loads(result.stdout)["name"] == "loud"
    assert "hello from the file" in result.stderr
    assert "hello from the cell" in result.stderr


# --- compile ---------------------------------------------------------------------------------


def written(folder: str) -> dict[str, str]:
    return {path.name: path.read_text() for path in Path(folder).iterdir()}


def test_compile_writes_a_package_and_says_how_to_use_it() -> None:
    text = good("compile", "para_gru")
    files = ["__init__.py", "cell.json", "kernel.cpp", "kernel.cu"]
    assert sorted(written("generated/para_gru")) == files
    structure = "diagonal, blocks of 1, nonlinear, smooth"
    assert re.search(rf"  para_gru  generated/para_gru  {structure}  \d+ +\d\.\d\d s\n", text)
    assert text.endswith("Next: from generated.para_gru import ParaGRU, para_gru\n")


def test_compile_as_data_tells_files_and_structure() -> None:
    (found,) = data("compile", "elman", "--out", "some/where")["cells"]
    assert found["name"] == "elman"
    assert found["class"] == "Elman"
    assert found["folder"] == str(Path("some", "where", "elman"))
    assert found["files"] == {n: t.count("\n") for n, t in written("some/where/elman").items()}
    assert found["structure"]["kind"] == "diagonal"
    assert 0 < found["seconds"] < 60


def test_compile_all_writes_every_shipped_cell() -> None:
    found = data("compile", "--all", "--out", "out")["cells"]
    assert [cell["name"] for cell in found] == [path.stem for path in shipped()]
    assert sorted(path.name for path in Path("out").iterdir()) == [c["name"] for c in found]


def test_compile_with_a_constant_says_so_in_the_command_that_repeats_it() -> None:
    good("compile", "lif", "--set", "slope=10")
    assert "rnncc compile cells/lif.py" in written("generated/lif")["kernel.cpp"]
    assert "--set slope=10" in written("generated/lif")["kernel.cpp"]


def test_compile_and_build_fills_the_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNCC_CACHE_DIR", str(folder / "cache"))
    (first,) = data("compile", "elman", "--build")["cells"]
    assert (first["cached"], Path(first["kernel"]).parent) == (False, folder / "cache")
    assert Path(first["kernel"]).is_file()
    assert "kernel from the cache in" in good("compile", "elman", "--build")


def test_a_failed_compile_leaves_the_old_output_in_place() -> None:
    Path("mix.py").write_text(COUPLED.replace("R @ h", "h").replace(", R: Matrix", ""))
    good("compile", "mix.py")
    before = written("generated/mix")
    Path("mix.py").write_text(COUPLED)
    refused(1, "compile", "mix.py")
    assert written("generated/mix") == before
    assert [path.name for path in Path("generated").iterdir()] == ["mix"]


def test_one_cell_that_fails_does_not_stop_the_others() -> None:
    result = call("compile", "mix.py", "elman", "nothing_like_it", "min_gru")
    assert result.exit_code == 1
    assert sorted(path.name for path in Path("generated").iterdir()) == ["elman", "min_gru"]
    assert "  min_gru  generated/min_gru" in result.stdout
    assert "mix.py:6: cell 'mix': channels couple" in result.stderr
    assert "nothing_like_it: no such file" in result.stderr


def test_as_data_what_was_compiled_stands_beside_the_error() -> None:
    found = data("compile", "mix.py", "elman", "wrong.py", exit_code=1)
    assert [cell["name"] for cell in found["cells"]] == ["elman"]
    assert found["error"]["type"] == "StructureError"
    assert [problem["cell"] for problem in found["error"]["problems"]] == ["mix", "wrong"]


def test_two_cells_of_one_name_are_not_written_over_each_other() -> None:
    Path("elman.py").write_text(LOUD.replace("loud", "elman"))
    result = call("compile", "elman", "elman.py")
    assert result.exit_code == 1
    assert "elman.py: a second cell called 'elman'; both would be written to" in result.stderr


def test_compile_does_not_replace_what_it_did_not_write() -> None:
    Path("generated/elman").mkdir(parents=True)
    Path("generated/elman/notes.txt").write_text("mine")
    message = refused(1, "compile", "elman")
    assert "generated/elman: exists and holds other things than rnncc writes: notes.txt" in message
    assert written("generated/elman") == {"notes.txt": "mine"}


def test_compile_without_a_compiler_to_build_with_exits_with_3(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("RNNCC_CACHE_DIR", str(folder / "cache"))
    result = call("compile", "elman", "--build")
    assert result.exit_code == 3
    assert "the compiler 'no-such-compiler' (from the variable CXX) can't" in result.stderr
    assert data("compile", "elman", "--build", exit_code=3)["error"]["type"] == "BuildError"


@pytest.mark.parametrize(
    ("result", "line"),
    [
        ({"folder": "out/lif"}, "from out.lif import LIF, lif"),
        ({"folder": "/out/lif"}, "from lif import LIF, lif"),
        ({"folder": "my-out/lif"}, "from lif import LIF, lif"),
    ],
)
def test_the_import_line_is_one_that_python_takes(result: dict[str, str], line: str) -> None:
    from rnncc.cli import render as pages

    assert pages.import_line(result | {"name": "lif", "class": "LIF"}) == line


# --- show ------------------------------------------------------------------------------------


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
        "  h     state  [B, N]     starts at 0",
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


def test_show_has_the_units_of_the_docstring_and_what_inputs_are_like() -> None:
    Path("membrane.py").write_text(UNITS)
    found = data("show", "membrane.py", "--set", "tau=7")
    assert found["fields"] == ["neuroscience"]
    assert {row["name"]: row["start"] for row in found["arguments"]} == {
        "v": "starts at -65 mV",
        "w": "starts at 0",
        "h": "starts at 0",
        "I": "given at each step, in uA/cm2, like uniform(0, 20)",
        "g": "given at each step; its bias starts as constant(1)",
        "dt": "given at each step, in ms, like uniform(0, 1)",
        "tau": "7, changed by --set tau=...",
    }


def test_the_use_that_show_tells_runs() -> None:
    Path("membrane.py").write_text(UNITS)
    good("compile", "membrane.py")
    lines = data("show", "membrane.py")["use"]
    assert lines[2:] == ["(a, b), (v, w, h) = layer(x, dt=dt)", "a, b = membrane(I, g, dt)"]
    made = (
        "import torch; x, dt = torch.ones(2, 5, 256), torch.ones(2, 5); I = g = x.repeat(1, 1, 2)"
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([made, *lines, "print(a.shape, v.shape)"])],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("torch.Size([2, 5, 512]) torch.Size([2, 512])\n", "")


def test_every_stage_is_explained_in_the_help() -> None:
    text = good("show", "--help")
    for stage, words in cli.STAGES.items():
        assert re.search(rf"^ +{stage} +{re.escape(words)}$", text, re.MULTILINE)


def test_the_emitted_code_that_show_prints_is_what_compile_writes() -> None:
    good("compile", "elman")
    assert good("show", "elman", "--stage", "cpp") == written("generated/elman")["kernel.cpp"]
    assert good("show", "elman", "--stage", "cuda") == written("generated/elman")["kernel.cu"]


def test_a_stage_that_does_not_exist_is_wrong_usage() -> None:
    message = refused(2, "show", "para_gru", "--stage", "fortran")
    assert "'fortran' is not one of 'recurrence', 'lets', 'jacobian'" in message


@pytest.fixture
def nvrtc() -> None:
    """CuPy, NVRTC and nvdisasm, which look at CUDA kernels without a GPU."""
    from rnncc.inspect.sass import find_disassembler

    pytest.importorskip("cupy")
    if find_disassembler() is None:
        pytest.skip("needs nvdisasm")


@pytest.mark.usefixtures("nvrtc")
def test_show_prints_what_a_gpu_makes_of_a_cell_without_one() -> None:
    options = ("--arch", "sm_80", "--dtype", "bfloat16")
    assert ".target sm_80" in good("show", "elman", "--stage", "ptx", *options)
    found = data("show", "elman", "--stage", "sass", *options)
    assert found["arch"] == "sm_80"
    assert found["dtype"] == "bfloat16"
    assert "MUFU.EX2" in found["text"]


@pytest.mark.usefixtures("nvrtc")
def test_show_tells_registers_and_instructions_of_every_kernel() -> None:
    found = data("show", "elman", "--stage", "resources")
    kernels = {kernel["kernel"]: kernel for kernel in found["kernels"]}
    forward = kernels["elman_forward"]
    assert 20 < forward["registers"] < 128
    assert forward["spill_stores"] == 0
    assert forward["steps"] == rnncc.compile(find("elman")).spec.ahead
    text = good("show", "elman", "--stage", "resources")
    assert re.search(rf"elman_forward +128 +{forward['registers']} +none", text)


@pytest.mark.usefixtures("nvrtc")
def test_an_architecture_that_there_is_not_is_refused() -> None:
    message = refused(1, "show", "elman", "--stage", "ptx", "--arch", "sm_1")
    assert "arch: got 'sm_1', but NVRTC" in message


def test_arch_and_dtype_are_for_what_a_gpu_makes_of_a_cell() -> None:
    message = refused(2, "show", "elman", "--arch", "sm_80")
    assert "--arch is for --stage ptx, sass and resources" in message
    message = refused(2, "show", "elman", "--fast-math")
    assert "--fast-math is for --stage cuda, ptx, sass and resources" in message


# --- GPUs by name ----------------------------------------------------------------------------


def test_check_plans_for_a_gpu_and_tells_the_least_time() -> None:
    shape = ("--shape", "8x2048x4096", "--device", "H100", "--dtype", "bfloat16")
    text = good("check", "para_gru", *shape)
    assert "a thread for each sequence and group of channels" in text
    assert "Least time on H100 SXM 80 GB, bfloat16" in text
    assert "An estimate from the datasheet" in text
    roofline = data("check", "para_gru", *shape)["roofline"]
    assert roofline["dtype"] == "bfloat16"
    # 3 inputs and an output of 2 bytes, and a saved state of 4 bytes every 4 steps
    assert roofline["forward"]["bytes"] == pytest.approx(9 * 8 * 2048 * 4096)


def test_a_gpu_that_is_not_known_is_refused() -> None:
    message = refused(1, "check", "lif", "--shape", "1x1x1", "--device", "voodoo2")
    assert "device: got 'voodoo2', expected one of H100, " in message


def test_fast_math_is_repeated_in_the_command_that_writes_the_files_again() -> None:
    good("compile", "elman", "--fast-math")
    assert "rnncc compile cells/elman.py --fast-math\n" in written("generated/elman")["kernel.cu"]
    assert data("show", "elman", "--stage", "cuda", "--fast-math")["text"].count("2^-11") == 2


def test_without_a_gpu_nothing_can_be_built_for_one() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    result = call("compile", "elman", "--target", "cuda", "--build")
    assert result.exit_code == 3
    assert "--target cuda: PyTorch finds no CUDA GPU here" in result.stderr
    assert "kernel.cu" in written("generated/elman")  # what could be done is done


# --- list and new ----------------------------------------------------------------------------


def test_list_has_a_line_for_every_shipped_cell() -> None:
    lines = {line.split()[0]: line for line in good("list").splitlines()[1:]}
    assert sorted(lines) == [path.stem for path in shipped()]
    assert re.match(r"  lru +re, im +diagonal +affine, smooth ", lines["lru"])
    assert re.search(r" groups of 4 channels +nonlinear, smooth ", lines["block_elman"])
    assert "nonlinear, spiking" in lines["lif"]
    assert lines["para_gru"].endswith("  Danieli et al. 2025, arXiv:2510.21450.")


def test_list_as_data_tells_states_structure_field_and_source() -> None:
    found = {cell["name"]: cell for cell in data("list")["cells"]}
    assert sorted(found) == [path.stem for path in shipped()]
    assert found["lstm"]["states"] == ["c", "h"]
    assert found["lru"]["structure"]["affine"]
    assert all(cell["doc"] and cell["source"] for cell in found.values())


def listed(*words: str) -> list[dict[str, Any]]:
    cells = data("list", *words)["cells"]
    assert cells
    return list(cells)


def test_list_has_filters_for_states_structure_and_words() -> None:
    assert {len(cell["states"]) for cell in listed("--states", "2")} == {2}
    assert {cell["structure"]["affine"] for cell in listed("--affine")} == {True}
    assert {cell["structure"]["affine"] for cell in listed("--nonlinear")} == {False}
    assert {cell["structure"]["spiking"] for cell in listed("--spiking")} == {True}
    assert {cell["structure"]["smooth"] for cell in listed("--smooth")} == {True}
    assert "slstm" in [cell["name"] for cell in listed("STABILISER", "gates")]
    assert len(listed("--affine")) + len(listed("--nonlinear")) == len(shipped())


def test_list_has_a_filter_for_a_field_or_a_part_of_its_name() -> None:
    (field, *_) = next(cell["fields"] for cell in listed() if cell["fields"])
    of_the_field = listed("--field", field)
    assert all(field in cell["fields"] for cell in of_the_field)
    assert len(of_the_field) < len(shipped())
    assert listed("--field", field.upper()[:-1]) == of_the_field


def test_filters_that_no_cell_fits_are_told_with_those_that_there_are() -> None:
    text = good("list", "--affine", "--spiking")
    assert text.startswith("No cell that ships fits all of that.\nFilters: words, --states 1 | 2 ")
    assert "--affine | --nonlinear, --spiking, --smooth, --field." in text
    for field in {field for cell in listed() for field in cell["fields"]}:
        assert field in text.splitlines()[-1]
    assert data("list", "nothing_like_it") == {"cells": []}


def test_new_writes_a_cell_that_compiles_as_it_is() -> None:
    assert good("new", "my_cell") == "my_cell.py: written.\nNext: rnncc check my_cell.py\n"
    assert data("check", "my_cell.py")["constants"] == {"bias": 0}
    good("compile", "my_cell.py", "--set", "bias=1")


def test_new_writes_into_a_folder_that_it_makes() -> None:
    assert data("new", "my_cell", "--dir", "my/cells") == {
        "name": "my_cell",
        "file": "my/cells/my_cell.py",
        "like": None,
    }
    assert find("my/cells/my_cell.py").name == "my_cell"


def test_new_replaces_a_file_only_by_force() -> None:
    Path("my_cell.py").write_text("mine")
    assert refused(1, "new", "my_cell") == (
        "my_cell.py: exists.\nFix: another name, --dir another folder, or --force to replace it\n"
    )
    assert Path("my_cell.py").read_text() == "mine"
    good("new", "my_cell", "--force")
    assert "def my_cell(" in Path("my_cell.py").read_text()


def test_new_starts_from_another_cell() -> None:
    assert data("new", "my_gru", "--like", "para_gru")["like"] == "para_gru"
    assert data("check", "my_gru.py")["source"] == "Danieli et al. 2025, arXiv:2510.21450."
    assert good("new", "other", "--like", "my_gru.py").startswith("other.py: written.\n")
    assert data("show", "other.py")["recurrence"] == data("show", "para_gru")["recurrence"]
    assert refused(1, "new", "other", "--like", "para_gru").startswith("other.py: exists.\n")


def test_new_says_of_a_cell_that_is_not_there_that_it_was_to_be_like_it() -> None:
    message = refused(1, "new", "my_gru", "--like", "para_gr")
    assert message.startswith("--like: para_gr: no such file, and no cell of that name ships.\n")
    assert "did you mean 'para_gru'?" in message
    assert not Path("my_gru.py").exists()


def test_new_says_why_it_can_not_write() -> None:
    assert refused(1, "new", "my_cell", "--dir", "mix.py").startswith(
        "mix.py/my_cell.py: can't be written: "
    )


@pytest.mark.parametrize(
    ("name", "reason", "instead"),
    [
        ("my-cell", "is not a plain name", "my_cell"),
        ("my_cell.py", "is not a plain name", "my_cell"),
        ("2nd", "is not a plain name", "nd"),
        ("a__b", "is not a plain name", "a_b"),
        ("", "is not a plain name", "my_cell"),
        ("grün", "is not a plain name", "gr_n"),
        ("class", "is a reserved word of Python, C++ or CUDA", "class_cell"),
        ("switch", "is a reserved word of Python, C++ or CUDA", "switch_cell"),
        ("tanh", "is a name of rnncc's own", "tanh_cell"),
        ("Input", "is a name of rnncc's own", "Input_cell"),
    ],
)
def test_new_refuses_a_name_that_can_not_be_a_cells(name: str, reason: str, instead: str) -> None:
    message = refused(1, "new", name)
    assert message.startswith(f"NAME: got {name!r}, which {reason}")
    assert message.endswith(f"Fix: rnncc new {instead}\n")
    starter.check_name(instead)


# --- bench -----------------------------------------------------------------------------------


def test_bench_measures_both_passes_at_every_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "MOST_ROUNDS", 3)
    found = data("bench", "elman", "--shape", "2x20x8", "--shape", "1x33x16")
    passes = [(result["shape"], result["pass"]) for result in found["results"]]
    both = ("forward", "forward+backward")
    assert passes == [(shape, name) for shape in ([2, 20, 8], [1, 33, 16]) for name in both]
    for result in found["results"]:
        assert result["ratio"] == pytest.approx(result["loop_ms"] / result["fused_ms"])
        assert (result["compiled_ms"], result["copy_ms"] > 0) == (None, True)
    assert [r["bytes"] for r in found["results"][:2]] == [4 * 2 * 20 * 8 * n for n in (2, 5)]
    assert set(found["machine"]) == {"device", "threads", "torch", "python", "system"}


@pytest.mark.usefixtures("two_threads")
def test_bench_prints_a_row_for_each_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "MOST_ROUNDS", 3)
    text = good("bench", "elman", "--shape", "2x20x8", "--threads", "1")
    assert text.startswith("elman, float32, ")
    assert " 1 threads, PyTorch " in text
    assert re.search(r"^  2x20x8  forward+ .* \d+\.\dx ", text, re.MULTILINE)


def test_bench_refuses_channels_that_do_not_fill_a_group() -> None:
    message = refused(1, "bench", "block_elman", "--shape", "1x4x7")
    assert message == (
        "--shape: got 7 channels, expected a multiple of 4, the group that 'block_elman' mixes.\n"
        "Fix: 8 channels\n"
    )


# --- failures --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compile"], "give one or several PATHs, or --all for all cells that ship"),
        (["compile", "lif", "--all"], "give one or several PATHs, or --all"),
        (["compile", "lif", "--target", "rocm"], "'rocm' is not one of 'cpp', 'cuda'"),
        (["check", "lif", "--device", "H100"], "--device needs a shape"),
        (["check", "lif", "--dtype", "float16"], "--dtype is that of a shape"),
        (["check"], "Missing argument 'PATH'"),
        (["check", "lif", "--set", "slope"], "got 'slope', expected NAME=NUMBER"),
        (["check", "lif", "--set", "slope=x"], "got 'slope=x', expected NAME=NUMBER"),
        (["check", "lif", "--set", "=1"], "got '=1', expected NAME=NUMBER"),
        (["check", "lif", "--shape", "8x4"], "got '8x4', expected BATCHxSTEPSxCHANNELS"),
        (["bench"], "Missing argument 'PATH'"),
        (["bench", "lif", "--shape", "8x4x0"], "got '8x4x0', expected BATCHxSTEPSxCHANNELS"),
        (["bench", "lif", "--threads", "0"], "0 is not in the range x>=1"),
        (["nothing_like_it"], "No such command 'nothing_like_it'"),
        (["list", "--nothing-like-it"], "No such option"),
        (["list", "--states", "0"], "0 is not in the range x>=1"),
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(words: list[str], message: str) -> None:
    said = refused(2, *words)
    assert message in said
    assert "--help" in said
    error = data(*words, exit_code=2)["error"]
    assert message in error["message"]
    assert error["problems"] == []


def test_a_problem_as_data_has_its_parts() -> None:
    error = data("check", "mix.py", exit_code=1)["error"]
    (problem,) = error["problems"]
    assert error["type"] == "StructureError"
    assert error["message"].startswith("mix.py:6: cell 'mix': channels couple")
    assert set(problem) == {"file", "line", "cell", "seen", "expected", "fix"}
    assert (problem["line"], problem["cell"]) == (6, "mix")


def test_a_load_error_as_data_has_no_problems() -> None:
    error = data("check", "nothing_like_it", exit_code=1)["error"]
    assert (error["type"], error["problems"]) == ("LoadError", [])


def test_an_unknown_constant_is_the_inputs_fault() -> None:
    assert "--set names 'nope', which is no constant" in refused(
        1, "check", "lif", "--set", "nope=1"
    )


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (LoadError("x: no.\nFix: y"), 1, "x: no.\nFix: y"),
        (BuildError("no compiler.\nFix: y"), 3, "no compiler.\nFix: y"),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            3,
            "a package is missing or broken: No module named 'torch'.\nFix: pip install torch",
        ),
        (OSError(28, "No space left"), 3, "No space left"),
        (MemoryError(), 3, "there is not enough memory.\nFix: a smaller shape"),
        (click.Abort(), 130, "stopped."),
        (KeyError("x"), 1, "rnncc itself failed: KeyError: 'x'.\nFix: this is a fault of rnncc"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_every_class_of_failure_has_its_status_and_its_words(
    monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, message: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "load", fail)
    said = refused(status, "check", "lif")
    assert message in said
    assert "Traceback" not in said
    assert data("check", "lif", exit_code=status)["error"]["type"] == type(error).__name__


def test_a_missing_torch_is_told_without_a_traceback(folder: Path) -> None:
    text = "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')"
    (folder / "torch.py").write_text(text)
    path = {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    done = process("show", "lif", "--stage", "torch", **path)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        "a package is missing or broken: No module named 'torch'.\nFix: pip install torch\n"
    )
    done = process("doctor", **path)
    assert done.returncode == 3
    assert re.search(r"^  PyTorch +missing +can't be imported", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("how", ["option", "group option", "variable"])
def test_a_traceback_is_shown_on_request_only(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    assert "Traceback" not in refused(1, "check", "mix.py")
    if how == "variable":
        monkeypatch.setenv("RNNCC_TRACEBACK", "1")
    words = ["check", "mix.py", *(["--traceback"] if how == "option" else [])]
    said = refused(1, *(["--traceback"] if how == "group option" else []), *words)
    assert "Traceback (most recent call last)" in said
    assert "in _refuse_coupled" in said


# --- terminals and pipes ---------------------------------------------------------------------


def in_terminal(*words: str, **env: str) -> str:
    """What a process prints whose stdout and stderr are a terminal."""
    ours, theirs = pty.openpty()
    env = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm"} | env
    child = subprocess.Popen(
        [sys.executable, "-m", "rnncc", *words],
        env=env | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    pieces = []
    while piece := _read(ours):
        pieces.append(piece)
    os.close(ours)
    child.wait()
    return b"".join(pieces).decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux's way of saying that the other end was closed
        return b""


BOXES = re.compile("[\u2500-\u257f\x1b]")


def test_piped_output_is_plain_and_never_wrapped() -> None:
    found = process("check", "slstm", COLUMNS="40", TERM="xterm-256color")
    assert (found.returncode, found.stderr) == (0, "")
    assert not BOXES.search(found.stdout)
    assert max(map(len, found.stdout.splitlines())) > 120


def test_a_piped_error_is_plain() -> None:
    found = process("check", "mix.py")
    assert (found.returncode, found.stdout) == (1, "")
    assert "\x1b" not in found.stderr


def test_a_terminal_gets_progress_tables_and_colours_unless_no_color_is_set() -> None:
    colour = re.compile(r"\x1b\[(\d+;)*(3|4|9)\d[;m]")
    shown = in_terminal("compile", "elman", "mix.py")
    assert "compiling elman (1 of 2)" in shown
    assert "\u2500" in shown
    assert "\x1b[32mFix:" in shown
    plain = in_terminal("compile", "elman", "mix.py", NO_COLOR="1")
    assert "\u2500" in plain
    assert not colour.search(plain)


def test_a_reader_that_stops_early_is_no_failure_to_tell() -> None:
    command = f"{sys.executable} -m rnncc show slstm --stage cpp | head -n 1"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, shell=True, env=env, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("// Generated by rnncc")
    assert done.stderr == ""


def test_the_exit_status_of_several_errors_is_the_gravest() -> None:
    several = terminal.SeveralError([LoadError("a"), BuildError("b")], {})
    assert terminal.exit_status(several) == 3
    assert terminal.error_data(several) == {
        "type": "LoadError",
        "message": "a\n\nb",
        "problems": [],
    }


def test_bench_times_each_solver() -> None:
    (forward, both) = data("bench", "elman", "--shape", "2x64x8", "--solvers")["results"]
    for result in (forward, both):
        assert {"sequential", "segmented"} <= set(result["solvers_ms"])
        assert all(ms > 0 for ms in result["solvers_ms"].values())
        assert result["solver"] == "sequential"
    assert "segmented" in good("bench", "elman", "--shape", "2x64x8", "--solvers")


@pytest.mark.slow
def test_doctor_calibrates_the_planner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNCC_CACHE_DIR", str(tmp_path))
    found = data("doctor", "--calibrate")
    assert all(value >= 0 for value in found["machine"].values())
    assert found["machine"]["function"] + found["machine"]["operation"] > 0
    assert json.loads(Path(found["file"]).read_text()) == found["machine"]
