"""Shrink: a cell and call that fail -> smaller ones that fail alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from tests.support.fuzz.calls import RandomCall
from tests.support.fuzz.cells import RandomCell
from tests.support.fuzz.several import ONE
from tests.support.fuzz.tree import CONDITIONS, Node, lift, names_in, renamed

Fails = Callable[[RandomCell, RandomCall], bool]


def shrink(
    cell: RandomCell, call: RandomCall, fails: Fails, seconds: float = 60.0
) -> tuple[RandomCell, RandomCall]:
    """The smallest that was found; the first that fails is taken each time.

    Args:
        fails: whether a cell and call fail as the first did.
    """
    until = time.monotonic() + seconds
    found = True
    while found:
        found = False
        for smaller in _smaller(cell, call):
            if time.monotonic() > until:
                return cell, call
            if fails(*smaller):
                cell, call = smaller
                found = True
                break
    return cell, call


def _smaller(cell: RandomCell, call: RandomCall) -> Iterator[tuple[RandomCell, RandomCall]]:
    for other in _calls(cell, call):
        yield cell, other
    for made in map(_tidied, _cells(cell)):
        if made.states and made.of("input"):
            yield made, call


def _calls(cell: RandomCell, call: RandomCall) -> Iterator[RandomCall]:
    plain: dict[str, object] = {
        "layouts": {}, "without": (), "ignored": (), "return_states": False, "reset": 0.0,
        "form": "positional", "threads": 1, "params": call.h0 if call.h0 != "none" else call.params,
    }  # fmt: skip
    for what, value in plain.items():
        if getattr(call, what) != value and (what != "form" or call.form != "inference"):
            yield replace(call, **{what: value})  # type: ignore[arg-type]
    for option in call.options:
        if option != "solver":
            yield replace(call, options={k: v for k, v in call.options.items() if k != option})
    if call.lengths is not None:
        yield replace(call, lengths=None)
    elif call.cu_seqlens is not None:
        yield replace(call, cu_seqlens=None)
    else:
        if call.leading != (1,):
            yield replace(call, leading=(1,))
        if call.steps > 1:
            yield replace(call, steps=call.steps // 2)
            yield replace(call, steps=call.steps - 1)
    if call.channels > cell.group:
        yield replace(call, channels=cell.group)


def _cells(cell: RandomCell) -> Iterator[RandomCell]:
    for out in cell.outputs:
        yield replace(cell, outputs={n: b for n, b in cell.outputs.items() if n != out})
    for a in cell.arguments:
        yield _without(cell, a.name)
        if a.learned:
            plain = replace(a, learned="", options="")
            yield replace(cell, arguments=tuple(plain if b is a else b for b in cell.arguments))
    for let in cell.lets:
        rest = tuple(other for other in cell.lets if other is not let)
        yield _mapped(replace(cell, lets=rest), partial(renamed, names={let.name: let.node}))
    if any(let.comment for let in cell.lets) or cell.doc:
        bare = tuple(replace(let, comment="") for let in cell.lets)
        yield replace(cell, lets=bare, doc="")
    for state, body in cell.next.items():
        for part in _parts(body):
            yield replace(cell, next={**cell.next, state: part})
    for out, body in cell.outputs.items():
        for part in _parts(body):
            yield replace(cell, outputs={**cell.outputs, out: part})
    for i, let in enumerate(cell.lets):
        for part in _parts(let.node):
            yield replace(cell, lets=(*cell.lets[:i], replace(let, node=part), *cell.lets[i + 1 :]))


def _without(cell: RandomCell, argument: str) -> RandomCell:
    """With a number in the place of an argument, which goes; a matrix leaves what it mixes."""
    rest = tuple(a for a in cell.arguments if a.name != argument)
    next_ = {n: body for n, body in cell.next.items() if n != argument}
    changed = tuple(pair for pair in cell.changed if pair[0] != argument)

    def replaced(node: Node) -> Node:
        if node.op == "mix" and node.args[0].value == argument:
            return replaced(node.args[1])
        first = node.args[0] if node.args else node
        if (node.op == "ago" or node.op in ONE) and first.value == argument:
            return lift(0.5)
        if node.op == "name" and node.value == argument:
            return lift(0.5)
        return replace(node, args=tuple(map(replaced, node.args)))

    return _mapped(replace(cell, arguments=rest, next=next_, changed=changed), replaced)


def _mapped(cell: RandomCell, change: Callable[[Node], Node]) -> RandomCell:
    return replace(
        cell,
        lets=tuple(replace(let, node=change(let.node)) for let in cell.lets),
        next={n: change(body) for n, body in cell.next.items()},
        outputs={n: change(body) for n, body in cell.outputs.items()},
    )


def _parts(node: Node) -> Iterator[Node]:
    """The node with any one operation replaced by one of its arguments."""
    usable = [a for a in node.args if a.op not in CONDITIONS]
    if node.op == "mix":
        usable = [node.args[1]]
    if node.op in CONDITIONS:
        usable = (
            [a for a in node.args if a.op in CONDITIONS] if node.op in ("both", "either") else []
        )
    yield from usable
    for i, arg in enumerate(node.args):
        for part in _parts(arg):
            yield replace(node, args=(*node.args[:i], part, *node.args[i + 1 :]))


def _tidied(cell: RandomCell) -> RandomCell:
    """Without lets and arguments that nothing reads, states excepted."""
    lets = list(cell.lets)
    bodies = [*cell.next.values(), *cell.outputs.values()]
    while True:
        read = set().union(*map(names_in, [*bodies, *(let.node for let in lets)]), set())
        left = [let for let in lets if let.name in read]
        if len(left) == len(lets):
            break
        lets = left
    arguments = tuple(a for a in cell.arguments if a.kind == "state" or a.name in read)
    known = {a.name for a in arguments}
    changed = tuple(pair for pair in cell.changed if pair[0] in known)
    style = cell.style if cell.style == "dict" or len(cell.next) > 1 else "one"
    return replace(cell, lets=tuple(lets), arguments=arguments, changed=changed, style=style)
