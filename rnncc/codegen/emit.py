"""Emit: CellIR -> {file name: text}. The only module that lays out text with Jinja."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import jinja2

from rnncc import paths
from rnncc.calculus.cost import effort
from rnncc.calculus.differentiate import adjoint, differentiate
from rnncc.calculus.fission import split
from rnncc.calculus.lower import lower
from rnncc.calculus.rematerialize import keep
from rnncc.calculus.structure import classify
from rnncc.codegen.cell_text import WIDTH, cell_text, lanes, registers
from rnncc.ir.init import Init
from rnncc.ir.program import Argument, CellIR, Compiled, show
from rnncc.ir.spec import (
    CUDA_KERNELS,
    InputSpec,
    KernelSpec,
    ParamSpec,
    StateSpec,
    StructureSpec,
)
from rnncc.lang.dsl import uniform

TILE = 256
# The parts of a driver, in the order in which they use each other.
CPP_DRIVER = (
    *("common/args", "common/border", "cpp/results", "cpp/tiles", "cpp/threads"),
    *("cpp/forward", "cpp/segments", "cpp/backward"),
)
CUDA_DRIVER = (
    *("common/args", "common/border", "cuda/runs", "cuda/walk", "cuda/control", "cuda/segments"),
    *("cuda/forward", "cuda/tiles", "cuda/backward", "cuda/back_segments", "cuda/sums"),
)


def analyse(cell: CellIR) -> Compiled:
    """All of the calculus: structure, the program of one group, its Jacobian and its adjoint.

    Raises:
        StructureError: channels couple.
    """
    structure = classify(cell)
    program = lower(cell, structure.group)
    jacobian, reverse = differentiate(program), adjoint(program)
    kept = keep(program, jacobian, reverse)
    return Compiled(cell, structure, program, jacobian, reverse, kept, split(program))


def emit(compiled: Compiled, fast_math: bool = False) -> dict[str, str]:
    """The files of the generated package.

    Args:
        fast_math: let CUDA kernels take sigmoid and tanh from the GPU's own, less exact tanh.
    """
    spec = kernel_spec(compiled, fast_math)
    environment = _environment()
    files = {
        "__init__.py": environment.get_template("module.py.j2").render(
            **_module_context(compiled, spec)
        ),
        "cell.json": json.dumps(spec.model_dump(mode="json"), indent=2) + "\n",
        "kernel.cpp": environment.get_template("kernel.cpp.j2").render(
            header=_header(compiled, spec, "templates/kernel.cpp.j2", "//"),
            cell=cell_text(compiled, lanes),
            prelude=_preludes("cpp/math", "common/pieces", "common/io", *CPP_DRIVER),
            driver=CPP_DRIVER,
            tile=TILE,
        ),
        "kernel.cu": environment.get_template("kernel.cu.j2").render(
            header=_header(compiled, spec, "templates/kernel.cu.j2", "//"),
            cell=cell_text(compiled, registers),
            prelude=_preludes("cuda/math", "common/pieces", "common/io", *CUDA_DRIVER),
            driver=CUDA_DRIVER,
            kernels=CUDA_KERNELS,
            spec=spec,
        ),
    }
    return {name: files[name].rstrip() + "\n" for name in sorted(files)}


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(paths.templates()),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )


def _preludes(*names: str) -> dict[str, str]:
    """Files that are plain code, by name."""
    return {
        n: (paths.templates() / "include" / f"{n}.h").read_text(encoding="utf-8") for n in names
    }


# --- cell.json -------------------------------------------------------------------------------


def kernel_spec(compiled: Compiled, fast_math: bool = False) -> KernelSpec:
    """What the run time needs to know of the cell."""
    cell, program = compiled.cell, compiled.program
    streams, work = len(program.inputs) + len(program.outputs), effort(compiled)
    ahead = 8 if streams <= 3 and work.step.functions < 2 else 4
    # twice the warps have half the registers each
    light = len(program.states) == 1 and ahead * streams <= 16
    return KernelSpec(
        name=cell.name,
        states=tuple(
            StateSpec(name=a.name, init=init)
            for a, init in zip(cell.states, cell.initial, strict=True)
        ),
        inputs=tuple(_input(a) for a in cell.inputs),
        params=tuple(
            ParamSpec(name=a.name, init=_start(a), shared=a.shared, block=a.block)
            for a in cell.params
        ),
        outputs=tuple(cell.outputs),
        constants=cell.constants,
        structure=StructureSpec(**compiled.structure.summary()),
        arguments=tuple(a.name for a in cell.of_kind("input", "param", "matrix")),
        param_slots=len(program.params),
        shared_inputs=sum(a.shared for a in cell.inputs),
        tile=TILE,
        effort=work,
        ahead=ahead,
        warps=16 if light else 8,
        fast_math=fast_math,
    )


def _input(a: Argument) -> InputSpec:
    assert a.typical is not None
    return InputSpec(
        name=a.name, shared=a.shared, projected=a.projected, bias=a.bias, typical=a.typical
    )


def _start(a: Argument) -> Init:
    bound = float(a.block or 1) ** -0.5
    return a.init if isinstance(a.init, Init) else uniform(-bound, bound)


# --- header and module -----------------------------------------------------------------------


def _header(compiled: Compiled, spec: KernelSpec, template: str, comment: str) -> str:
    cell = compiled.cell
    source = _source(cell)
    options = "".join(f" --set {k}={v}" for k, v in cell.constants.items())
    options += " --fast-math" if spec.fast_math else ""
    fast = "Fast math: on a GPU sigmoid and tanh have a relative error of 2^-11 in float32."
    lines = [
        f"Generated by rnncc from {source} and {template}: do not edit.",
        f"To write it again: rnncc compile {source}{options}",
        *([fast] if spec.fast_math else []),
        "",
        *_doc(cell),
        "",
        "The recurrence:",
        *(f"  {line}" for line in _equations(compiled)),
        "",
        "Its Jacobian:",
        *(f"  {line}" for line in str(compiled.jacobian).splitlines()),
        "",
        *textwrap.wrap(f"Structure: {compiled.structure.proof}", WIDTH - 4),
    ]
    return "\n".join(f"{comment} {line}".rstrip() for line in lines)


def _source(cell: CellIR) -> str:
    """The cell as the command line names it, without the machine's own folders."""
    file = Path(cell.file)
    shipped = file.parent.resolve() == paths.cells().resolve()
    name = f"cells/{file.name}" if shipped else file.name
    return name if file.stem == cell.name else f"{name}:{cell.name}"


def _equations(compiled: Compiled) -> list[str]:
    cell = compiled.cell
    lines = [str(let) for let in cell.lets]
    lines += [f"{name}' = {show(expr)}" for name, expr in cell.next.items()]
    return [*lines, f"output: {', '.join(cell.outputs)}"]


# Of the field, in capitals, as is every word without a vowel; letters before STEMS make new ones.
ABBREVIATIONS = "ema lem lmu ode".split()
STEMS = "gru lif lru lstm mgu rnn sru".split()


def class_name(name: str) -> str:
    """my_gru -> MyGRU, xlstm -> XLSTM, a_cell -> ACell: abbreviations stay in capitals."""
    words = "".join(_capital(word) for word in name.split("_"))
    return f"{words}Layer" if words == name else words


def _capital(word: str) -> str:
    stem = any(word.endswith(stem) and len(word) - len(stem) <= 2 for stem in STEMS)
    abbreviated = stem or word in ABBREVIATIONS or not set("aeiouyAEIOUY") & set(word)
    return word.upper() if abbreviated else word[:1].upper() + word[1:]


def _module_context(compiled: Compiled, spec: KernelSpec) -> dict[str, Any]:
    cell = compiled.cell
    starts = sorted(set(cell.initial))
    return {
        "header": _header(compiled, spec, "templates/module.py.j2", "#"),
        "name": cell.name,
        "class_name": class_name(cell.name),
        "doc": [line.replace("\\", "\\\\").replace('"""', "'''") for line in _doc(cell)],
        "equations": _equations(compiled),
        "arguments": [
            {"name": a.name, "text": _argument_text(a)}
            for a in cell.of_kind("input", "param", "matrix")
        ],
        "states": len(cell.states),
        "state_text": "[..., N], the state"
        if len(cell.states) == 1
        else f"the states ({', '.join(s.name for s in cell.states)}), [..., N] each,",
        "start_text": "zeros" if starts == [0.0] else "the cell's own start values",
        "output_text": "[..., T, N]"
        if len(spec.outputs) == 1
        else f"the outputs ({', '.join(spec.outputs)}), [..., T, N] each,",
    }


def _doc(cell: CellIR) -> list[str]:
    return cell.doc.splitlines() or [f"The recurrence '{cell.name}'."]


def _argument_text(argument: Argument) -> str:
    if argument.kind == "input":
        dtypes = "float32, bfloat16, float16 or float64; any strides."
        shape = "[..., T], shared by all channels;" if argument.shared else "[..., T, N],"
        return f"{shape} {dtypes}"
    if argument.kind == "matrix":
        k = argument.block
        return f"[N / {k}, {k}, {k}], one matrix for each {k} consecutive channels."
    return "[1], one value for all channels." if argument.shared else "[N], one value per channel."
