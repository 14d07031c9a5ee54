"""The wheel: installed in an environment of its own, away from the checkout, it compiles a cell."""

import json
import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]

FORWARD = """
import json, sys
sys.path.insert(0, sys.argv[1])
import rnncc, torch
from para_gru import ParaGRU, para_gru
y, h = ParaGRU(input_size=3, hidden_size=8)(torch.randn(2, 5, 3))
z = para_gru(*torch.randn(3, 2, 5, 8), *torch.randn(3, 8))
finite = all(bool(t.isfinite().all()) for t in (y, h, z))
print(json.dumps([rnncc.__file__, [list(t.shape) for t in (y, h, z)], finite]))
"""


@dataclass(frozen=True)
class Installed:
    """A virtual environment that holds the wheel, and a folder outside the checkout to work in."""

    python: Path
    site: Path
    folder: Path

    def run(self, *args: str) -> str:
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        env["RNNCC_CACHE_DIR"] = str(self.folder / "cache")
        return run(str(self.python), *args, cwd=self.folder, env=env)


def run(*command: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    options = ["-q", "--no-deps", "--no-build-isolation", "-w", str(out)]
    run(sys.executable, "-m", "pip", "wheel", ".", *options, cwd=ROOT)
    (path,) = out.glob("rnncc-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """No downloads: the dependencies come from this environment, by a .pth file."""
    folder = tmp_path_factory.mktemp("elsewhere")
    run(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(str(python), "-c", ask, cwd=folder).strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    options = ["-q", "--no-deps", "--no-index", "--target", str(site)]
    run(sys.executable, "-m", "pip", "install", *options, str(wheel), cwd=folder)
    return Installed(python, site, folder)


def test_the_wheel_holds_all_templates_and_cells(wheel: Path) -> None:
    names = set(ZipFile(wheel).namelist())
    missing = [
        str(path.relative_to(ROOT))
        for folder in ("templates", "cells")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
        if f"rnncc/_{path.relative_to(ROOT).as_posix()}" not in names
    ]
    assert missing == []
    assert "rnncc/py.typed" in names


def test_a_cell_compiled_by_the_installed_wheel_runs(installed: Installed) -> None:
    out = installed.folder / "out"
    installed.run("-m", "rnncc", "compile", "para_gru", "--out", str(out))
    file, shapes, finite = json.loads(installed.run("-c", FORWARD, str(out)))
    assert Path(file).is_relative_to(installed.site)
    assert shapes == [[2, 5, 8], [2, 8], [2, 5, 8]]
    assert finite


def test_the_installed_wheel_has_its_cells_by_name(installed: Installed) -> None:
    code = "import rnncc; from rnncc.cells import lru; print(rnncc.compile('lru').name, lru.file)"
    name, file = installed.run("-c", code).split()
    assert name == "lru"
    assert Path(file) == installed.site / "rnncc" / "_cells" / "lru.py"
