"""Find: a path, `file.py:name` or a shipped cell's name -> Cell."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from rnncc import paths
from rnncc.dsl import Cell
from rnncc.errors import CellError, LoadError, Problem, shorten


def find(where: str) -> Cell:
    """The cell that the command line names.

    Args:
        where: a file with one cell, `file.py:name`, or the name of a cell that ships.
    Raises:
        LoadError: no such file or cell, or several cells and no name.
        CellError: the file itself fails to run.
    """
    file, name = _split(where)
    cells = cells_of(file)
    if name is None and len(cells) == 1:
        return next(iter(cells.values()))
    listed = ", ".join(cells) or "none"
    if not cells:
        raise LoadError(
            f"{shorten(str(file))}: holds no cell.\n"
            "Fix: put @cell (from rnncc import cell) above a function of the module"
        )
    if name is None:
        raise LoadError(
            f"{shorten(str(file))}: holds several cells: {listed}.\n"
            f"Fix: name one, {where}:{next(iter(cells))}"
        )
    if name not in cells:
        raise LoadError(
            f"{shorten(str(file))}: holds no cell '{name}', but {listed}.\nFix: name one of those"
        )
    return cells[name]


def shipped() -> list[Path]:
    """The files of the cells that ship, by name."""
    return sorted(p for p in paths.cells().glob("*.py") if not p.stem.startswith("_"))


def _split(where: str) -> tuple[Path, str | None]:
    path, _, name = where.rpartition(":")
    if path and name.isidentifier():
        return _file(path), name
    return _file(where), None


def _file(text: str) -> Path:
    path = Path(text)
    if path.is_file():
        return path.resolve()
    names = {p.stem: p for p in shipped()}
    if text in names:
        return names[text]
    close = difflib.get_close_matches(path.stem, names, n=1)
    if path.is_dir():
        raise LoadError(f"{text}: is a folder.\nFix: name a file in it: {text.rstrip('/')}/NAME.py")
    hint = f"did you mean '{close[0]}'? " if close else ""
    raise LoadError(
        f"{text}: no such file, and no cell of that name ships.\n"
        f"Fix: {hint}`rnncc list` shows what ships, `rnncc new NAME` starts a cell"
    )


def cells_of(file: Path) -> dict[str, Cell]:
    """Run the file and collect its cells, in order of definition."""
    module = _run(file)
    found = [v for v in vars(module).values() if isinstance(v, Cell)]
    own = [c for c in found if Path(c.file).resolve() == file]
    return {c.name: c for c in sorted(own, key=lambda c: c.line)}


def _run(file: Path) -> ModuleType:
    digest = hashlib.sha256(str(file).encode()).hexdigest()[:8]
    name = f"_rnncc_{file.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise LoadError(f"{file}: is no Python file.\nFix: a cell lies in a file NAME.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except CellError:
        raise
    except Exception as error:
        raise CellError([_problem(file, error)]) from error
    finally:
        sys.modules.pop(name, None)
    return module


def _problem(file: Path, error: Exception) -> Problem:
    line = error.lineno if isinstance(error, SyntaxError) and error.lineno else 1
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(file):
            line = trace.tb_lineno
        trace = trace.tb_next
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return Problem(
        str(file),
        line,
        file.stem,
        f"the file does not run: {type(error).__name__}: {message}",
        "",
        "correct that line; `rnncc new NAME` shows a cell that works",
    )
