"""Compile: cells -> packages in a folder, and on request their kernels in the cache."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rnncc.cli import options, render, terminal
from rnncc.cli.load import load
from rnncc.cli.options import Constants
from rnncc.errors import BuildError, LoadError, RnnccError

if TYPE_CHECKING:
    from rnncc.compiler import CompiledCell

TARGETS = ("cpp", "cuda")
Written = dict[str, dict[str, Any]]  # by the cell's name


class SeveralError(Exception):
    """Some of several cells failed; `done` is the output of `--json` for the others."""

    def __init__(self, errors: Sequence[Exception], done: dict[str, Any]) -> None:
        super().__init__(*errors)
        self.errors = tuple(errors)
        self.done = done


@click.command(
    epilog="""\b
Examples:
  rnncc compile cells/para_gru.py             -> generated/para_gru/
  rnncc compile lif --set slope=10 --out my_layers
  rnncc compile --all --build                 every shipped cell, kernels built right away"""
)
@click.argument("paths", nargs=-1, metavar="PATH...")
@click.option("--all", "everything", is_flag=True, help="All cells that ship.")
@click.option("--out", default="generated", show_default=True, help="The folder to write into.")
@click.option(
    "--target",
    type=click.Choice(TARGETS),
    default="cpp",
    show_default=True,
    help="The target of --build; both sources are written in any case.",
)
@options.fast_math
@click.option(
    "--tangent", is_flag=True, help="Also write the tangent cell: for jvp and create_graph=True."
)
@options.constants
@click.option("--build/--no-build", help="Also build the float32 kernel, into the cache.")
@options.common
def compile(
    paths: tuple[str, ...],
    everything: bool,
    out: str,
    target: str,
    fast_math: bool,
    tangent: bool,
    constants: Constants,
    build: bool,
    json: bool,
) -> None:
    """Compile cells to packages, OUT/NAME/ each.

    If a cell can't be compiled, its old package stays unchanged; the others are written.
    """
    if everything == bool(paths):
        raise click.UsageError("give one or several PATHs, or --all for all cells that ship")
    paths = _all_shipped() if everything else paths
    written: Written = {}
    errors: list[Exception] = []
    with terminal.progress("compiling", wanted=not json and len(paths) > 1) as progress:
        for count, path in enumerate(paths):
            progress.say(f"compiling {Path(path).stem} ({count + 1} of {len(paths)})")
            try:
                compiled = _compile_one(path, Path(out), constants, fast_math, tangent, written)
                if build:
                    written[compiled.name] |= _build(compiled, target)
            except (RnnccError, OSError) as error:
                errors.append(error)
    results = list(written.values())
    if results and not json:
        _print_table(results)
    if errors:
        raise SeveralError(errors, {"cells": results})
    if json:
        terminal.as_json({"cells": results})
    else:
        terminal.line(f"\nNext: {import_line(results[0])}")


def _all_shipped() -> tuple[str, ...]:
    from rnncc.lang.loader import shipped

    return tuple(str(path) for path in shipped())


def _compile_one(
    path: str,
    out: Path,
    constants: Mapping[str, float],
    fast_math: bool,
    tangent: bool,
    written: Written,
) -> CompiledCell:
    """Compile into OUT/NAME and record the result in `written`."""
    from rnncc.cli.importable import check_import
    from rnncc.codegen.module import class_name
    from rnncc.codegen.writer import write

    start = time.perf_counter()
    compiled = load(path, constants, fast_math)
    name, folder = compiled.name, out / compiled.name
    if name in written:
        raise LoadError(
            f"{path}: a second cell called '{name}'; both would be written to {folder}.\n"
            "Fix: rename one, or compile it with another --out"
        )
    files = compiled.files_with_tangent() if tangent else compiled.files
    write(files, folder, check_import)
    written[name] = {
        "name": name,
        "class": class_name(name),
        "folder": str(folder),
        "files": {file: text.count("\n") for file, text in files.items()},
        "structure": compiled.structure.summary(),
        "seconds": round(time.perf_counter() - start, 3),
    }
    return compiled


def _build(compiled: CompiledCell, target: str) -> dict[str, Any]:
    """Build the float32 kernel, or find it in the cache."""
    start = time.perf_counter()
    if target == "cuda":
        found = _build_cuda(compiled)
    else:
        from rnncc.runtime.cpu.build import library_path, load

        source = compiled.source("cpp")
        library = library_path(compiled.name, source, "float32")
        found = {"kernel": str(library), "cached": library.exists()}
        load(compiled.name, source, "float32")
    return found | {"build_seconds": round(time.perf_counter() - start, 3)}


def _build_cuda(compiled: CompiledCell) -> dict[str, Any]:
    """Compiled by NVRTC and loaded on the current GPU; CuPy caches it."""
    import torch

    from rnncc.runtime.backend import backend_of

    if not torch.cuda.is_available():
        raise BuildError(
            "--target cuda: PyTorch finds no CUDA GPU here to build for.\n"
            "Fix: rnncc doctor says what is missing; rnncc show NAME --stage resources compiles "
            "without one"
        )
    gpu = torch.device("cuda")
    backend_of(gpu).warmup(compiled.kernel, torch.float32, gpu)
    return {"kernel": torch.cuda.get_device_name(), "cached": False}


# --- for people ------------------------------------------------------------------------------


def _print_table(results: Sequence[Mapping[str, Any]]) -> None:
    """A row for each cell that was written."""
    headers = ("cell", "written to", "structure", "lines", "time")
    terminal.table(headers, [_row(result) for result in results])


def _row(result: Mapping[str, Any]) -> render.Row:
    from rnncc.ir.program import Structure

    words = render.structure_words(Structure(**result["structure"], proof=""))
    time = f"{result['seconds']:.2f} s"
    if "kernel" in result:
        how = "kernel from the cache" if result["cached"] else "kernel built"
        time += f", {how} in {result['build_seconds']:.2f} s"
    lines = str(sum(result["files"].values()))
    return result["name"], result["folder"], ", ".join(words), lines, time


def import_line(result: Mapping[str, Any]) -> str:
    """The Python line that uses a compiled cell, from the working directory if it can."""
    parts = Path(result["folder"]).parts
    package = ".".join(parts) if all(p.isidentifier() for p in parts) else result["name"]
    return f"from {package} import {result['class']}, {result['name']}"
