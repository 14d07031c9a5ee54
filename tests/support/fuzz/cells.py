"""Random cells: expression trees with a signature, printed as a cell file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tests.support.fuzz.several import shape
from tests.support.fuzz.tree import OPERATORS, Node, names_in, text_of

IMPORTS = "from collections import namedtuple\n\nfrom rnncc import *\nfrom rnncc import abs, cell\n"
AUGMENTED = ("add", "sub", "mul", "div")
MOST_OF_A_BLOCK = 8  # channels of a group x states


@dataclass(frozen=True)
class Argument:
    """An argument of a cell.

    Attributes:
        kind: "state", "input", "param", "matrix" or "constant".
        options: the text between the role's parentheses, beside `shared` and `block`.
        init: of a state, or the value of a constant.
        block: of a matrix.
        given: of an input: a layer is given it by name.
        size, delay: of vectors and states with a past.
        learned: of a state: "own" if each channel learns its start, "shared" if all learn one.
    """

    name: str
    kind: str
    options: str = ""
    shared: bool = False
    init: float = 0.0
    block: int = 0
    given: bool = False
    size: tuple[int, ...] = ()
    delay: int = 0
    learned: str = ""

    @property
    def extra(self) -> tuple[int, ...]:
        """The dimensions behind the channels."""
        return (*self.size, self.delay + 1) if self.delay else self.size

    @property
    def values(self) -> int:
        return math.prod(self.extra)

    @property
    def text(self) -> str:
        """As the signature has it."""
        if self.kind == "constant":
            return f"{self.name}={self.init!r}"
        options = [f"block={self.block}"] if self.block else []
        options += ["shared=True"] if self.shared else []
        if self.size:
            options.append(f"size={self.size[0] if len(self.size) == 1 else self.size}")
        options += [f"delay={self.delay}"] if self.delay else []
        if self.kind == "state" and self.init:
            options.append(f"init={self.init!r}")
        options += [self.options] if self.options else []
        role = self.kind.capitalize()
        return f"{self.name}: {role}({', '.join(options)})" if options else f"{self.name}: {role}"


@dataclass(frozen=True)
class Let:
    """A named value of a step, with its comment.

    Attributes:
        again: its last operation is an assignment of its own, `z *= ...`.
    """

    name: str
    node: Node
    comment: str = ""
    again: bool = False

    @property
    def lines(self) -> tuple[str, ...]:
        """As a cell has it."""
        comment = f"  # {self.comment}" if self.comment else ""
        if not self.again or self.node.op not in AUGMENTED:
            return (f"{self.name} = {text_of(self.node)}{comment}",)
        first, second = map(text_of, self.node.args)
        return (
            f"{self.name} = {first}",
            f"{self.name} {OPERATORS[self.node.op]}= {second}{comment}",
        )


@dataclass(frozen=True)
class Helper:
    """A plain function that a cell calls: its first parameter becomes the body, `times` times."""

    name: str
    parameters: tuple[str, ...]
    body: Node
    times: int = 1

    @property
    def text(self) -> str:
        first = self.parameters[0]
        head = f"def {self.name}({', '.join(self.parameters)}):\n"
        if self.times == 1:
            return f"{head}    return {text_of(self.body)}\n"
        return (
            f"{head}    for _ in range({self.times}):\n"
            f"        {first} = {text_of(self.body)}\n    return {first}\n"
        )


@dataclass(frozen=True)
class RandomCell:
    """A cell.

    Attributes:
        next: the next value of each state, by name, in the order in which they are returned.
        outputs: those that it returns beside them.
        style: how it returns them: "one", "tuple", "named" or "dict".
        changed: new values of constants, given to `rnncc.compile`.
    """

    name: str
    arguments: tuple[Argument, ...]
    lets: tuple[Let, ...]
    next: Mapping[str, Node]
    outputs: Mapping[str, Node]
    helpers: tuple[Helper, ...] = ()
    style: str = "dict"
    doc: str = ""
    changed: tuple[tuple[str, float], ...] = ()

    def of(self, *kinds: str) -> tuple[Argument, ...]:
        return tuple(a for a in self.arguments if a.kind in kinds)

    @property
    def states(self) -> tuple[Argument, ...]:
        return self.of("state")

    @property
    def starts(self) -> dict[str, Argument]:
        """The states whose start is learned, by the name of it."""
        return {f"{a.name}_init": a for a in self.states if a.learned}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of arguments, lets and outputs, without the past."""
        found = {a.name: a.size for a in self.arguments}
        for let in self.lets:
            found[let.name] = shape(let.node, found)
        last = self.states[-1]
        outputs = {n: shape(body, found) for n, body in self.outputs.items()}
        return found | (outputs or {last.name: last.size})

    def extra(self, named: str) -> tuple[int, ...]:
        """The dimensions behind the channels of a leaf, or of a result."""
        kind, _, of = named.removeprefix("gradient of ").rpartition(" ")
        if kind == "output":
            return self.shapes[of]
        own = self.starts.get(of) or next((a for a in self.arguments if a.name == of), None)
        return own.extra if own else ()

    @property
    def output_names(self) -> list[str]:
        return list(self.outputs) or [self.states[-1].name]

    @property
    def group(self) -> int:
        return max((a.block for a in self.of("matrix")), default=1)

    @property
    def values(self) -> int:
        """Of the states of a group."""
        return self.group * sum(a.values for a in self.states)

    @property
    def bodies(self) -> Iterator[Node]:
        yield from (let.node for let in self.lets)
        yield from self.next.values()
        yield from self.outputs.values()

    @property
    def source(self) -> str:
        """A cell file."""
        head = [self.doc, IMPORTS] if self.doc else [IMPORTS]
        if self.style == "named":
            listed = ", ".join(f"{s.name!r}" for s in self.states)
            head.append(f"Next = namedtuple('Next', [{listed}])\n")
        blocks = ["\n".join(head), *(helper.text for helper in self.helpers)]
        signature = ",\n    ".join(a.text for a in self.arguments)
        lines = [f"@cell\ndef {self.name}(\n    {signature},\n):"]
        for let in self.lets:
            lines += [f"    {line}" for line in let.lines]
        lines.append(f"    return {self._returned()}\n")
        return "\n\n".join([*blocks, "\n".join(lines)])

    def _returned(self) -> str:
        in_order = [text_of(self.next[s.name]) for s in self.states]
        if self.style == "one":
            return in_order[0]
        if self.style == "tuple":
            return f"({', '.join(in_order)})"
        if self.style == "named":
            return f"Next({', '.join(in_order)})"
        entries = {**self.next, **self.outputs}
        return "{" + ", ".join(f"{n!r}: {text_of(node)}" for n, node in entries.items()) + "}"

    def used(self) -> set[str]:
        """The names that its expressions read."""
        return set().union(*(names_in(body) for body in self.bodies))
