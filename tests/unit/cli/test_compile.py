"""`rnncc compile`: the packages that it writes, and the files that it leaves alone."""

import re
from pathlib import Path

import pytest
import torch

from rnncc.cli import main
from rnncc.cli.compile import SeveralError, import_line
from rnncc.cli.importable import STAND_INS
from rnncc.errors import BuildError, LoadError
from tests.support.command_line import COUPLED, LOUD, call, data, good, refused, written


def test_compile_writes_a_package_and_says_how_to_use_it() -> None:
    text = good("compile", "para_gru")
    files = ["__init__.py", "cell.h", "cell.json", "kernel.cpp", "kernel.cu"]
    assert sorted(written("generated/para_gru")) == files
    structure = "diagonal, blocks of 1, nonlinear, smooth"
    assert re.search(rf"  para_gru  generated/para_gru  {structure}  \d+ +\d\.\d\d s\n", text)
    assert text.endswith("Next: from generated.para_gru import ParaGRU, para_gru\n")


def test_compile_as_data_has_files_and_structure() -> None:
    (found,) = data("compile", "elman", "--out", "some/where")["cells"]
    assert found["name"] == "elman"
    assert found["class"] == "Elman"
    assert found["folder"] == str(Path("some", "where", "elman"))
    assert found["files"] == {n: t.count("\n") for n, t in written("some/where/elman").items()}
    assert found["structure"]["kind"] == "diagonal"
    assert 0 < found["seconds"] < 60


def test_compile_with_a_constant_says_so_in_the_command_that_repeats_it() -> None:
    good("compile", "lif", "--set", "slope=10")
    assert "rnncc compile cells/lif.py" in written("generated/lif")["kernel.cpp"]
    assert "--set slope=10" in written("generated/lif")["kernel.cpp"]


def test_a_failed_compile_leaves_the_old_output_in_place() -> None:
    Path("mix.py").write_text(COUPLED.replace("R @ h", "h").replace(", R: Matrix", ""))
    good("compile", "mix.py")
    before = written("generated/mix")
    Path("mix.py").write_text(COUPLED)
    refused(1, "compile", "mix.py")
    assert written("generated/mix") == before
    assert [path.name for path in Path("generated").iterdir()] == ["mix"]


def test_a_module_that_does_not_run_never_takes_the_old_ones_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good("compile", "elman")
    before = written("generated/elman")
    monkeypatch.setattr("rnncc.codegen.escape.docstring", lambda _: '"""')
    message = refused(1, "compile", "elman")
    assert "the generated module can't be imported, so the old one stays: SyntaxError: " in message
    assert "Fix: this is a bug in rnncc; report it with the cell's file" in message
    assert written("generated/elman") == before
    assert [path.name for path in Path("generated").iterdir()] == ["elman"]


def test_the_module_is_run_with_all_that_it_imports() -> None:
    from rnncc import generated

    assert sorted(vars(STAND_INS["rnncc.generated"])) == sorted(generated.__all__)


def test_one_cell_that_fails_does_not_stop_the_others() -> None:
    result = call("compile", "mix.py", "elman", "nothing_like_it", "min_gru")
    assert result.exit_code == 1
    assert sorted(path.name for path in Path("generated").iterdir()) == ["elman", "min_gru"]
    assert "  min_gru  generated/min_gru" in result.stdout
    assert "mix.py:6: cell 'mix': channels couple" in result.stderr
    assert "nothing_like_it: no such file" in result.stderr


def test_as_data_the_compiled_cells_are_beside_the_error() -> None:
    found = data("compile", "mix.py", "elman", "wrong.py", exit_code=1)
    assert [cell["name"] for cell in found["cells"]] == ["elman"]
    assert found["error"]["type"] == "StructureError"
    assert [problem["cell"] for problem in found["error"]["problems"]] == ["mix", "wrong"]


def test_two_cells_of_one_name_are_not_written_over_each_other() -> None:
    Path("elman.py").write_text(LOUD.replace("loud", "elman"))
    result = call("compile", "elman", "elman.py")
    assert result.exit_code == 1
    assert "elman.py: a second cell called 'elman'; both would be written to" in result.stderr


def test_compile_does_not_replace_files_that_it_did_not_write() -> None:
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
    assert import_line(result | {"name": "lif", "class": "LIF"}) == line


def test_fast_math_is_repeated_in_the_command_that_regenerates_the_files() -> None:
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


def test_the_exit_status_of_several_errors_is_the_gravest() -> None:
    several = SeveralError([LoadError("a"), BuildError("b")], {})
    assert main.exit_status(several) == 3
    assert main.error_data(several) == {
        "type": "LoadError",
        "message": "a\n\nb",
        "problems": [],
    }
