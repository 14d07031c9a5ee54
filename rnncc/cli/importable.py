"""Importable: a folder just generated -> an error where its module can't be imported."""

from __future__ import annotations

import builtins
from importlib.util import spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rnncc.errors import RnnccError
from rnncc.ir.spec import RECORD, SOURCES, TANGENT, KernelSpec, digest_of
from rnncc.paths import Traversable, folder_of


class _Kernel:
    """Reads the folder as the run time does, and builds nothing."""

    @classmethod
    def read(cls, folder: Traversable, digest: str, tangent: str = "") -> _Kernel:
        files = {n: (folder / n).read_text(encoding="utf-8") for n in (RECORD, *SOURCES)}
        KernelSpec.read(files[RECORD])
        found = digest_of(files)
        if found != digest:
            raise ValueError(f"the hash of its files is {found}, and it names {digest}")
        if tangent:
            cls.read(folder / TANGENT, tangent)
        return cls()


class _CellLayer:
    pass


def _takes_options(function: Any) -> Any:
    return function


# In the place of what takes PyTorch, whose import takes longer than compiling a cell.
STAND_INS = {
    "torch": SimpleNamespace(Tensor=object),
    "rnncc.generated": SimpleNamespace(
        CellLayer=_CellLayer,
        Kernel=_Kernel,
        folder_of=folder_of,
        run=print,
        takes_options=_takes_options,
    ),
}


def check_import(folder: Path) -> None:
    """Run the folder's module, apart from all that are imported here.

    Raises:
        RnnccError: it doesn't run.
    """
    file = folder / "__init__.py"
    spec = spec_from_file_location("_rnncc_fresh", file, submodule_search_locations=[str(folder)])
    names: dict[str, Any] = {"__name__": "_rnncc_fresh", "__file__": str(file), "__spec__": spec}
    names["__builtins__"] = {**vars(builtins), "__import__": _import}
    try:
        exec(compile(file.read_bytes(), str(file), "exec"), names)
    except Exception as error:
        raise RnnccError(
            "the generated module can't be imported, so the old one stays: "
            f"{type(error).__name__}: {error}.\n"
            "Fix: this is a bug in rnncc; report it with the cell's file"
        ) from error


def _import(name: str, *rest: Any) -> Any:
    return STAND_INS[name] if name in STAND_INS else __import__(name, *rest)
