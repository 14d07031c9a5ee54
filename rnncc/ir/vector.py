"""Vector: several values of a channel under one name, as users see them; kernels see scalars."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Role = Literal["state", "input", "param", "output"]


@dataclass(frozen=True)
class Vector:
    """One argument or output.

    Attributes:
        members: its scalars, in order of their place; for a plain argument, its own name.
        shape: of the values of one channel, the last dimension varies fastest; () for one value.
        delay: for a state, the steps of its past that it carries, in the last dimension.
    """

    role: Role
    name: str
    members: tuple[str, ...]
    shape: tuple[int, ...] = ()
    delay: int = 0

    @property
    def heads(self) -> tuple[str, ...]:
        """The members that aren't of the past."""
        return self.members[:: self.delay + 1] if self.delay else self.members

    @property
    def head_shape(self) -> tuple[int, ...]:
        """The shape of a value without its past."""
        return self.shape[:-1] if self.delay else self.shape


def places(shape: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Each index of a shape, in order."""
    return itertools.product(*map(range, shape))


def grouped(names: Iterable[str], vectors: Iterable[Vector], role: Role) -> tuple[Vector, ...]:
    """The arguments or outputs that users see, in order of the scalars."""
    of = {m: v for v in vectors if v.role == role for m in v.members}
    return tuple(dict.fromkeys(of.get(name, Vector(role, name, (name,))) for name in names))
