"""Show: a cell -> a summary and how to use it, or one stage of its compilation."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from rnncc.cli import options, render, terminal
from rnncc.cli.load import load, read
from rnncc.cli.options import Constants
from rnncc.errors import shorten
from rnncc.lang.docstring import fields_of, prose_of, source_of

if TYPE_CHECKING:
    from rnncc.compiler import CompiledCell

OF_THE_CELL = {
    "recurrence": "the equations as traced from the file",
    "lets": "the same as straight-line code for one group of channels",
    "jacobian": "the derivative of each next state by each state",
    "structure": "the structure that was proved of the Jacobian, and its pattern",
    "adjoint": "the gradients of every argument",
    "tangent": "the cell of the derivative in a direction, for jvp and second derivatives",
    "cpp": "the cell's C++ (with --whole the file that is compiled)",
    "cuda": "the cell's CUDA (with --whole the file that is compiled)",
    "torch": "a module of plain PyTorch with the same parameters, and derivatives of any order",
    "latex": "the equations for a paper",
}
OF_A_GPU = {  # these need CuPy
    "ptx": "the CUDA kernels in PTX, for --arch and --dtype; needs no GPU",
    "sass": "the same in the GPU's own instructions",
    "resources": "their registers, spills, occupancy and instructions per step",
}
STAGES = OF_THE_CELL | OF_A_GPU
LANGUAGES = {"latex": "latex", "cpp": "cpp", "cuda": "cuda", "ptx": "ptx", "sass": "text"}


@click.command(
    epilog="""\b
Examples:
  rnncc show para_gru
  rnncc show cells/lstm.py --stage adjoint
  rnncc show para_gru --stage cpp | less
  rnncc show para_gru --stage resources --arch sm_80 --dtype bfloat16

\b
Stages:
"""
    + "\n".join(f"  {name:<10}  {text}" for name, text in STAGES.items())
)
@click.argument("path")
@click.option("--stage", type=click.Choice(list(STAGES)), help="One stage in place of the summary.")
@click.option("--arch", default="sm_90", show_default=True, help="The GPU: sm_80 is an A100.")
@options.dtype("The dtype of inputs and outputs.")
@click.option("--whole", is_flag=True, help="For cpp and cuda: with the driver, as compiled.")
@options.fast_math
@options.constants
@options.common
@click.pass_context
def show(
    ctx: click.Context,
    path: str,
    stage: str | None,
    arch: str,
    dtype: str,
    whole: bool,
    fast_math: bool,
    constants: Constants,
    json: bool,
) -> None:
    """Describe a cell and how to use it.

    With --stage, show one stage from equations to code, or the code compiled for a GPU.
    """
    if stage not in OF_A_GPU:
        for name in ("arch", "dtype"):
            if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                raise click.UsageError(f"--{name} is for --stage ptx, sass and resources")
    if whole and stage not in ("cpp", "cuda"):
        raise click.UsageError("--whole is for --stage cpp and cuda")
    if fast_math and stage not in ("cuda", *OF_A_GPU):
        raise click.UsageError("--fast-math is for --stage cuda, ptx, sass and resources")
    if stage == "latex":
        _show_latex(path, constants, json)
        return
    compiled = load(path, constants, fast_math)
    if stage is None:
        _show_summary(compiled, path, json)
    elif stage == "resources":
        _show_resources(compiled, arch, dtype, json)
    elif stage in OF_A_GPU:
        from rnncc.inspect import binary

        text = binary.text(compiled, stage, dtype, arch)
        _print_stage(compiled.name, stage, text, json, arch=arch, dtype=dtype)
    else:
        _print_stage(compiled.name, stage, stage_text(compiled, stage, whole), json)


def _print_stage(name: str, stage: str, text: str, json: bool, **of: str) -> None:
    if json:
        terminal.as_json({"name": name, "stage": stage, **of, "text": text})
    else:
        terminal.code(text, LANGUAGES.get(stage, "python"))


def _show_latex(path: str, constants: Constants, json: bool) -> None:
    """From the cell itself, its constants as symbols."""
    from rnncc.export.latex import latex
    from rnncc.export.symbolic_constants import with_symbolic_constants

    cell = read(path)
    with contextlib.redirect_stdout(sys.stderr):
        text = latex(with_symbolic_constants(cell, constants))
    _print_stage(cell.name, "latex", text, json)


def stage_text(compiled: CompiledCell, stage: str, whole: bool = False) -> str:
    """One of `OF_THE_CELL` but latex, as text."""
    stages = compiled.stages
    if stage == "recurrence":
        return str(stages.cell)
    if stage == "lets":
        return str(stages.program)
    if stage == "jacobian":
        return render.jacobian_text(compiled)
    if stage == "structure":
        return f"{stages.structure.proof}\n\n{render.pattern_text(compiled)}"
    if stage == "adjoint":
        return _adjoint_text(compiled)
    if stage == "tangent":
        return str(compiled.tangent.stages.cell)
    if stage in ("cpp", "cuda"):
        return compiled.source(stage, whole).rstrip("\n")
    from rnncc.export.torch_module import module_source

    return module_source(stages.cell, compiled.spec)


def _adjoint_text(compiled: CompiledCell) -> str:
    """The lets of the adjoint, then its results: d_z is dL/dz, given up_h, dL/dh after the step."""
    program, adjoint = compiled.stages.program, compiled.stages.adjoint
    values = (*adjoint.states, *adjoint.inputs, *adjoint.params)
    given = [s.name for s in (*adjoint.upstream_states, *adjoint.upstream_outputs)]
    lines = [f"given {', '.join(given)}", str(adjoint)]
    lines += [f"d_{a.name} = {v}" for a, v in zip(program.arguments, values, strict=True)]
    return "\n".join(line for line in lines if line)


# --- compiled for a GPU ----------------------------------------------------------------------


def _show_resources(compiled: CompiledCell, arch: str, dtype: str, json: bool) -> None:
    """A row for each kernel."""
    from rnncc.inspect import binary
    from rnncc.inspect.resources import COLUMNS, HEADERS, NOTE, rows

    with terminal.progress(f"compiling {compiled.name} for {arch}", wanted=not json):
        found = binary.inspect(compiled, dtype, arch)
    if json:
        about = {"name": compiled.name, "stage": "resources", "arch": arch, "dtype": dtype}
        terminal.as_json({**about, "kernels": found})
        return
    terminal.line(f"{compiled.name}, {dtype}, {arch}")
    terminal.line()
    terminal.table((*HEADERS, *COLUMNS), rows(found))
    terminal.line(f"\n{NOTE}")


# --- without a stage -------------------------------------------------------------------------


def _show_summary(compiled: CompiledCell, path: str, json: bool) -> None:
    """A cell in brief, and how to use it; `path` is how the command line named it."""
    if json:
        terminal.as_json(overview(compiled))
        return
    cell = compiled.stages.cell
    terminal.line(f"{cell.name} ({shorten(cell.file)}:{cell.line})")
    terminal.block(cell.doc)
    terminal.heading("Recurrence")
    terminal.block("\n".join(render.equations(cell)))
    terminal.heading("Structure")
    terminal.block(", ".join(render.structure_words(compiled.structure)))
    if compiled.structure.block > 1:
        terminal.block(render.pattern_text(compiled))
    terminal.heading("Arguments")
    terminal.table(render.ARGUMENT_HEADERS, render.argument_rows(compiled))
    terminal.heading("Use")
    terminal.block("\n".join([f"rnncc compile {path}", *use(compiled)]))
    terminal.line(f"\nMore: rnncc check {path}, rnncc show {path} --stage latex")


def overview(compiled: CompiledCell) -> dict[str, Any]:
    """The same as data."""
    cell = compiled.stages.cell
    return {
        "name": cell.name,
        "file": cell.file,
        "line": cell.line,
        "doc": prose_of(cell.doc),
        "fields": list(fields_of(cell.doc)),
        "source": source_of(cell.doc),
        "recurrence": render.equations(cell),
        "structure": compiled.structure.summary(),
        "arguments": render.argument_data(compiled),
        "use": use(compiled),
    }


def use(compiled: CompiledCell) -> list[str]:
    """Lines of Python, once the cell is compiled into generated/."""
    from rnncc.codegen.module import class_name

    cell, name = compiled.stages.cell, compiled.name
    size = 512 // compiled.structure.group * compiled.structure.group
    given = [a.name for a in cell.inputs if not a.projected]
    outputs = ["y"] if len(cell.outputs) == 1 else list(cell.outputs)
    taken = {"x", *given, *outputs}
    last = [f"{a.name}_T" if a.name in taken else a.name for a in cell.states]
    arguments = [a.name for a in cell.of_kind("input", "param", "matrix")]
    call = ", ".join(["x", *(f"{each}={each}" for each in given)])
    return [
        f"from generated.{name} import {class_name(name)}, {name}",
        f"layer = {class_name(name)}(input_size=256, hidden_size={size})",
        f"{_several(outputs)}, {_several(last)} = layer({call})",
        f"{', '.join(outputs)} = {name}({', '.join(arguments)})",
    ]


def _several(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"({', '.join(names)})"
