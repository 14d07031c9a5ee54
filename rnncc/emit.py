"""Emit: CellIR -> {file name: text}. The only module that lays out text with Jinja."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from typing import Any

import jinja2
import sympy
from sympy import Expr, Symbol

from rnncc import paths
from rnncc.functions import Opaque
from rnncc.ir import AdjointIR, CellIR, JacobianIR, Let, Program, Slot, Structure
from rnncc.jacobian import adjoint, differentiate
from rnncc.lower import lower
from rnncc.printer import CPrinter
from rnncc.spec import (
    InitSpec,
    InputSpec,
    KernelSpec,
    ParamSpec,
    StateSpec,
    StructureSpec,
)
from rnncc.structure import classify

TILE = 128
WIDTH = 100
PRINTER = CPrinter()


@dataclass(frozen=True)
class Compiled:
    """Every stage of one cell, in order."""

    cell: CellIR
    structure: Structure
    program: Program
    jacobian: JacobianIR
    adjoint: AdjointIR


def analyse(cell: CellIR) -> Compiled:
    """All of the calculus: structure, the program of one group, its Jacobian and its adjoint.

    Raises:
        StructureError: channels couple.
    """
    structure = classify(cell)
    program = lower(cell, structure.group)
    return Compiled(cell, structure, program, differentiate(program), adjoint(program))


def emit(compiled: Compiled) -> dict[str, str]:
    """The files of the generated package."""
    spec = kernel_spec(compiled)
    environment = _environment()
    files = {
        "__init__.py": environment.get_template("module.py.j2").render(
            **_module_context(compiled, spec)
        ),
        "cell.json": json.dumps(spec.model_dump(mode="json"), indent=2) + "\n",
        "kernel.cpp": environment.get_template("cpp/kernel.cpp.j2").render(
            header=_header(compiled, "templates/cpp/kernel.cpp.j2", "//"),
            cell=_cell_text(compiled),
            prelude={name: _prelude(f"cpp/{name}.h") for name in ("math", "io", "driver")},
            tile=TILE,
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


def _prelude(name: str) -> str:
    return (paths.templates() / name).read_text()


# --- cell.json -------------------------------------------------------------------------------


def kernel_spec(compiled: Compiled) -> KernelSpec:
    """What the run time needs to know of the cell."""
    cell, program = compiled.cell, compiled.program
    return KernelSpec(
        name=cell.name,
        states=tuple(StateSpec(name=a.name, start=a.start) for a in cell.states),
        inputs=tuple(InputSpec(name=a.name, shared=a.shared) for a in cell.inputs),
        params=tuple(
            ParamSpec(name=a.name, init=_init(a), shared=a.shared, block=a.block)
            for a in cell.params
        ),
        outputs=tuple(cell.outputs),
        constants=cell.constants,
        structure=StructureSpec(**compiled.structure.summary()),
        arguments=tuple(a.name for a in cell.of_kind("input", "param", "matrix")),
        param_slots=len(program.params),
        shared_inputs=sum(a.shared for a in cell.inputs),
        tile=TILE,
        kept=len(program.states) + len(compiled.adjoint.kept) + len(program.inputs),
    )


def _init(argument: Any) -> InitSpec:
    if argument.init is not None:
        return InitSpec(kind=argument.init.kind, a=argument.init.a, b=argument.init.b)
    bound = float(argument.block or 1) ** -0.5
    return InitSpec(kind="uniform", a=-bound, b=bound)


# --- text of the cell ------------------------------------------------------------------------


def _cell_text(compiled: Compiled) -> dict[str, Any]:
    """Everything that the templates of a kernel lay out; no calculus is left to them."""
    program, reverse = compiled.program, compiled.adjoint
    local = {s.symbol.name: text for s, text in _lane_reads(program)}
    kept_reads = {name: f"kept[{i} * kTile + i]" for i, name in enumerate(reverse.kept)}
    slots = {
        "states": _slots(program.states),
        "inputs": _slots(program.inputs),
        "params": _slots(program.params),
        "outputs": _slots(_output_slots(compiled)),
    }
    return {
        "name": program.name,
        "group": program.group,
        "unit": "one channel"
        if program.group == 1
        else f"a group of {program.group} consecutive channels",
        "tensors": {
            "states": len(compiled.cell.states),
            "inputs": len(compiled.cell.inputs),
            "params": len(compiled.cell.params),
            "outputs": len(compiled.cell.outputs),
        },
        "slots": slots,
        "states": [s.symbol.name for s in program.states],
        "inputs": [s.symbol.name for s in program.inputs],
        "params": [s.symbol.name for s in program.params],
        "outputs": [_lane_value(v, local) for v in program.outputs],
        "next": [_lane_value(v, local) for v in program.next],
        "kept": list(reverse.kept),
        "shared_inputs": sum(a.shared for a in compiled.cell.inputs),
        "start": [f"real({a.start!r})" for a in compiled.cell.states],
        "entries": _entry_reads(compiled.jacobian),
        "call": {
            "states": _call([local[s.symbol.name] for s in program.states]),
            "inputs": _call([local[s.symbol.name] for s in program.inputs]),
            "params": _call([local[s.symbol.name] for s in program.params]),
            "kept": _call(list(kept_reads.values())),
            "upstream": _call(_upstream_reads(program)),
        },
        "step": _step_text(program, reverse),
        "jacobian": _jacobian_text(program, reverse, compiled.jacobian),
        "adjoint": _adjoint_text(program, reverse),
    }


def _slots(slots: tuple[Slot, ...]) -> str:
    """The initialiser of an array of slots; never empty, as C++ wants."""
    listed = [f"{{{s.tensor}, {s.offset}, {s.stride}}}" for s in slots] or ["{0, 0, 0}"]
    return _wrap(listed, "      ")


def _wrap(items: list[str], indent: str) -> str:
    """Comma-separated items, folded at the line width."""
    lines, line = [], ""
    for i, item in enumerate(items):
        piece = item + ("," if i + 1 < len(items) else "")
        if line and len(indent) + len(line) + len(piece) + 1 > WIDTH:
            lines.append(line)
            line = piece
        else:
            line = f"{line} {piece}".strip()
    return f"\n{indent}".join([*lines, line])


def _locals(outs: list[str]) -> str:
    """Results as locals of a loop over lanes; the prefix keeps them apart from the loop's own."""
    return _wrap([f"out_{name}" for name in outs], " " * 12)


def _call(reads: list[str]) -> str:
    return _wrap(reads, " " * 12)


def _lane_reads(program: Program) -> list[tuple[Slot, str]]:
    """How the scalar of each argument is read inside the loop over lanes."""
    reads = [(s, f"h[{i} * kTile + i]") for i, s in enumerate(program.states)]
    reads += [(s, f"x[{i}][i]") for i, s in enumerate(program.inputs)]
    return reads + [(s, f"p[{i} * kTile + i]") for i, s in enumerate(program.params)]


def _lane_value(symbol: Symbol, local: dict[str, str]) -> dict[str, Any]:
    """A result: an argument handed on, or a local of the step."""
    return {"value": local.get(symbol.name, f"out_{symbol.name}"), "is_argument": symbol.name in local}


def _upstream_reads(program: Program) -> list[str]:
    """g for a next state, plus dy wherever that state is an output; dy alone for a readout."""
    reads = []
    for s, value in enumerate(program.next):
        first = program.next.index(value) == s
        terms = [f"g[{s} * kTile + i]"]
        terms += [f"dy[{o}][i]" for o, v in enumerate(program.outputs) if first and v == value]
        reads.append(" + ".join(terms))
    for value in program.readouts:
        reads.append(" + ".join(f"dy[{o}][i]" for o, v in enumerate(program.outputs) if v == value))
    return reads


def _output_slots(compiled: Compiled) -> tuple[Slot, ...]:
    k = compiled.program.group
    return tuple(
        Slot(symbol, o // k, o % k, k) for o, symbol in enumerate(compiled.program.outputs)
    )


def _results(program: Program, reverse: AdjointIR) -> list[str]:
    """The lets that leave the step: next states, outputs, and what the adjoint reads."""
    wanted = {v.name for v in (*program.next, *program.outputs)} | set(reverse.kept)
    return [let.name for let in program.lets if let.name in wanted]


def _step_text(program: Program, reverse: AdjointIR) -> dict[str, Any]:
    outs = _results(program, reverse)
    results = {*outs}
    lines = [
        {
            "code": f"{'' if let.name in results else 'const real '}{let.name} = "
            f"{PRINTER.text(let.expr)};",
            "note": let.note,
        }
        for let in program.lets
    ]
    return {
        "locals": _locals(outs),
        "lines": lines,
        "cost": _cost([let.expr for let in program.lets]),
        "signature": _signature(program, [], outs, "next state and lets"),
    }


def _jacobian_text(program: Program, reverse: AdjointIR, jacobian: JacobianIR) -> dict[str, Any]:
    outs, lines = [], _assignments(jacobian.lets)
    for row, entries in zip(jacobian.states, jacobian.entries, strict=True):
        for column, entry in zip(jacobian.states, entries, strict=True):
            if entry != 0:
                outs.append(f"J_{row}_{column}")
                lines.append({"code": f"J_{row}_{column} = {PRINTER.text(entry)};", "note": ""})
    return {
        "locals": _locals(outs or ["none"]),
        "lines": lines or [{"code": "none = 0.0f;", "note": "no state feeds back"}],
        "cost": _cost([let.expr for let in jacobian.lets]),
        "signature": _signature(
            program, [("lets of the step", list(reverse.kept))], outs or ["none"], "entries"
        ),
    }


def _entry_reads(jacobian: JacobianIR) -> list[str]:
    return [
        f"out_J_{row}_{column}" if entry != 0 else "0"
        for row, entries in zip(jacobian.states, jacobian.entries, strict=True)
        for column, entry in zip(jacobian.states, entries, strict=True)
    ]


def _adjoint_text(program: Program, reverse: AdjointIR) -> dict[str, Any]:
    upstream = [s.name for s in (*reverse.upstream_states, *reverse.upstream_outputs)]
    lines = _assignments(reverse.lets)
    named = {}
    for kind, slots, values in (
        ("state", program.states, reverse.states),
        ("input", program.inputs, reverse.inputs),
        ("param", program.params, reverse.params),
    ):
        named[f"{kind}_outs"] = [f"d_{slot.symbol.name}" for slot in slots]
        lines += [
            {"code": f"d_{slot.symbol.name} = {PRINTER.text(value)};", "note": ""}
            for slot, value in zip(slots, values, strict=True)
        ]
    outs = [name for group in named.values() for name in group]
    before = [("lets of the step", list(reverse.kept)), ("upstream gradients", upstream)]
    return {
        **named,
        "locals": _locals(outs),
        "lines": lines,
        "cost": _cost([*(let.expr for let in reverse.lets), *reverse.states, *reverse.params]),
        "signature": _signature(program, before, outs, "gradients"),
    }


def _assignments(lets: tuple[Let, ...]) -> list[dict[str, str]]:
    return [
        {"code": f"const real {let.name} = {PRINTER.text(let.expr)};", "note": let.note}
        for let in lets
    ]


def _signature(
    program: Program, before: list[tuple[str, list[str]]], outs: list[str], note: str
) -> list[dict[str, str]]:
    groups = [
        ("states", [s.symbol.name for s in program.states]),
        ("inputs", [s.symbol.name for s in program.inputs]),
        ("params", [s.symbol.name for s in program.params]),
        *before,
    ]
    lines = [
        {"text": _wrap([f"real {name}" for name in names], "    "), "note": label}
        for label, names in groups
        if names
    ]
    return [*lines, {"text": _wrap([f"real& {name}" for name in outs], "    "), "note": note}]


def _cost(exprs: list[Expr]) -> str:
    """Arithmetic and function calls of some lets, as a comment."""
    calls: dict[str, int] = {}
    operations = 0
    for expr in exprs:
        for opaque in sorted(expr.atoms(Opaque), key=str):
            name = type(opaque).__name__
            calls[name] = calls.get(name, 0) + 1
        operations += int(sympy.count_ops(expr)) - len(expr.atoms(Opaque))
    listed = ", ".join(f"{n} {name}" for name, n in sorted(calls.items()))
    return f"Operations: {operations}" + (f"; functions: {listed}." if listed else ".")


# --- header and module -----------------------------------------------------------------------


def _header(compiled: Compiled, template: str, comment: str) -> str:
    cell = compiled.cell
    source = f"cells/{cell.file.replace(chr(92), '/').rsplit('/', 1)[-1]}"
    constants = "".join(f" --set {k}={v}" for k, v in cell.constants.items())
    lines = [
        f"Generated by rnncc from {source} and {template}: do not edit.",
        f"To write it again: rnncc compile {source}{constants}",
        "",
        *cell.doc.splitlines(),
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


def _equations(compiled: Compiled) -> list[str]:
    cell = compiled.cell
    lines = [str(let) for let in cell.lets]
    lines += [f"{name}' = {expr}" for name, expr in cell.next.items()]
    return lines + [f"output: {', '.join(cell.outputs)}"]


def class_name(name: str) -> str:
    """para_gru -> ParaGRU: words that are abbreviations of the field stay in capitals."""
    capitals = {"gru", "lstm", "rnn", "lru", "lif", "mgu", "sru", "brc", "ssm", "ltc", "cfc", "lmu"}
    return "".join(w.upper() if w in capitals else w[:1].upper() + w[1:] for w in name.split("_"))


def _module_context(compiled: Compiled, spec: KernelSpec) -> dict[str, Any]:
    cell = compiled.cell
    return {
        "header": _header(compiled, "templates/module.py.j2", "#"),
        "name": cell.name,
        "class_name": class_name(cell.name),
        "doc": [line.replace("\\", "\\\\").replace('"""', "'''") for line in cell.doc.splitlines()],
        "spec": spec,
        "equations": _equations(compiled),
    }
