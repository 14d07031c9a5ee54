"""Early: a program -> its lets of params alone, which a GPU computes before the steps."""

from __future__ import annotations

from rnncc.calculus.cost import count, of_params
from rnncc.calculus.fission import expensive
from rnncc.codegen.layout import block, fill, statement
from rnncc.codegen.printer import CPrinter
from rnncc.ir.program import Program

PRINTER = CPrinter()


def early(program: Program) -> str:
    """The parameters and statements of a function that computes them; "" if none takes long.

    A compiler won't move a function's code out of a branch in a loop; it does see that a value is
    there already.
    """
    lets = of_params(program)
    if not any(expensive(name) for name in count([let.expr for let in lets])[1]):
        return ""
    lines = [
        statement(f"const real {let.name}", PRINTER.text(let.expr), 2, let.note) for let in lets
    ]
    params = [f"real {slot.symbol.name}" for slot in program.params]
    names = fill([let.name for let in lets], 6, ");")
    return f"{fill(params, 4, ') {')}\n{block(lines)}\n  rnncc::computed(\n      // lets\n{names}"
