"""Vmap: operators over members, folded into the batch or the channels, or one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rnncc.nn.given import Given
from rnncc.nn.status import worst_status
from rnncc.runtime.call import channels_of
from rnncc.runtime.kernel import kernel_of

Dim = int | None
Results = tuple[list[Tensor], list[Dim]]


class Upstream(NamedTuple):
    """What the backward takes beside the arguments of the forward."""

    saved: Any
    dy: Any
    dz: Any
    dh_last: Any


def forward(
    run: Callable[[Given], Sequence[Tensor]], size: int, given: Given, dims: Any
) -> Results:
    """The forward of all members.

    Args:
        run: the forward of one call: [*outputs, *states, h_last, saved, status].
        size: M, the number of members.
        dims: for each tensor of `given` its dimension of members, or None where all share it.
    Returns:
        what `run` returns, for each member, and the dimension of members of each.
    """
    fold = _fold(size, given, dims, [])
    if fold is None:
        each = [list(run(_member(given, dims, m))) for m in range(size)]
        *rows, status = [torch.stack(values) for values in zip(*each, strict=True)]
        return [*rows, worst_status(status)], [*[0] * len(rows), None]
    *rows, h, saved, status = run(fold.given(given, dims))
    results = [*map(fold.rows_apart, rows), fold.states_apart(h), fold.saved_apart(saved)]
    return [*results, status], [*[0] * len(results), None]


def backward(
    run: Callable[[Given, Upstream], Sequence[Tensor]],
    size: int,
    given: Given,
    upstream: Upstream,
    dims: tuple[Any, Any],
    wanted: Sequence[bool],
) -> Results:
    """The backward of all members, as `forward`.

    Args:
        run: the backward of one call: [*dx, *dparams, dh0].
        wanted: for each input, and then for each param, whether its gradient is;
            those of params are if it ends before them.
    """
    wanted = [*wanted, *[True] * (len(given.inputs) + len(given.params) - len(wanted))]
    fold = _fold(size, given, dims[0], wanted)
    if fold is None:
        each = [run(_member(given, dims[0], m), _member(upstream, dims[1], m)) for m in range(size)]
        found = [torch.stack(values) for values in zip(*each, strict=True)]
        return found, [0] * len(found)
    results = run(fold.given(given, dims[0]), fold.upstream(upstream, dims[1]))
    count = len(given.inputs)
    dx = [
        fold.rows_apart(d) if w else d.new_empty(size, 0)
        for d, w in zip(results[:count], wanted[:count], strict=True)
    ]
    dparams = [
        fold.param_apart(d) if w else _nothing(p, dim, size)
        for d, p, dim, w in zip(
            results[count:-1], given.params, dims[0].params, wanted[count:], strict=True
        )
    ]
    found = [*dx, *dparams, fold.states_apart(results[-1])]
    return found, [0] * len(found)


def one_by_one(run: Callable[..., Tensor], size: int, dims: Any, arguments: Any) -> Tensor:
    """The results of all members, [M, ...], in a loop over them."""
    return torch.stack([run(*_member(arguments, dims, m)) for m in range(size)])


# --- which fold ------------------------------------------------------------------------------


def _fold(
    size: int, given: Given, dims: Any, wanted: Sequence[bool]
) -> _InBatch | _InChannels | None:
    """None: only a loop keeps the members apart.

    A gradient of a param sums over the batch, one of something shared over the channels.
    """
    params = kernel_of(given.key).spec.params
    own = any(d is not None for d in dims.params) or any(wanted[len(given.inputs) :])
    if not own and given.starts is None:
        return _InBatch(size)
    shared = [*_shared_inputs(given), *(p.shared for p in params)]
    alone = [d is not None for d in (*dims.inputs, *dims.params)]
    kept = wanted or [False] * len(shared)
    mixes = any(s and (a or w) for s, a, w in zip(shared, alone, kept, strict=True))
    together = dims.starts is dims.lengths is dims.reset is None
    return None if mixes or all(shared) or not together else _InChannels.of(size, given, dims)


def _shared_inputs(given: Given) -> list[bool]:
    """For each tensor of the inputs, whether all channels share it."""
    shared = [i.shared for i in kernel_of(given.key).spec.inputs]
    return [False, *filter(None, shared)] if given.packed else shared


def _nothing(param: Tensor, dim: Dim, size: int) -> Tensor:
    """A gradient that isn't wanted: zeros."""
    shape = param.shape if dim is None else param.select(dim, 0).shape
    return param.new_zeros(1).expand(size, *shape)


def _member(values: Any, dims: Any, m: int) -> Any:
    """The arguments of one member, from those of all."""
    if isinstance(values, Tensor):
        return values if dims is None else values.select(dims, m)
    if isinstance(values, (list, tuple)):
        parts = [_member(v, d, m) for v, d in zip(values, dims or [None] * len(values))]  # noqa: B905
        return type(values)(*parts) if hasattr(values, "_fields") else parts
    return values


def _whole(t: Tensor, dim: Dim, size: int) -> Tensor:
    """[M, ...], without a copy where all members share it."""
    return t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)


# --- the folds -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _InBatch:
    """Members as more sequences: all have the same params."""

    size: int

    def given(self, given: Given, dims: Any) -> Given:
        return given._replace(
            inputs=[self._rows(x, d) for x, d in zip(given.inputs, dims.inputs, strict=True)],
            h0=self._states(given.h0, dims.h0),
            lengths=self._rows(given.lengths, dims.lengths),
            reset=self._rows(given.reset, dims.reset),
        )

    def upstream(self, above: Upstream, dims: Any) -> Upstream:
        return Upstream(
            self._rows(above.saved, dims.saved),
            [self._rows(d, dim) for d, dim in zip(above.dy, dims.dy, strict=True)],
            [self._rows(d, dim) for d, dim in zip(above.dz, dims.dz, strict=True)],
            self._states(above.dh_last, dims.dh_last),
        )

    def rows_apart(self, rows: Tensor) -> Tensor:
        return rows.reshape(self.size, rows.shape[0] // self.size, *rows.shape[1:])

    saved_apart = rows_apart

    def states_apart(self, h: Tensor) -> Tensor:
        states, count, channels = h.shape
        return h.reshape(states, self.size, count // self.size, channels).transpose(0, 1)

    def param_apart(self, gradient: Tensor) -> Tensor:
        raise AssertionError("a gradient that sums over members")

    def _rows(self, t: Any, dim: Dim) -> Any:
        return None if t is None else _whole(t, dim, self.size).flatten(0, 1)

    def _states(self, t: Any, dim: Dim) -> Any:
        return None if t is None else _whole(t, dim, self.size).transpose(0, 1).flatten(1, 2)


@dataclass(frozen=True)
class _InChannels:
    """Members as more channels: all have the same sequences, and what all channels share."""

    size: int
    channels: int

    @classmethod
    def of(cls, size: int, given: Given, dims: Any) -> _InChannels:
        first = _member(given, dims, 0)
        spec = kernel_of(given.key).spec
        return cls(size, channels_of(spec, first.inputs, first.params, first.h0))

    def given(self, given: Given, dims: Any) -> Given:
        shared = _shared_inputs(given)
        params = kernel_of(given.key).spec.params
        inputs = zip(given.inputs, dims.inputs, shared, strict=True)
        values = zip(given.params, dims.params, params, strict=True)
        return given._replace(
            inputs=[x if s else self._wide(x, d) for x, d, s in inputs],
            params=[p if s.shared else _whole(p, d, self.size).flatten(0, 1) for p, d, s in values],
            h0=self._wide(given.h0, dims.h0),
        )

    def upstream(self, above: Upstream, dims: Any) -> Upstream:
        saved = _whole(above.saved, dims.saved, self.size)
        saved = saved.reshape(self.size, saved.shape[1] // max(self.channels, 1), self.channels)
        return Upstream(
            self._wide(saved, 0).flatten(),
            [self._wide(d, dim) for d, dim in zip(above.dy, dims.dy, strict=True)],
            [self._wide(d, dim) for d, dim in zip(above.dz, dims.dz, strict=True)],
            self._wide(above.dh_last, dims.dh_last),
        )

    def rows_apart(self, rows: Tensor) -> Tensor:
        """[..., M * N] -> [M, ..., N]; one without channels is nothing."""
        apart = rows.reshape(*rows.shape[:-1], self.size, rows.shape[-1] // self.size)
        return apart.movedim(-2, 0)

    states_apart = rows_apart

    def saved_apart(self, saved: Tensor) -> Tensor:
        """Its rows are [slots, states], of N channels each."""
        width = max(self.size * self.channels, 1)
        rows = saved.reshape(saved.shape[0] // width, self.size, self.channels)
        return rows.transpose(0, 1).flatten(1)

    def param_apart(self, gradient: Tensor) -> Tensor:
        return gradient.reshape(self.size, gradient.shape[0] // self.size, *gradient.shape[1:])

    def _wide(self, t: Any, dim: Dim) -> Any:
        return None if t is None else _whole(t, dim, self.size).movedim(0, -2).flatten(-2)
