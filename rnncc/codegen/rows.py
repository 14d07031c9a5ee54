"""Rows: Compiled -> the rows of lanes that each loop of a C++ kernel walks over.

Their prefixes (h_ state, x_ input, p_ param, k_ stored let, y_ output, g_ and d_ gradients) keep
them apart from each other and, with `out_` for results, from every name of the cell.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from rnncc.codegen.copies import made_by
from rnncc.codegen.layout import statement
from rnncc.codegen.once import Once
from rnncc.ir.program import Compiled


@dataclass(frozen=True)
class LoopRows:
    """The rows of one loop, declared.

    Attributes:
        whole: of one array [scalar][lane], before the loop.
        blocks: that lie anywhere, block by block of lanes; for each part of a step.
    """

    whole: str
    blocks: tuple[str, ...]


@dataclass(frozen=True)
class Rows:
    """The rows of all loops."""

    step: LoopRows
    jacobian: LoopRows
    carry: LoopRows
    adjoint: LoopRows


def rows(compiled: Compiled, once: Once) -> Rows:
    """The declarations before the loops over lanes."""
    program = compiled.program
    states = [s.symbol.name for s in program.states]
    inputs = [s.symbol.name for s in program.inputs]
    params = [s.symbol.name for s in program.params]
    outputs = [str(o) for o in range(len(program.outputs))]
    entries = [f"{r}_{c}" for r, c in compiled.products]
    packed = partial(_packed, "kRow" if once.large else "pitch")
    h, p, k = packed("h", states), packed("p", params), packed("k", compiled.rows, "stored")
    x = _apart("x", inputs)
    next_ = packed("next", states, const=False)
    k_written = packed("k", compiled.rows, "stored", const=False)
    M, N = packed("M", entries), packed("N", entries, "M_next", const=False)
    g, dp = packed("g", states, const=False), packed("dp", params, const=False)
    y = _unread("y", outputs) if once.large else _results("y", outputs, only="write")
    dx = _unread("dx", inputs) if once.adjoint else _results("dx", inputs, only="all")
    dy = _apart("dy", outputs)
    return Rows(
        step=_loop([*h, *next_, *p, *k_written], *[[*x, *own] for own in _by_part(compiled, y)]),
        jacobian=_loop([*h, *p, *k], x),
        carry=_loop([*M, *N] if once.large else [*h, *p, *k, *M, *N], [] if once.large else x),
        adjoint=_loop([*h, *p, *k, *g, *dp], [*x, *dy, *dx]),
    )


Row = tuple[str, str]


def _by_part(compiled: Compiled, y: list[Row]) -> Iterable[list[Row]]:
    """The rows of the outputs that each part of a step writes."""
    for part in range(len(compiled.fission.parts)):
        made = made_by(compiled, part)
        yield [row for row, o in zip(y, compiled.program.outputs, strict=True) if o.name in made]


def _packed(
    pitch: str, prefix: str, names: Iterable[str], array: str = "", const: bool = True
) -> list[Row]:
    return [
        (_head(prefix, name, const), f"{array or prefix} + {i} * {pitch}")
        for i, name in enumerate(names)
    ]


def _apart(prefix: str, names: Iterable[str]) -> list[Row]:
    return [(_head(prefix, n, True), f"{prefix}[{i}].block(first)") for i, n in enumerate(names)]


def _results(prefix: str, names: Iterable[str], only: str) -> list[Row]:
    """Blocks of lanes that go to their rows at the end, if a flag of the loop is set."""
    return [
        (f"Result {prefix}_{name}", f"{{{only} ? {prefix} + {i} : nullptr, first}}")
        for i, name in enumerate(names)
    ]


def _unread(prefix: str, names: Iterable[str]) -> list[Row]:
    """Rows of an array, or where it is null of a place that no one reads."""
    other = "unread + {} * kLanes - first"
    return [
        (_head(prefix, n, False), f"{prefix} ? {prefix}[{i}].block(first) : {other.format(i)}")
        for i, n in enumerate(names)
    ]


def _head(prefix: str, name: str, const: bool) -> str:
    return f"{'const ' if const else ''}real* __restrict {prefix}_{name}"


def _loop(whole: list[Row], *blocks: list[Row]) -> LoopRows:
    return LoopRows(
        whole="\n".join(statement(head, value, 4) for head, value in whole),
        blocks=tuple("\n".join(statement(*row, 6) for row in part) for part in blocks),
    )
