"""The documents: the code in README.md and docs/ runs, and the output there is rnncc's."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import rnncc
from rnncc.cli.show import stage_text
from rnncc.errors import ProblemsError
from rnncc.lang.loader import cells_of, find
from rnncc.planner.cpu import plan
from rnncc.planner.explain import as_text, explain
from rnncc.planner.machine import MEASURED

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+) ?(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REFUSAL = re.compile(r"^\| `(f\(.*?)` +\| (.*?) +\|$", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")
PAGES = sorted(str(p.relative_to(ROOT)) for f in (".", "docs") for p in (ROOT / f).glob("*.md"))
IMPORTS = "import math, numpy, torch\nfrom rnncc import *\n"


def blocks(name: str) -> list[tuple[str, str, str]]:
    """(language, what follows it, text) of each fenced block."""
    return BLOCK.findall((ROOT / name).read_text(encoding="utf-8"))


def test_the_readme_runs_from_top_to_bottom(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    ran = 0
    for language, _, text in blocks("README.md"):
        for command in _commands(language, text, tmp_path):
            done = subprocess.run(
                [sys.executable, *command], cwd=tmp_path, env=env, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
            ran += 1
    assert ran >= 4


def _commands(language: str, text: str, folder: Path) -> list[list[str]]:
    """The command for a block; a block that starts with `# name.py` is a file to save."""
    if language == "sh":
        lines = [line.partition("  #")[0] for line in text.splitlines()]
        return [["-m", *shlex.split(line)] for line in lines if line.startswith("rnncc ")]
    if language != "python":
        return []
    file = re.match(r"# (\w+\.py)\n", text)
    if file:
        (folder / file[1]).write_text(text, encoding="utf-8")
        return []
    (folder / "example.py").write_text(text, encoding="utf-8")
    return [["example.py"]]


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files(name: str) -> None:
    folder = (ROOT / name).parent
    text = (ROOT / name).read_text(encoding="utf-8")
    assert [link for link in LINK.findall(text) if not (folder / link).exists()] == []


def test_the_readme_shows_the_emitted_code() -> None:
    (shown,) = [text for language, _, text in blocks("README.md") if language == "cpp"]
    emitted = rnncc.compile("para_gru").files["cell.h"]
    assert _unindented(shown) in _unindented(emitted)


def _unindented(text: str) -> str:
    return "\n".join(line.strip() for line in text.splitlines())


def test_cells_in_the_language_page_compile(tmp_path: Path) -> None:
    texts = [text for language, _, text in blocks("docs/language.md") if language == "python"]
    assert texts
    for i, text in enumerate(texts):
        file = tmp_path / f"page{i}.py"
        file.write_text(text, encoding="utf-8")
        for cell in cells_of(file).values():
            assert rnncc.compile(cell).structure.kind == "diagonal"


@pytest.mark.parametrize(
    ("cell", "message"), REFUSAL.findall((ROOT / "docs" / "language.md").read_text("utf-8"))
)
def test_a_refusal_reads_as_the_language_page_says(cell: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "refused.py"
    file.write_text(f"{IMPORTS}\n\n@cell\ndef {cell}\n", encoding="utf-8")
    with pytest.raises(ProblemsError) as caught:
        rnncc.compile(find(str(file)))
    assert message in [problem.seen for problem in caught.value.problems]


def test_the_language_page_names_every_function() -> None:
    page = (ROOT / "docs" / "language.md").read_text(encoding="utf-8")
    others = {"Cell", "CompiledCell", "cell", "compile"}
    names = {n for n in rnncc.__all__ if not n.endswith("Error")} - others
    assert [n for n in sorted(names) if not re.search(rf"`[^`]*\b{n}\b[^`]*`", page)] == []


@pytest.mark.parametrize(
    ("stage", "text"),
    [(what, text) for language, what, text in blocks("docs/how-it-works.md") if language == "text"],
)
def test_how_it_works_shows_what_each_stage_says_today(stage: str, text: str) -> None:
    assert text.rstrip() in stage_text(rnncc.compile(find("para_gru")), stage)


def test_the_solver_page_shows_the_plan_of_the_measured_machine() -> None:
    (text,) = [t for _, what, t in blocks("docs/solver.md") if what == "explain"]
    shape, spec = (1, 131072, 1), rnncc.compile(find("para_gru")).kernel.spec
    found = explain(spec, plan(spec, shape, 4, threads=2, machine=MEASURED), shape, 4, 4)
    assert text.rstrip() == as_text(found, "float32")
