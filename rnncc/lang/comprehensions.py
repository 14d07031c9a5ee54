"""Comprehensions: where a function's bytecode runs them in its own frame, from Python 3.12 on."""

from __future__ import annotations

import dis
from collections.abc import Iterator, Sequence
from types import CodeType


def comprehensions(code: CodeType) -> list[tuple[int, int]]:
    """First and last offset of each that is inlined (PEP 709); none before Python 3.12.

    It begins by putting a local of its variable's name aside, loops, and ends where it stores that
    local again.
    """
    instructions = list(dis.get_instructions(code))
    return list(_inlined(instructions))


def _inlined(instructions: Sequence[dis.Instruction]) -> Iterator[tuple[int, int]]:
    for place, first in enumerate(instructions):
        if first.opname != "LOAD_FAST_AND_CLEAR":
            continue
        rest = instructions[place:]
        loop = next(i for i in rest if i.opname == "FOR_ITER")
        after = (i for i in rest if i.offset >= loop.argval and _stores(i, first.argval))
        yield first.offset, next(after).offset


def _stores(instruction: dis.Instruction, name: str) -> bool:
    """Alone, or beside another local in one instruction."""
    stored = instruction.argval
    names = stored if isinstance(stored, tuple) else (stored,)
    return instruction.opname.startswith("STORE_FAST") and name in names
