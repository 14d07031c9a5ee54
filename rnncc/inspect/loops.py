"""Loops: a kernel's machine code -> its loops, and the instructions that a step of each takes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rnncc.inspect.sass import CLASSES, ENDS, Instruction, Kernel

# Functions of CUDA's own that only rare operands reach, such as the denormal divisor of a quotient.
RARE = re.compile(r"__cuda_sm\d+_|slowpath")
SIZE = 16  # bytes of an instruction
FEW = 8  # of arithmetic: fewer can't be the step
WHOLE = 0.75  # of the most arithmetic of a trip: with less, a trip leaves a step out
LOADS = ("LDG", "LDGSTS", "UBLKCP")
ALL = 10**9  # more instructions than any kernel has

Piece = tuple[Instruction, ...]


@dataclass(frozen=True)
class Loop:
    """A loop without the loops inside it.

    Attributes:
        start: the address that it comes back to.
        depth: 1 for an outermost one.
        lightest: the instructions of the trip that takes fewest of those that do the work: they
            load inputs, and compute about as much as any; rare paths don't count.
        heaviest: those of the trip that takes most.
        rare: how many instructions those have.
        calls: functions whose own instructions are not counted.
    """

    start: int
    depth: int
    lightest: Piece
    heaviest: Piece
    rare: int
    calls: tuple[str, ...]


def loops(kernel: Kernel) -> tuple[Loop, ...]:
    """The loops of a kernel, the one with the heaviest trip first."""
    graph = _Graph(kernel)
    ends: dict[int, list[int]] = {}
    bodies: dict[int, set[int]] = {}
    for start, end in graph.ways_back():
        ends.setdefault(start, []).append(end)
        bodies.setdefault(start, {start}).update(graph.between(start, end))
    found = [_loop(graph, start, ends[start], bodies) for start in bodies]
    return tuple(sorted(found, key=lambda loop: (-len(loop.heaviest), loop.start)))


def per_step(loop: Loop, steps: int) -> dict[str, tuple[float, float]]:
    """Instructions of one step by class, and "all" of them, in the lightest and heaviest trip.

    Args:
        steps: that one trip of the loop takes.
    """
    trips = loop.lightest, loop.heaviest
    light, heavy = (Counter(instruction.kind for instruction in trip) for trip in trips)
    by_class = {n: (light[n] / steps, heavy[n] / steps) for n in (*CLASSES, "other")}
    return {"all": (len(loop.lightest) / steps, len(loop.heaviest) / steps)} | by_class


def _loop(graph: _Graph, start: int, ends: Sequence[int], bodies: Mapping[int, set[int]]) -> Loop:
    body = bodies[start]
    inside = [other for first, other in bodies.items() if first != start and first in body]
    own = {address: graph.pieces[address] for address in sorted(body.difference(*inside))}
    rare = {address: own.pop(address) for address in list(own) if _is_rare(own[address])}
    weight = {address: len(own.get(address, ())) for address in body - rare.keys()}

    def trip(weight: Mapping[int, int]) -> Piece:
        return tuple(i for a in graph.lightest(start, ends, weight) for i in own.get(a, ()))

    loading = dict.fromkeys(_loading(own), -ALL)
    hearts = _hearts(own) or [start]
    return Loop(
        start,
        depth=sum(start in other for other in bodies.values()),
        lightest=_working([trip(weight | loading | {heart: -ALL}) for heart in hearts]),
        heaviest=trip({address: -count for address, count in weight.items()}),
        rare=sum(map(len, rare.values())),
        calls=tuple(dict.fromkeys(name for piece in own.values() for name in _calls(piece))),
    )


def _is_rare(piece: Piece) -> bool:
    return any(RARE.search(name) for name in _calls(piece))


def _arithmetic(piece: Piece) -> int:
    return sum(i.kind in ("float", "special") for i in piece)


def _hearts(own: Mapping[int, Piece]) -> list[int]:
    """The pieces that may be the step; if none has much arithmetic, the one with most."""
    found = [address for address, piece in own.items() if _arithmetic(piece) > FEW]
    return found or sorted(own, key=lambda a: (_arithmetic(own[a]), len(own[a])))[-1:]


def _loading(own: Mapping[int, Piece]) -> list[int]:
    """The pieces that load the inputs of steps: those that load most, and more than one value.

    Loads under a guard are those of a part of a block, at its end.
    """
    loads = {
        address: (sum(i.opcode in LOADS and not i.guard for i in piece), _loads(piece))
        for address, piece in own.items()
    }
    most = max(loads.values(), default=(0, 0))
    return [address for address, count in loads.items() if count == most and most[1] > 1]


def _loads(piece: Piece) -> int:
    return sum(i.opcode in LOADS for i in piece)


def _working(trips: Sequence[Piece]) -> Piece:
    """The lightest of those that compute about as much as any; others leave the step out."""
    least = WHOLE * max(map(_arithmetic, trips))
    return min((t for t in trips if _arithmetic(t) >= least), key=len)


def _calls(piece: Iterable[Instruction]) -> list[str]:
    return [name for i in piece if i.opcode == "CALL" and not i.jumps for name in i.targets]


# --- the ways through a kernel ---------------------------------------------------------------


class _Graph:
    """A kernel's straight pieces by address, and the ways between those that its entry leads to."""

    def __init__(self, kernel: Kernel) -> None:
        self.pieces = _pieces(kernel)
        self.after = {start: self._after(kernel, start) for start in self.pieces}
        self.order = self._order()
        self.before: dict[int, list[int]] = {address: [] for address in self.order}
        for address in self.order:
            for following in self.after[address]:
                self.before[following].append(address)
        self.gates = self._gates()

    def _after(self, kernel: Kernel, start: int) -> list[int]:
        last = self.pieces[start][-1]
        following = [] if last.always else [last.address + SIZE]
        # .DIV leads to where the lanes of a warp have parted; kernels keep them together
        if last.jumps and ".DIV" not in last.modifiers:
            following += [kernel.labels[name] for name in last.targets if name in kernel.labels]
        return [address for address in following if address in self.pieces]

    def _order(self) -> list[int]:
        """Each piece before its successors, loops aside."""
        seen: set[int] = set()
        done: list[int] = []
        waiting = [min(self.pieces)] if self.pieces else []
        while waiting:
            address = waiting[-1]
            seen.add(address)
            further = next((a for a in self.after[address] if a not in seen), None)
            if further is None:
                done.append(waiting.pop())
            else:
                waiting.append(further)
        return done[::-1]

    def _gates(self) -> dict[int, int]:
        """The last piece that every way from the entry to a piece leads through.

        Source: Cooper, Harvey & Kennedy 2001, "A Simple, Fast Dominance Algorithm".
        """
        place = {address: i for i, address in enumerate(self.order)}
        gates = {address: address for address in self.order[:1]}
        changed = True
        while changed:
            changed = False
            for address in self.order[1:]:
                known = [b for b in self.before[address] if b in gates]
                gate = known[0]
                for other in known[1:]:
                    while gate != other:
                        if place[gate] > place[other]:
                            gate = gates[gate]
                        else:
                            other = gates[other]
                changed |= gates.get(address) != gate
                gates[address] = gate
        return gates

    def ways_back(self) -> Iterator[tuple[int, int]]:
        """Start and end of each loop: the end leads to the start, and only the start to the end."""
        for end in self.order:
            for start in self.after[end]:
                if start in self.above(end):
                    yield start, end

    def above(self, address: int) -> Iterator[int]:
        """The pieces that every way from the entry to this one leads through, itself first."""
        yield address
        while address != self.gates[address]:
            address = self.gates[address]
            yield address

    def between(self, start: int, end: int) -> set[int]:
        """The pieces from which the end is reached without the start."""
        seen, waiting = {start, end}, [end] if end != start else []
        while waiting:
            for address in self.before[waiting.pop()]:
                if address not in seen:
                    seen.add(address)
                    waiting.append(address)
        return seen

    def lightest(self, start: int, ends: Sequence[int], weight: Mapping[int, int]) -> list[int]:
        """The way from start to one of the ends whose pieces weigh least, only through those given.

        It goes forward alone, so that loops inside are passed at most once.
        """
        place = {address: i for i, address in enumerate(self.order) if address in weight}
        best: dict[int, tuple[int, int]] = {start: (weight[start], start)}  # and where from
        for address in place:
            for following in self.after[address] if address in best else ():
                if place.get(following, -1) > place[address]:
                    total = best[address][0] + weight[following]
                    if following not in best or total < best[following][0]:
                        best[following] = total, address
        reached = [end for end in ends if end in best]
        way = [min(reached, key=lambda end: best[end][0])] if reached else [start]
        while way[-1] != start:
            way.append(best[way[-1]][1])
        return way[::-1]


def _pieces(kernel: Kernel) -> dict[int, Piece]:
    """Cut before each label and after each jump."""
    labels = set(kernel.labels.values())
    pieces: dict[int, list[Instruction]] = {}
    start = None
    for instruction in kernel.instructions:
        if start is None or instruction.address in labels:
            start = instruction.address
        pieces.setdefault(start, []).append(instruction)
        if instruction.jumps or instruction.opcode in ENDS:
            start = None
    return {address: tuple(piece) for address, piece in pieces.items()}
