"""Show: a compiled cell -> its views, as text for people and as data for machines."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from rnncc.inspect.catalogue import fields_of, prose_of, source_of, unit_of

if TYPE_CHECKING:
    from rnncc.calculus.cost import Cost, Pass
    from rnncc.compiler import CompiledCell
    from rnncc.ir.program import Argument, CellIR, Let, Structure
    from rnncc.ir.spec import KernelSpec

Row = tuple[str, ...]

USUAL = "normal(0, 1)"  # what inputs are like where nothing else is said

STAGES = {
    "recurrence": "the equations as traced from the file",
    "lets": "the same as straight-line code for one group of channels",
    "jacobian": "the derivative of each next state by each state",
    "structure": "what was proved of the Jacobian, and its pattern",
    "adjoint": "the gradients of every argument",
    "cpp": "the emitted C++ kernel",
    "cuda": "the emitted CUDA kernels",
    "torch": "the step as plain PyTorch, which the kernels are held to",
}


def stage_text(compiled: CompiledCell, stage: str) -> str:
    """One of `STAGES` as text."""
    stages = compiled.stages
    if stage == "recurrence":
        return str(stages.cell)
    if stage == "lets":
        return str(stages.program)
    if stage == "jacobian":
        return jacobian_text(compiled)
    if stage == "structure":
        return f"{stages.structure.proof}\n\n{pattern_text(compiled)}"
    if stage == "adjoint":
        return _adjoint_text(compiled)
    if stage in ("cpp", "cuda"):
        return compiled.source(stage).rstrip("\n")
    from rnncc.export.torch_loop import plain_source

    return plain_source(stages.cell)


def _adjoint_text(compiled: CompiledCell) -> str:
    """The lets of the adjoint, then what they come to: d_z is dL/dz, given up_h, dL/dh after it."""
    program, adjoint = compiled.stages.program, compiled.stages.adjoint
    values = (*adjoint.states, *adjoint.inputs, *adjoint.params)
    given = [s.name for s in (*adjoint.upstream_states, *adjoint.upstream_outputs)]
    lines = [f"given {', '.join(given)}", str(adjoint)]
    lines += [f"d_{a.name} = {v}" for a, v in zip(program.arguments, values, strict=True)]
    return "\n".join(line for line in lines if line)


# --- text ------------------------------------------------------------------------------------


def equations(cell: CellIR) -> list[str]:
    """The recurrence, a line each: lets, next states, outputs."""
    lines = [str(let) for let in cell.lets]
    lines += [f"{name}' = {expr}" for name, expr in cell.next.items()]
    return lines + [
        f"output {name}" + ("'" if cell.next.get(name) == expr else f" = {expr}")
        for name, expr in cell.outputs.items()
    ]


def jacobian_text(compiled: CompiledCell) -> str:
    """The Jacobian; what it reads and the cell's author did not name stands above it."""
    stages = compiled.stages
    text = str(stages.jacobian)
    if stages.program.group > 1:
        return text
    named = {let.name for let in stages.cell.lets}
    lines: list[str] = []
    for let in reversed(stages.program.lets):
        if let.name not in named and re.search(rf"\b{let.name}\b", "\n".join([*lines, text])):
            lines.insert(0, str(let))
    return "\n".join([*lines, text])


def pattern_text(compiled: CompiledCell) -> str:
    """The zero pattern of a block: a row for each next state, a column for each state."""
    names = compiled.stages.jacobian.states
    width = max(len(name) for name in names)
    head = " " * (width + 2) + " ".join(f"{name:>{width}}" for name in names)
    rows = [
        f"{name + chr(39):<{width + 1}} " + " ".join(f"{entry:>{width}}" for entry in row)
        for name, row in zip(names, compiled.structure.pattern, strict=True)
    ]
    return "\n".join([head, *rows, "(0: always zero, 1: constant, x: varies)"])


def structure_words(structure: Structure) -> list[str]:
    """The structure in a few words: kind, size of the blocks, affine, smooth."""
    kind = structure.kind if structure.group == 1 else f"groups of {structure.group} channels"
    return [
        kind,
        f"blocks of {structure.block}",
        "affine" if structure.affine else "nonlinear",
        "spiking" if structure.spiking else "smooth" if structure.smooth else "with kinks",
    ]


def argument_rows(compiled: CompiledCell) -> list[Row]:
    """Name, role, shape and start of every argument and constant, in the signature's order."""
    cell, spec = compiled.stages.cell, _spec(compiled)
    inits = {p.name: str(p.init) for p in spec.params}
    rows: list[Row] = [
        (a.name, _role(a), _shape(a), inits.get(a.name) or _start_text(a, cell.doc))
        for a in cell.arguments
    ]
    return rows + [
        (name, "constant", "", f"{value:g}{_unit(cell.doc, name)}, changed by --set {name}=...")
        for name, value in cell.constants.items()
    ]


def _role(argument: Argument) -> str:
    return f"{argument.kind}, shared" if argument.shared else str(argument.kind)


def _shape(argument: Argument) -> str:
    if argument.kind == "state":
        return "[B, N]"
    if argument.kind == "input":
        return "[B, T]" if argument.shared else "[B, T, N]"
    if argument.kind == "matrix":
        return f"[N / {argument.block}, {argument.block}, {argument.block}]"
    return "[1]" if argument.shared else "[N]"


def _start_text(argument: Argument, doc: str) -> str:
    unit = _unit(doc, argument.name)
    if argument.kind == "state":
        return f"starts at {argument.init:g}{unit}"
    text = f"given at each step{', in' + unit if unit else ''}"
    if str(argument.typical) != USUAL:
        text += f", like {argument.typical}"
    return text if argument.bias is None else f"{text}; its bias starts as {argument.bias}"


def _unit(doc: str, name: str) -> str:
    unit = unit_of(doc, name)
    return f" {unit}" if unit else ""


def cost_rows(compiled: CompiledCell) -> list[Row]:
    """Pass, operations, functions, reads and writes; for one channel and step in float32."""
    found = cost_of(compiled)
    return [_pass_row("forward", found.forward), _pass_row("backward", found.backward)]


def _pass_row(name: str, work: Pass) -> Row:
    functions = ", ".join(f"{count:g} {f}" for f, count in work.functions.items()) or "none"
    return name, f"{work.operations:g}", functions, _bytes(work.reads), _bytes(work.writes)


def _bytes(tensors: dict[str, float]) -> str:
    return f"{sum(tensors.values()):g} B ({'; '.join(tensors) or 'nothing'})"


def cost_of(compiled: CompiledCell) -> Cost:
    """What a step costs, forward and backward."""
    from rnncc.calculus.cost import cost
    from rnncc.planner.cpu import plan

    spec = _spec(compiled)
    every = plan(spec, (1, 1, spec.group), itemsize=4, threads=1).every
    return cost(compiled.stages, spec, every)


def _spec(compiled: CompiledCell) -> KernelSpec:
    from rnncc.codegen.emit import kernel_spec

    return kernel_spec(compiled.stages)


# --- data ------------------------------------------------------------------------------------


def report(compiled: CompiledCell) -> dict[str, Any]:
    """All that `rnncc check` tells, as data; expressions are text."""
    cell, jacobian = compiled.stages.cell, compiled.stages.jacobian
    found = cost_of(compiled)
    return {
        "name": cell.name,
        "file": cell.file,
        "line": cell.line,
        "doc": cell.doc,
        "source": source_of(cell.doc),
        "recurrence": {
            "lets": [_let(let) for let in cell.lets],
            "next": {name: str(expr) for name, expr in cell.next.items()},
            "outputs": {name: str(expr) for name, expr in cell.outputs.items()},
        },
        "jacobian": {
            "states": list(jacobian.states),
            "lets": [_let(let) for let in jacobian.lets],
            "entries": [[str(entry) for entry in row] for row in jacobian.entries],
        },
        "structure": {**compiled.structure.summary(), "proof": compiled.structure.proof},
        "arguments": [
            dict(zip(("name", "role", "shape", "start"), row, strict=True))
            for row in argument_rows(compiled)
        ],
        "constants": dict(cell.constants),
        "cost": {"per": "channel and step", "dtype": "float32"}
        | {name: vars(work) for name, work in vars(found).items()},
    }


def overview(compiled: CompiledCell) -> dict[str, Any]:
    """What `rnncc show` tells of a cell without a stage, as data."""
    cell = compiled.stages.cell
    return {
        "name": cell.name,
        "file": cell.file,
        "line": cell.line,
        "doc": prose_of(cell.doc),
        "fields": list(fields_of(cell.doc)),
        "source": source_of(cell.doc),
        "recurrence": equations(cell),
        "structure": compiled.structure.summary(),
        "arguments": [
            dict(zip(("name", "role", "shape", "start"), row, strict=True))
            for row in argument_rows(compiled)
        ],
        "use": use(compiled),
    }


def use(compiled: CompiledCell) -> list[str]:
    """Lines of Python, once the cell is compiled into generated/."""
    from rnncc.codegen.emit import class_name

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


def _let(let: Let) -> dict[str, Any]:
    return {"name": let.name, "expr": str(let.expr), "note": let.note, "line": let.line}
