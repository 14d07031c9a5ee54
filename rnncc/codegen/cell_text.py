"""Cell text: Compiled -> everything that cell.h lays out; no calculus is left to its template."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rnncc.codegen.copies import Copies, copies, lanes, registers
from rnncc.codegen.early import early
from rnncc.codegen.functions import Functions, functions
from rnncc.codegen.layout import fill, table
from rnncc.codegen.once import Once
from rnncc.codegen.rows import Rows, rows
from rnncc.ir.program import Compiled, Program, Slot

EMPTY = {"Slot": "{0, 0, 0}"}


@dataclass(frozen=True)
class CellText:
    """The content of cell.h.

    Attributes:
        one_pass: no product of step Jacobians; `jacobian`: nor is there too much of one.
        unit: the channels of one step, in words.
        parts: how many parts a step has.
        once: what a C++ kernel has but once.
        sizes: the constants of struct Cell.
        fed: the states that a step or an output reads, by place.
        entries: (row, column) of a product of step Jacobians that isn't zero by structure.
        slots, borders, products: arrays of struct Cell.
        early: the lets that depend on params alone; `params`: where a GPU's thread has these.
        on_cpu, on_gpu: how the targets call the functions.
    """

    name: str
    one_pass: bool
    jacobian: bool
    unit: str
    parts: int
    once: Once
    functions: Functions
    sizes: dict[str, int]
    affine: bool
    fed: tuple[int, ...]
    entries: tuple[tuple[int, int], ...]
    slots: tuple[str, ...]
    borders: tuple[str, ...]
    products: tuple[str, ...]
    early: str
    params: str
    rows: Rows
    on_cpu: Copies
    on_gpu: Copies


def cell_text(compiled: Compiled, once: Once) -> CellText:
    """Lay out all that depends on the cell."""
    program, made = compiled.program, functions(compiled)
    k = program.group
    return CellText(
        name=program.name,
        one_pass=compiled.one_pass,
        jacobian=compiled.emits_jacobian,
        unit="one channel" if k == 1 else f"a group of {k} consecutive channels",
        parts=len(compiled.fission.parts),
        once=once,
        functions=made,
        sizes=_sizes(compiled),
        affine=compiled.structure.affine,
        fed=compiled.fed,
        entries=compiled.products,
        slots=tuple(_slot_tables(compiled)),
        borders=tuple(_border_tables(compiled)),
        products=tuple(_product_tables(compiled)),
        early=early(program),
        params=_params(program),
        rows=rows(compiled, once),
        on_cpu=copies(compiled, made, lanes, indent=8, fission=True, large=once.large),
        on_gpu=copies(compiled, made, registers, indent=4, fission=False),
    )


def _params(program: Program) -> str:
    places = [registers("p", slot, k) for k, slot in enumerate(program.params)]
    return fill(places, 8, ");") if places else ""


def _sizes(compiled: Compiled) -> dict[str, int]:
    cell, program = compiled.cell, compiled.program
    return {
        "Group": program.group,
        "StateTensors": len(cell.states),
        "InputTensors": len(cell.inputs),
        "ParamTensors": len(cell.params),
        "OutputTensors": len(cell.outputs),
        "States": len(program.states),
        "Inputs": len(program.inputs),
        "Params": len(program.params),
        "Outputs": len(program.outputs),
        "Stored": len(compiled.rows),
        "SharedInputs": sum(a.shared for a in cell.inputs),
    }


def _slot_tables(compiled: Compiled) -> Iterable[str]:
    """The places of scalars, and the init of each state."""
    program, k = compiled.program, compiled.program.group
    outputs = tuple(Slot(s, o // k, o % k, k) for o, s in enumerate(program.outputs))
    for name, slots in (
        ("states", program.states),
        ("inputs", program.inputs),
        ("params", program.params),
        ("outputs", outputs),
    ):
        yield _table("Slot", name, [f"{{{s.tensor}, {s.offset}, {s.stride}}}" for s in slots])
    yield _table("real", "init", [f"real({init!r})" for init in compiled.cell.initial])


def _border_tables(compiled: Compiled) -> Iterable[str]:
    states = range(len(compiled.program.states))
    yield _table("int", "fed", [str(s) for s in compiled.fed])
    yield _table("bool", "checked", [str(s in compiled.fed).lower() for s in states])


def _product_tables(compiled: Compiled) -> Iterable[str]:
    yield _table("int", "product_row", [str(row) for row, _ in compiled.products])
    yield _table("int", "product_column", [str(column) for _, column in compiled.products])


def _table(type_: str, name: str, items: list[str]) -> str:
    """Never empty, as C++ wants."""
    return table(f"static constexpr {type_} {name}[]", items or [EMPTY.get(type_, "0")], 2)
