"""Cell text: Compiled -> every line of the kernels that depends on the cell, for the templates."""

from __future__ import annotations

from typing import Any

import sympy
from sympy import Expr, Symbol

from rnncc.functions import Opaque
from rnncc.ir import AdjointIR, Compiled, JacobianIR, Let, Program, Slot
from rnncc.printer import CPrinter

WIDTH = 100
PRINTER = CPrinter()

Row = dict[str, str]


def cell_text(compiled: Compiled) -> dict[str, Any]:
    """Everything that the templates of a kernel lay out; no calculus is left to them."""
    program, reverse, cell = compiled.program, compiled.adjoint, compiled.cell
    rows = _Rows(program, reverse)
    arguments = [rows.read[s.name] for s in program.arguments]
    k = program.group
    return {
        "name": program.name,
        "group": k,
        "unit": "one channel" if k == 1 else f"a group of {k} consecutive channels",
        "tensors": {
            "states": len(cell.states),
            "inputs": len(cell.inputs),
            "params": len(cell.params),
            "outputs": len(cell.outputs),
        },
        "counts": {
            "states": len(program.states),
            "inputs": len(program.inputs),
            "params": len(program.params),
            "outputs": len(program.outputs),
        },
        "slots": {
            "states": _slots(program.states),
            "inputs": _slots(program.inputs),
            "params": _slots(program.params),
            "outputs": _slots(_output_slots(compiled)),
        },
        "next": [v.name for v in program.next],
        "kept": list(reverse.kept),
        "shared_inputs": sum(a.shared for a in cell.inputs),
        "start": [f"real({a.start!r})" for a in cell.states],
        "rows": rows.declared,
        "call": {
            "arguments": _call(arguments),
            "arguments_and_kept": _call([*arguments, *(f"k_{name}[i]" for name in reverse.kept)]),
            "upstream": _call(_upstream_reads(program)),
        },
        "step": _step_text(program, reverse, rows),
        "jacobian": _jacobian_text(program, reverse, compiled.jacobian),
        "adjoint": _adjoint_text(program, reverse),
    }


class _Rows:
    """The rows of lanes that each loop walks over.

    Their prefixes (h_ state, x_ input, p_ param, k_ kept, y_ output, g_ and d_ gradients) keep them
    apart from each other and, with `out_` for results, from every name of the cell.
    """

    def __init__(self, program: Program, reverse: AdjointIR) -> None:
        states = [s.symbol.name for s in program.states]
        inputs = [s.symbol.name for s in program.inputs]
        params = [s.symbol.name for s in program.params]
        outputs = [str(o) for o in range(len(program.outputs))]
        self.read = {name: f"h_{name}[i]" for name in states}
        self.read |= {name: f"x_{name}[i]" for name in inputs}
        self.read |= {name: f"p_{name}[i]" for name in params}

        kept = list(reverse.kept)
        read_x, read_p = _separate("x", inputs), _packed("p", params)
        fixed = [*_packed("h", states), *read_x, *read_p, *_packed("k", kept, "kept")]
        self.declared = {
            "step": [
                *_packed("h", states, const=False),
                *read_x,
                *read_p,
                *_separate("y", outputs, const=False),
                *_packed("k", kept, "kept", const=False),
            ],
            "jacobian": fixed,
            "adjoint": [
                *fixed,
                *_packed("g", states, const=False),
                *_separate("dy", outputs),
                *_separate("dx", inputs, const=False),
                *_packed("dp", params, const=False),
            ],
        }


def _packed(prefix: str, names: list[str], array: str = "", const: bool = True) -> list[Row]:
    """Rows of one array [scalar][lane]."""
    values = [f"{array or prefix} + {i} * kTile" for i in range(len(names))]
    return _rows(prefix, names, values, const)


def _separate(prefix: str, names: list[str], const: bool = True) -> list[Row]:
    """Rows that lie anywhere, by an array of pointers."""
    return _rows(prefix, names, [f"{prefix}[{i}]" for i in range(len(names))], const)


def _rows(prefix: str, names: list[str], values: list[str], const: bool) -> list[Row]:
    kind = "const real*" if const else "real*"
    return [
        {"type": kind, "name": f"{prefix}_{n}", "value": v}
        for n, v in zip(names, values, strict=True)
    ]


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


def _upstream_reads(program: Program) -> list[str]:
    """g for a next state, plus dy wherever that state is an output; dy alone for a readout."""
    reads = []
    for s, value in enumerate(program.next):
        first = program.next.index(value) == s
        terms = [f"g_{program.states[s].symbol.name}[i]"]
        terms += [f"dy_{o}[i]" for o, v in enumerate(program.outputs) if first and v == value]
        reads.append(" + ".join(terms))
    for value in program.readouts:
        reads.append(" + ".join(f"dy_{o}[i]" for o, v in enumerate(program.outputs) if v == value))
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


def _step_text(program: Program, reverse: AdjointIR, rows: _Rows) -> dict[str, Any]:
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
        "stores": _step_stores(program, rows),
        "cost": _cost([let.expr for let in program.lets]),
        "signature": _signature(program, [], outs, "next state and lets"),
    }


def _step_stores(program: Program, rows: _Rows) -> list[str]:
    """Outputs and next states; an argument handed on is read before any state is overwritten."""

    def value(v: Symbol) -> str:
        return rows.read.get(v.name, f"out_{v.name}")

    lines = [f"y_{o}[i] = {value(v)};" for o, v in enumerate(program.outputs)]
    moved = [(s, v) for s, v in enumerate(program.next) if v.name in rows.read]
    lines += [f"const real next_{s} = {value(v)};" for s, v in moved]
    for s, v in enumerate(program.next):
        source = f"next_{s}" if (s, v) in moved else value(v)
        lines.append(f"h_{program.states[s].symbol.name}[i] = {source};")
    return lines


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
        "stores": _entry_stores(jacobian),
        "cost": _cost([let.expr for let in jacobian.lets]),
        "signature": _signature(
            program, [("lets of the step", list(reverse.kept))], outs or ["none"], "entries"
        ),
    }


def _entry_stores(jacobian: JacobianIR) -> list[str]:
    size = len(jacobian.states)
    return [
        f"J[{r * size + c} * kTile + i] = {f'out_J_{row}_{column}' if entries[c] != 0 else '0'};"
        for r, (row, entries) in enumerate(zip(jacobian.states, jacobian.entries, strict=True))
        for c, column in enumerate(jacobian.states)
    ]


def _adjoint_text(program: Program, reverse: AdjointIR) -> dict[str, Any]:
    upstream = [s.name for s in (*reverse.upstream_states, *reverse.upstream_outputs)]
    lines = _assignments(reverse.lets)
    values = [*reverse.states, *reverse.inputs, *reverse.params]
    outs = [f"d_{symbol.name}" for symbol in program.arguments]
    lines += [
        {"code": f"{out} = {PRINTER.text(value)};", "note": ""}
        for out, value in zip(outs, values, strict=True)
    ]
    stores = [f"g_{s.symbol.name}[i] = out_d_{s.symbol.name};" for s in program.states]
    stores += [f"dx_{s.symbol.name}[i] = out_d_{s.symbol.name};" for s in program.inputs]
    stores += [f"dp_{s.symbol.name}[i] += out_d_{s.symbol.name};" for s in program.params]
    before = [("lets of the step", list(reverse.kept)), ("upstream gradients", upstream)]
    return {
        "locals": _locals(outs),
        "lines": lines,
        "stores": stores,
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
