"""Cell text: Compiled -> every line of the kernels that depends on the cell, for the templates."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sympy import Expr, Symbol

from rnncc.calculus.operations import work
from rnncc.calculus.rematerialize import needed
from rnncc.codegen.printer import CPrinter
from rnncc.ir.program import Compiled, Let, Program, Slot

WIDTH = 100
PRINTER = CPrinter()

Row = dict[str, str]

# How a target writes a scalar: the array it belongs to, the scalar's name and its place there.
Access = Callable[[str, Any, int], str]


def lanes(array: str, name: Any, place: int) -> str:
    """The inner loop of a C++ kernel runs over lanes i, and each scalar has a row of them."""
    return f"{array}_{name}[i]" if name is not None else f"{array}[{place} * kRow + i]"


def registers(array: str, name: Any, place: int) -> str:
    """A thread of a CUDA kernel has arrays of its own, which become registers."""
    return f"{array}[{place}]"


def cell_text(compiled: Compiled, at: Access) -> dict[str, Any]:
    """Everything that the templates of a kernel lay out; no calculus is left to them."""
    program, cell = compiled.program, compiled.cell
    rows = _Rows(program, compiled.rows, compiled.products)
    read = _reads(program, at)
    jacobian = _jacobian_text(compiled, at)
    arguments = [read[s.name] for s in program.arguments]
    kept = [at("k", name, compiled.rows.index(name)) for name in compiled.kept.stored]
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
        "kept": len(compiled.rows),
        "shared_inputs": sum(a.shared for a in cell.inputs),
        "start": [f"real({init!r})" for init in cell.initial],
        "rows": rows.declared,
        "call": {
            "arguments": _call(arguments),
            "arguments_and_kept": _call([*arguments, *kept]),
            "upstream": _call(_upstream_reads(program, at)),
        },
        "step": _step_text(compiled, read, at),
        "affine": compiled.structure.affine,
        "fed": list(compiled.fed),
        "checked": [str(s in compiled.fed).lower() for s in range(len(program.states))],
        "jacobian": jacobian,
        "carry": _carry_text(compiled, jacobian["names"], at),
        "adjoint": _adjoint_text(compiled, at),
    }


def _reads(program: Program, at: Access) -> dict[str, str]:
    """Where each argument of the step stands."""
    arrays = {"h": program.states, "x": program.inputs, "p": program.params}
    return {
        slot.symbol.name: at(array, slot.symbol.name, place)
        for array, slots in arrays.items()
        for place, slot in enumerate(slots)
    }


class _Rows:
    """The rows of lanes that each loop walks over.

    Their prefixes (h_ state, x_ input, p_ param, k_ kept, y_ output, g_ and d_ gradients) keep them
    apart from each other and, with `out_` for results, from every name of the cell.
    """

    def __init__(
        self, program: Program, lets: tuple[str, ...], products: tuple[tuple[int, int], ...]
    ) -> None:
        states = [s.symbol.name for s in program.states]
        inputs = [s.symbol.name for s in program.inputs]
        params = [s.symbol.name for s in program.params]
        outputs = [str(o) for o in range(len(program.outputs))]
        kept = list(lets)
        p, h = _packed("p", params), _packed("h", states)
        known = [*h, *p, *_packed("k", kept, "kept")]
        x = _apart("x", inputs)
        entries = [f"{r}_{c}" for r, c in products]
        self.declared = {
            "step": {
                "whole": [
                    *h,
                    *_packed("next", states, const=False),
                    *p,
                    *_packed("k", kept, "kept", const=False),
                ],
                "blocks": [*x, *_apart("y", outputs, const=False, only="write")],
            },
            "jacobian": {"whole": known, "blocks": x},
            "carry": {
                "whole": [
                    *known,
                    *_packed("M", entries),
                    *_packed("N", entries, "M_next", const=False),
                ],
                "blocks": x,
            },
            "adjoint": {
                "whole": [
                    *known,
                    *_packed("g", states, const=False),
                    *_packed("dp", params, const=False),
                ],
                "blocks": [
                    *x,
                    *_apart("dy", outputs),
                    *_apart("dx", inputs, const=False, only="all"),
                ],
            },
        }


def _packed(prefix: str, names: list[str], array: str = "", const: bool = True) -> list[Row]:
    """Rows of one array [scalar][lane]."""
    values = [f"{array or prefix} + {i} * kRow" for i in range(len(names))]
    return _rows(prefix, names, values, const)


def _apart(prefix: str, names: list[str], const: bool = True, only: str = "") -> list[Row]:
    """Rows that lie anywhere, block by block; some `only` where a flag of the loop is set."""
    values = [f"{prefix}[{i}].block(first)" for i in range(len(names))]
    if only:
        values = [f"{only} ? {value} : nullptr" for value in values]
    return _rows(prefix, names, values, const)


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


def _upstream_reads(program: Program, at: Access) -> list[str]:
    """g for a next state, plus dy wherever that state is an output; dy alone for a readout."""
    reads = []
    for s, value in enumerate(program.next):
        first = program.next.index(value) == s
        terms = [at("g", program.states[s].symbol.name, s)]
        terms += [at("dy", o, o) for o, v in enumerate(program.outputs) if first and v == value]
        reads.append(" + ".join(terms))
    for value in program.readouts:
        terms = [at("dy", o, o) for o, v in enumerate(program.outputs) if v == value]
        reads.append(" + ".join(terms))
    return reads


def _output_slots(compiled: Compiled) -> tuple[Slot, ...]:
    k = compiled.program.group
    return tuple(
        Slot(symbol, o // k, o % k, k) for o, symbol in enumerate(compiled.program.outputs)
    )


def _results(compiled: Compiled) -> list[str]:
    """The lets that leave the step: next states, outputs, and those with a row."""
    program = compiled.program
    wanted = {v.name for v in (*program.next, *program.outputs)} | set(compiled.rows)
    return [let.name for let in program.lets if let.name in wanted]


def _step_text(compiled: Compiled, read: dict[str, str], at: Access) -> dict[str, Any]:
    program, parts = compiled.program, compiled.parts
    outs = _results(compiled)
    return {
        "locals": _locals(outs),
        "parts": [
            {
                "lines": [_let_line(let, outs) for let in part],
                **_part_of_step(compiled, read, at, n),
            }
            for n, part in enumerate(parts.lets)
        ],
        "cost": _cost([let.expr for let in program.lets]),
        "signature": _signature(program, [], outs, "next state and lets"),
    }


def _let_line(let: Let, outs: list[str]) -> dict[str, str]:
    declared = "" if let.name in outs else "const real "
    return {"code": f"{declared}{let.name} = {PRINTER.text(let.expr)};", "note": let.note}


def _part_of_step(
    compiled: Compiled, arguments: dict[str, str], at: Access, n: int
) -> dict[str, list[str]]:
    """What the loop of one part loads of earlier parts, and what it stores."""
    program, parts = compiled.program, compiled.parts
    here = {let.name for let in parts.lets[n]}
    before = {let.name for part in parts.lets[:n] for let in part}
    read = {s.name for let in parts.lets[n] for s in let.expr.free_symbols}
    last = n == len(parts.lets) - 1
    made = here | ({s.name for s in program.arguments} if last else set())
    nexts = [
        f"{at('next', slot.symbol.name, s)} = {_value(v, arguments)};"
        for s, (slot, v) in enumerate(zip(program.states, program.next, strict=True))
        if v.name in made
    ]
    outputs = [
        f"if (write) {at('y', o, o)} = {_value(v, arguments)};"
        for o, v in enumerate(program.outputs)
        if v.name in made
    ]
    places = {name: at("k", name, k) for k, name in enumerate(compiled.rows)}
    kept = [
        f"{'' if name in parts.crossing else 'if (keep) '}{place} = out_{name};"
        for name, place in places.items()
        if name in here
    ]
    crossing = [name for name in parts.crossing if name in before & read]
    return {
        "loads": [f"out_{name} = {places[name]};" for name in crossing],
        "stores": [*nexts, *outputs, *kept],
    }


def _value(value: Symbol, arguments: dict[str, str]) -> str:
    """A result inside the loop: an argument handed on, or a result of the step."""
    return arguments.get(value.name, f"out_{value.name}")


def _jacobian_text(compiled: Compiled, at: Access) -> dict[str, Any]:
    jacobian, kept = compiled.jacobian, compiled.kept
    names = _Fresh(compiled)
    readers = [*(let.expr for let in jacobian.lets), *(e for row in jacobian.entries for e in row)]
    again = needed(kept.recomputed, readers)
    lines = _assignments([*again, *jacobian.lets])
    outs, stores, size = [], [], len(jacobian.states)
    named: dict[tuple[int, int], str] = {}
    for r, row in enumerate(jacobian.states):
        for c, column in enumerate(jacobian.states):
            entry, place = jacobian.entries[r][c], at("J", None, r * size + c)
            if entry == 0:
                stores.append(f"{place} = 0;")
                continue
            outs.append(names.new(f"J_{row}_{column}"))
            lines.append({"code": f"{outs[-1]} = {PRINTER.text(entry)};", "note": ""})
            stores.append(f"{place} = out_{outs[-1]};")
            named[r, c] = f"out_{outs[-1]}"
    if not outs:
        outs.append(names.new("none"))
        lines.append({"code": f"{outs[0]} = 0.0f;", "note": "no state feeds back"})
    before = [("lets of the step", list(kept.stored))]
    return {
        "locals": _locals(outs),
        "names": named,
        "lines": lines,
        "stores": stores,
        "cost": _cost([*(let.expr for let in again), *readers]),
        "signature": _signature(compiled.program, before, outs, "entries"),
    }


def _carry_text(
    compiled: Compiled, jacobian: dict[tuple[int, int], str], at: Access
) -> dict[str, Any]:
    """The next product J M from the last one, entry by entry."""
    products = compiled.products
    places = {entry: n for n, entry in enumerate(products)}
    stores = []
    for r, c in products:
        terms = [
            f"{name} * {at('M', f'{middle}_{c}', places[middle, c])}"
            for (row, middle), name in jacobian.items()
            if row == r and (middle, c) in products
        ]
        first = jacobian.get((r, c), "real(0)")
        total = " + ".join(terms) or "real(0)"
        stores.append(f"{at('N', f'{r}_{c}', places[r, c])} = first_step ? {first} : {total};")
    return {"entries": products, "stores": stores}


def _adjoint_text(compiled: Compiled, at: Access) -> dict[str, Any]:
    program, reverse, kept = compiled.program, compiled.adjoint, compiled.kept
    names = _Fresh(compiled)
    upstream = [s.name for s in (*reverse.upstream_states, *reverse.upstream_outputs)]
    values = [*reverse.states, *reverse.inputs, *reverse.params]
    readers = [*(let.expr for let in reverse.lets), *values]
    again = needed(kept.recomputed, readers)
    lines = _assignments([*again, *reverse.lets])
    outs = [names.new(f"d_{symbol.name}") for symbol in program.arguments]
    lines += [
        {"code": f"{out} = {PRINTER.text(value)};", "note": ""}
        for out, value in zip(outs, values, strict=True)
    ]
    names_of = [[s.symbol.name for s in slots] for slots in (program.inputs, program.params)]
    states = [
        f"{at('g', s.symbol.name, n)} = out_{o};"
        for n, (s, o) in enumerate(zip(program.states, outs, strict=False))
    ]
    places = [f"{at('dx', name, n)} =" for n, name in enumerate(names_of[0])]
    places += [f"{at('dp', name, n)} +=" for n, name in enumerate(names_of[1])]
    before = [("lets of the step", list(kept.stored)), ("upstream gradients", upstream)]
    return {
        "locals": _locals(outs),
        "lines": lines,
        "states": states,
        "stores": [
            f"{place} out_{out};" for place, out in zip(places, outs[len(states) :], strict=True)
        ],
        "cost": _cost([*(let.expr for let in again), *readers]),
        "signature": _signature(program, before, outs, "gradients"),
    }


class _Fresh:
    """Names for results beside every name of the cell and of its derivatives."""

    def __init__(self, compiled: Compiled) -> None:
        reverse = compiled.adjoint
        upstream = (*reverse.upstream_states, *reverse.upstream_outputs)
        lets = (*compiled.program.lets, *compiled.jacobian.lets, *reverse.lets)
        self.taken = {s.name for s in (*compiled.program.arguments, *upstream)}
        self.taken |= {let.name for let in lets}

    def new(self, wanted: str) -> str:
        while wanted in self.taken:
            wanted += "_"
        self.taken.add(wanted)
        return wanted


def _assignments(lets: Iterable[Let]) -> list[dict[str, str]]:
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
    operations, calls = work(exprs)
    listed = ", ".join(f"{calls[name]} {name}" for name in sorted(calls))
    return f"Operations: {operations}" + (f"; functions: {listed}." if listed else ".")
