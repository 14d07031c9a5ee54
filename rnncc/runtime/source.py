"""Source: the emitted files of a cell and the driver's headers -> one text a target."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping

from rnncc import paths
from rnncc.errors import LoadError
from rnncc.ir.spec import CELL, FILES

INCLUDE = re.compile(r'#include "([^"]+)"')
FOR_CUDA = "#ifdef __CUDACC__"  # the one condition that is decided here, by the target
WIDTH = 100


def join(files: Mapping[str, str], target: str) -> str:
    """The text that is compiled: the target's file, with each header once, at its first include.

    System headers stay, as does every condition but `#ifdef __CUDACC__`.

    Args:
        files: the emitted ones by name; cell.h is one of them.
        target: "cpp" or "cuda".
    """
    joined = "\n".join(_lines(FILES[target], files, target, set()))
    return re.sub(r"\n{3,}", "\n\n", joined).strip("\n") + "\n"


def of_the_cell(files: Mapping[str, str], target: str) -> str:
    """For reading: cell.h without the other target's part, then the target's file."""
    cell = "\n".join(_of_target(files[CELL].splitlines(), target))
    return f"{cell}\n\n{_mark(FILES[target])}\n{files[FILES[target]]}"


def _lines(name: str, files: Mapping[str, str], target: str, seen: set[str]) -> Iterator[str]:
    seen.add(name)
    text = files[name] if name in files else header(name)
    for line in _of_target(text.splitlines(), target):
        included = INCLUDE.match(line)
        if included is None:
            if line != "#pragma once":
                yield line
        elif included[1] not in seen:
            yield ""
            yield _mark(included[1])
            yield from _lines(included[1], files, target, seen)


def _of_target(lines: Iterable[str], target: str) -> Iterator[str]:
    """Without the other target's side of each `#ifdef __CUDACC__`."""
    stays: list[bool | None] = []  # of each #if around a line; None where the compiler decides
    for line in lines:
        if line.startswith("#if"):
            stays.append(target == "cuda" if line == FOR_CUDA else None)
            decided = stays[-1] is not None
        elif line.startswith(("#else", "#endif")):
            decided = stays[-1] is not None
            if line.startswith("#endif"):
                stays.pop()
            elif decided:
                stays[-1] = not stays[-1]
        else:
            decided = False
        if not decided and False not in stays:
            yield line


def _mark(name: str) -> str:
    return f"// ---- {name} ".ljust(WIDTH, "-")


@functools.cache
def header(name: str) -> str:
    """A header of the driver, by the name it is included by.

    Raises:
        LoadError: the driver has none; a folder of another version may have had.
    """
    try:
        return paths.header(name)
    except FileNotFoundError:
        raise LoadError(
            f"{name}: the driver has no such header; another version of rnncc generated the folder "
            "that includes it.\nFix: regenerate the folder with rnncc compile"
        ) from None
