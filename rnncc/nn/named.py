"""Named: what a layer is called with, by place or by name -> its values by name."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from torch import Tensor

from rnncc.errors import ArgumentError
from rnncc.ir.spec import KernelSpec
from rnncc.ir.vector import grouped

# What users of torch.nn.GRU, and of a cell's own function, may call an argument of a layer.
OTHERS = {
    **dict.fromkeys(("h0", "hx", "h_0"), "state"),
    **dict.fromkeys(("mask", "attention_mask", "key_padding_mask"), "lengths"),
    "input": "x",
}
OWN = ("state", "lengths", "cu_seqlens", "reset", "return_states")


class Takes(NamedTuple):
    """What the call of a layer takes, x first if there is a projection.

    Attributes:
        cell: its name.
        ranks: for each value, in order, the dimensions from that of time on.
        alone: nothing but x.
    """

    cell: str
    ranks: dict[str, int]
    projected: bool
    alone: bool

    @classmethod
    def of(cls, spec: KernelSpec, projected: bool) -> Takes:
        """Args: spec: with the inputs that a layer computes from x marked as projected."""
        shared = {i.name: i.shared for i in spec.inputs if not i.projected}
        given = {
            v.name: len(v.shape) + (1 if shared[v.members[0]] else 2)
            for v in grouped(shared, spec.vectors, "input")
        }
        ranks = {"x": 2, **given} if projected else given
        return cls(spec.name, ranks, projected, projected and not given)

    def bind(
        self, args: tuple[Any, ...], state: Any, named: dict[str, Any]
    ) -> tuple[dict[str, Any], Any]:
        """All values by name, in order, and the state, which follows those given by place.

        Raises:
            ArgumentError: one is missing, unknown, or given twice.
        """
        if self.alone and len(args) == 1 and not named:  # most calls, and each pays for it
            return {"x": args[0]}, state
        wanted = self.ranks
        places = 1 if self.projected else len(wanted)
        if len(args) > places:
            if len(args) > places + 1:
                raise self._refuse_many(places, len(args))
            if state is not None:
                raise self._refuse_both(places)
            state, args = args[-1], args[:-1]
        values = dict(zip([*wanted][: len(args)], args, strict=True))
        if named:
            for name in named:
                if name in values or name not in wanted:
                    raise self._refuse_name(name, name in values)
            values |= named
        if len(values) != len(wanted):
            missing = next(name for name in wanted if name not in values)
            fix = "layer(x)" if missing == "x" and self.projected else str(self)
            raise ArgumentError(f"{missing}: missing.\nFix: {fix}")
        if named:
            values = {name: values[name] for name in wanted}
        return values, state

    def _refuse_many(self, places: int, count: int) -> ArgumentError:
        by_place = [*self.ranks][:places]
        return ArgumentError(
            f"layer({', '.join([*by_place, 'state'])}): got {count} positional arguments, expected "
            f"{places + 1} at most, the state last and once.\nFix: {self}"
        )

    def _refuse_both(self, places: int) -> ArgumentError:
        last = [*self.ranks][places - 1]
        return ArgumentError(
            f"state: got one by its place, after {last}, and one by its name, expected one of "
            f"them.\nFix: leave out state=, or what stands after {last}"
        )

    def _refuse_name(self, name: str, twice: bool) -> ArgumentError:
        if twice:
            return ArgumentError(f"{name}: given twice.\nFix: by its place or by its name")
        known = [*self.ranks, *OWN]
        close = [OTHERS[name]] if name in OTHERS else get_close_matches(name, known, 1)
        meant = f"{close[0]}=..., or " if close and close[0] in known and name not in OWN else ""
        return ArgumentError(f"{name}: not an input that is given by name.\nFix: {meant}{self}")

    def __str__(self) -> str:
        if not self.projected:
            names = ", ".join(self.ranks)
            return f"the layer of '{self.cell}' takes, in order or by name: {names}"
        names = ", ".join(name for name in self.ranks if name != "x") or "none"
        return f"beside x, the layer of '{self.cell}' takes these inputs by name: {names}"


def by_place(layer: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """A call without a projection where x is by name: any input's, not always `forward`'s first."""
    if "x" not in named:
        return None
    own = {n: value for n, value in named.items() if n not in OWN}
    values, state = layer._takes.bind(args, named.get("state"), own)
    options = {n: value for n, value in named.items() if n in OWN}
    return tuple(values.values()), {**options, "state": state}


def time_last(values: Mapping[str, Any], ranks: Mapping[str, int]) -> dict[str, Any]:
    """Values whose first dimension is time, with it where the operators have it."""
    moved = {}
    for name, value in values.items():
        rank = ranks[name]
        moves = isinstance(value, Tensor) and value.dim() >= rank
        moved[name] = value.movedim(0, -rank) if moves else value
    return moved


def time_first(rows: Any, time: int) -> Any:
    """With the dimension of time as the first, of a tensor or each of a tuple."""
    if isinstance(rows, tuple):
        return tuple(time_first(row, time) for row in rows)
    return rows.movedim(time, 0)
