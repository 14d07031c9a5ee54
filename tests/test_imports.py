"""Imports: `import rnncc` is light, and data flows one way through the modules."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# A module imports only from those before it. A new module takes its place here.
ORDER = (
    *(
        "errors",
        "starts",
        "ir",
        "functions",
        "work",
        "symbols",
        "dsl",
        "signature",
        "trace",
        "lower",
        "jacobian",
        "structure",
    ),
    *(
        "keep",
        "split",
        "printer",
        "spec",
        "cost",
        "celltext",
        "emit",
        "build",
        "nvrtc",
        "modules",
        "machine",
        "predict",
        "choices",
        "plan",
        "plan_cuda",
        "sequences",
        "kernel",
        "marshal",
        "launch",
        "launch_cuda",
        "memory",
        "ops",
        "arguments",
        "draws",
        "projection",
        "packed",
        "status",
        "layer",
    ),
    *(
        "reference",
        "latex",
        "letters",
        "find",
        "facts",
        "like",
        "write",
        "explain",
        "gpus",
        "compiler",
    ),
    *("sass", "loops", "occupancy", "resources", "roofline", "assembly"),
    *("finding", "cuda", "doctor_cuda", "doctor"),
    *("timing", "rivals", "bench", "bench_cuda", "calibrate"),
    *("probe", "plot", "show", "starter", "terminal", "pages", "options", "cli", "__main__"),
)
HELPERS = ("paths", "text")  # small, used anywhere; import none of the stages
ONLY_IN = {
    "jinja2": ("emit",),
    "cupy": ("nvrtc", "modules"),
    "ctypes": ("build", "launch", "memory"),
}
HEAVY = ("torch", "sympy", "cupy", "jinja2", "numpy", "pydantic")

PACKAGE = Path(__file__).parents[1] / "rnncc"
FILES = sorted(path for path in PACKAGE.glob("*.py") if path.stem != "__init__")

TIMED_IMPORT = f"""
import json, sys, time
start = time.perf_counter()
import rnncc
seconds = time.perf_counter() - start
print(json.dumps([seconds, [name for name in {HEAVY} if name in sys.modules]]))
"""


def import_in_a_fresh_process() -> tuple[float, list[str]]:
    run = subprocess.run(
        [sys.executable, "-c", TIMED_IMPORT],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, heavy = json.loads(run.stdout)
    return seconds, heavy


def test_import_rnncc_takes_under_half_a_second_and_imports_nothing_heavy() -> None:
    runs = [import_in_a_fresh_process() for _ in range(3)]
    assert runs[0][1] == []
    assert min(seconds for seconds, _ in runs) < 0.5


def test_every_module_has_its_place_in_the_order() -> None:
    assert [path.stem for path in FILES if path.stem not in (*ORDER, *HELPERS)] == []
    assert [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_module_imports_only_from_those_above_it(path: Path) -> None:
    above = set() if path.stem in HELPERS else set(ORDER[: ORDER.index(path.stem)])
    allowed = {"__version__", "errors", "ir", *HELPERS, *above} - {path.stem}
    upward = [
        f"{path.name}:{line} imports {name}"
        for line, name in imports(path)
        if name.split(".")[0] == "rnncc"
        and name.removeprefix("rnncc.").split(".")[0] not in allowed
    ]
    assert upward == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_jinja2_cupy_and_ctypes_are_imported_only_where_they_belong(path: Path) -> None:
    foreign = [
        f"{path.name}:{line} imports {name}"
        for line, name in imports(path)
        if path.stem not in ONLY_IN.get(name.split(".")[0], (path.stem,))
    ]
    assert foreign == []


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that a module imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            package = "rnncc" if node.level else ""
            base = ".".join(filter(None, (package, node.module)))
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
