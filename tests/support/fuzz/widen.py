"""Widen: a random cell -> the same with vectors, delays and learned starts."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.support.fuzz.cells import Argument, RandomCell
from tests.support.fuzz.several import Shape, shape
from tests.support.fuzz.tree import CONDITIONS, Node, apply, name

SHARE = 0.4  # of all cells
MOST = 24  # values of a group, nearly always
STARTS = ("init=Param", "init=Param(init=normal(0, 0.5))", "init=Param(init=constant(0.3))")


def widened(seed: str, cell: RandomCell, share: float = SHARE) -> RandomCell:
    """Some cells with vectors, delays or learned starts in them."""
    rng = random.Random(f"wide {seed}")
    if rng.random() >= share:
        return cell
    kinds = rng.choice(["v", "v", "d", "s", "vd", "vs", "ds", "vds"])
    if "v" in kinds:
        cell = _Vectors(rng, cell).widened()
    if "d" in kinds:
        cell = _delayed(rng, cell)
    if "s" in kinds:
        cell = _started(rng, cell)
    return cell


def _room(cell: RandomCell) -> int:
    """How many values more a group may have."""
    return MOST // cell.group - sum(a.values for a in cell.states)


# --- vectors ---------------------------------------------------------------------------------


@dataclass
class _Vectors:
    rng: random.Random
    cell: RandomCell

    def widened(self) -> RandomCell:
        """Some arguments get a size, and all bodies read them so."""
        rng, cell = self.rng, self.cell
        self.size = rng.choice([1, 2, 2, 3, 3, 4, 9])
        states = [a.name for a in cell.states]
        rng.shuffle(states)
        most = _room(cell) // max(self.size - 1, 1)
        wide = set(states[: min(rng.choice([1, 1, 2]), most)])
        others = [a for a in cell.of("input", "param") if rng.random() < 0.5]
        shapes: dict[str, Shape] = dict.fromkeys(wide | {a.name for a in others}, (self.size,))
        params = [a.name for a in others if a.kind == "param"]
        if params and self.size < 5 and rng.random() < 0.4:
            shapes[params[0]] = (self.size, self.size)
        if not shapes:
            return cell
        self.shapes, self.conditions = dict(shapes), set[str]()
        lets = []
        for let in cell.lets:
            node = self.any_of(let.node)
            if found := shape(node, self.shapes):
                self.shapes[let.name] = found
                self.conditions |= {let.name} if node.op in CONDITIONS else set()
            lets.append(replace(let, node=node))
        next_ = {n: self.next_of(n, body) for n, body in cell.next.items()}
        outputs = {n: self.any_of(body) for n, body in cell.outputs.items()}
        arguments = tuple(replace(a, size=shapes.get(a.name, ())) for a in cell.arguments)
        return self.all_read(replace(cell, arguments=arguments, lets=tuple(lets), next=next_,
                                     outputs=outputs))  # fmt: skip

    def any_of(self, node: Node) -> Node:
        return self.many(node) if self.rng.random() < 0.5 else self.one(node)

    def next_of(self, state: str, body: Node) -> Node:
        """With the size of the state."""
        if not (size := self.shapes.get(state)):
            return self.one(body)
        found = self.many(body)
        if self.rng.random() < 0.3:
            mixed = self.product(name(state))
            found = 0.5 * found + 0.4 * apply("tanh", mixed)
        if shape(found, self.shapes) == size:
            return found
        if self.rng.random() < 0.5:
            return found + 0.1 * name(state)
        return Node("list", tuple(found * round(1 - 0.1 * k, 2) for k in range(size[0])))

    def product(self, vector: Node) -> Node:
        """With a matrix of numbers, or a param that is one."""
        n = self.size
        square = [m for m, s in self.shapes.items() if s == (n, n)]
        if square and self.rng.random() < 0.7:
            return apply("matvec", name(square[0]), vector)
        numbers = [0, 0.25, -0.5, 1, 0.75, -1]
        rows = tuple(tuple(self.rng.choice(numbers) for _ in range(n)) for _ in range(n))
        if not all(any(row) for row in zip(*rows, strict=True)):
            rows = tuple(tuple(0.5 + 0.25 * (i == j) for j in range(n)) for i in range(n))
        return Node("matvec", (vector,), rows)

    def one(self, node: Node) -> Node:
        """The body with one value: of each vector in it an element, a sum, ..."""
        return self._changed(node, self._one_of)

    def many(self, node: Node) -> Node:
        """The body element by element, over most vectors in it."""
        return self._changed(node, self._many_of)

    def _changed(self, node: Node, of: Callable[[str], Node]) -> Node:
        if node.op == "mix":
            return replace(node, args=(node.args[0], self._changed(node.args[1], of)))
        if node.op == "name":
            return of(node.value) if node.value in self.shapes else node
        return replace(node, args=tuple(self._changed(arg, of) for arg in node.args))

    def _row(self, vector: str) -> Node:
        """The vector, or a row of the matrix."""
        if len(self.shapes[vector]) == 1:
            return name(vector)
        return Node("item", (name(vector),), (self.rng.randrange(self.size),))

    def _one_of(self, vector: str) -> Node:
        row = self._row(vector)
        if vector in self.conditions:
            return Node("item", (row,), (self.rng.randrange(self.size),))
        kind = self.rng.choice(["item", "item", "sum", "dot", "logsumexp_of", "largest", "softmax"])
        place = (self.rng.randrange(self.size),)
        if kind == "item":
            return Node("item", (row,), place)
        if kind == "softmax":
            return Node("item", (Node("softmax_of", (row,)),), place)
        if kind == "dot":
            other = self._row(self.rng.choice(sorted(self.shapes.keys() - self.conditions)))
            return Node("dot", (row, other))
        if kind == "sum":
            return Node("sum", (row,))
        return Node(kind, (row,)) if self.size > 1 else Node("item", (row,), place)

    def _many_of(self, vector: str) -> Node:
        kind = self.rng.choices(["it", "one", "softmax_of", "turned", "mix"], [70, 12, 6, 6, 6])[0]
        row = self._row(vector)
        if vector in self.conditions:
            return row
        if kind == "one":
            return self._one_of(vector)
        if kind == "mix":
            return self.product(row)
        return row if kind == "it" else Node(kind, (row,))

    def all_read(self, cell: RandomCell) -> RandomCell:
        """With terms for the vectors of which a body may leave an element out."""
        whole = {n for body in cell.bodies for n in _read_whole(body)}
        first, terms = next(iter(cell.next)), []
        for a in cell.arguments:
            if len(a.size) == 1 and a.name not in whole:
                terms.append(Node("sum", (name(a.name),)))
            elif len(a.size) == 2:
                ones = Node("list", tuple(apply("add", 0.5, 0.1 * k) for k in range(self.size)))
                terms.append(Node("sum", (apply("matvec", name(a.name), ones),)))
        if not terms:
            return cell
        total = cell.next[first]
        for term in terms:
            total = total + 0.2 * apply("sin", term)
        return replace(cell, next={**cell.next, first: total})


def _read_whole(node: Node) -> set[str]:
    """The names of which every element is read."""
    if node.op == "item" and node.args[0].op == "name":
        return set()
    if node.op == "name":
        return {node.value}
    return set().union(*map(_read_whole, node.args)) if node.args else set()


# --- delays and starts -----------------------------------------------------------------------


def _delayed(rng: random.Random, cell: RandomCell) -> RandomCell:
    """One state with its past, which some of its readers read."""
    state = rng.choice(cell.states)
    most = _room(cell) // state.values
    delay = rng.choice([k for k in (1, 2, 3, 5, 12) if k <= most] or [0])
    if not delay:
        return cell

    def past(node: Node) -> Node:
        if node.op == "name" and node.value == state.name and rng.random() < 0.4:
            return Node("ago", (node,), rng.randint(0, delay))
        return replace(node, args=tuple(map(past, node.args)))

    next_ = {n: past(body) for n, body in cell.next.items()}
    oldest = Node("ago", (name(state.name),), delay)
    next_[state.name] = 0.8 * next_[state.name] + 0.15 * oldest
    return replace(
        _with(cell, replace(state, delay=delay)),
        lets=tuple(replace(let, node=past(let.node)) for let in cell.lets),
        next=next_,
        outputs={n: past(body) for n, body in cell.outputs.items()},
    )


def _started(rng: random.Random, cell: RandomCell) -> RandomCell:
    """Some states that begin at what is learned."""
    taken = {*(a.name for a in cell.arguments), *(let.name for let in cell.lets), *cell.outputs}
    for state in cell.states:
        if rng.random() < 0.7 and f"{state.name}_init" not in taken:
            shared = rng.random() < 0.3
            options = "init=Param(shared=True)" if shared else rng.choice(STARTS)
            learned = "shared" if shared else "own"
            cell = _with(cell, replace(state, options=options, learned=learned, init=0.0))
    return cell


def _with(cell: RandomCell, argument: Argument) -> RandomCell:
    arguments = (argument if a.name == argument.name else a for a in cell.arguments)
    return replace(cell, arguments=tuple(arguments))
