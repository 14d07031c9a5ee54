"""Early: a program -> its lets of params alone, which a GPU computes before the steps."""

from __future__ import annotations

from collections.abc import Iterable

from rnncc.calculus.cost import count
from rnncc.calculus.fission import expensive
from rnncc.codegen.layout import block, fill, statement
from rnncc.codegen.printer import CPrinter
from rnncc.ir.program import Let, Program

PRINTER = CPrinter()


def early(program: Program) -> str:
    """The parameters and statements of a function that computes them; "" if none takes long.

    A compiler won't move a function's code out of a branch in a loop; it does see that a value is
    there already.
    """
    lets = _of_params(program)
    if not any(expensive(name) for name in count([let.expr for let in lets])[1]):
        return ""
    lines = [
        statement(f"const real {let.name}", PRINTER.text(let.expr), 2, let.note) for let in lets
    ]
    params = [f"real {slot.symbol.name}" for slot in program.params]
    names = fill([let.name for let in lets], 6, ");")
    return f"{fill(params, 4, ') {')}\n{block(lines)}\n  rnncc::computed(\n      // lets\n{names}"


def _of_params(program: Program) -> tuple[Let, ...]:
    known = {slot.symbol.name for slot in program.params}

    def those(lets: Iterable[Let]) -> Iterable[Let]:
        for let in lets:
            read = {symbol.name for symbol in let.expr.free_symbols}
            if read and read <= known:
                known.add(let.name)
                yield let

    return tuple(those(program.lets))
