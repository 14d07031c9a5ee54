"""Layers: a random cell as a module, against loops over the inputs that it computes or is given."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import rnncc
from tests.support.fuzz.calls import RandomCall, normal, state_leading
from tests.support.fuzz.cells import Argument, RandomCell
from tests.support.fuzz.judge import Question, Results
from tests.support.fuzz.loop import Probe, by_loop
from tests.support.fuzz.questions import named_results, sequences_of

FEATURES = 3


@dataclass(frozen=True)
class Form:
    """How a layer is made."""

    projected: bool
    levels: int
    both: bool
    batch_first: bool

    @property
    def count(self) -> int:
        return self.levels * (1 + self.both)

    def __str__(self) -> str:
        named = {
            "projection=None": not self.projected,
            f"num_layers={self.levels}": self.levels > 1,
            "bidirectional=True": self.both,
            "batch_first=False": not self.batch_first,
        }
        return ", ".join(["as a layer", *(text for text, is_so in named.items() if is_so)])


def random_form(cell: RandomCell, call: RandomCall) -> Form:
    """One that takes the cell and the call."""
    rng = random.Random(f"layer {call.seed}")
    projected, stacked, both = rng.random() < 0.6, rng.random() < 0.35, rng.random() < 0.3
    one = len(cell.output_names) == 1 and not cell.extra(f"output {cell.output_names[0]}")
    return Form(
        projected,
        rng.choice([2, 3]) if stacked and projected and one else 1,
        both and not call.options.get("reverse") and not call.reset,
        rng.random() < 0.8 or call.cu_seqlens is not None,
    )


def by_layer(cell: RandomCell, call: RandomCall, c: rnncc.CompiledCell) -> Question:
    """The cell as a module, its own parameters drawn by its inits."""
    call = replace(call, layouts={}, params=call.dtype, without=(), form="keywords")
    form, dtype = random_form(cell, call), getattr(torch, call.dtype)
    layer = _layer(call, c, form)
    own = {n: p.detach().clone() for n, p in layer.named_parameters()}
    leaves = own | {n: v.to(dtype) for n, v in _inputs(cell, call, form).items()}
    if call.h0 != "none":
        several = (form.count,) if form.count > 1 else ()
        for s in cell.states:
            size = (*several, *state_leading(call), call.channels, *s.extra)
            drawn = normal(call.seed, f"h0 {s.name}", size)
            leaves[f"h0 {s.name}"] = drawn.to(getattr(torch, call.h0))
    stack = _Stack(cell, call, form, [d.params for d in layer._directions])

    def kernel(given: Results) -> Results:
        states = tuple(given[f"h0 {s.name}"] for s in cell.states) if call.h0 != "none" else ()
        state = states if len(states) > 1 else states[0] if states else None
        time = len(call.leading)

        def turned(value: Tensor) -> Tensor:
            return value if form.batch_first else value.movedim(time, 0)

        named = {a.name: turned(given[a.name]) for a in given_to(cell, form)}
        options = {**sequences_of(call), "return_states": call.return_states, "state": state}
        if "reset" in options:
            options["reset"] = turned(options["reset"])
        arguments = (turned(given["the x"]),) if form.projected else ()
        parameters = {n: given[n] for n in own}
        found = torch.func.functional_call(layer, parameters, arguments, {**options, **named})
        results = named_results(cell, call, found)
        back = {n for n in results if not n.startswith("last ") and not form.batch_first}
        return {n: v.movedim(0, time) if n in back else v for n, v in results.items()}

    return Question(str(form), call, leaves, stack.loop, kernel)


def _layer(call: RandomCall, c: rnncc.CompiledCell, form: Form) -> Any:
    torch.manual_seed(0)
    sizes = (FEATURES, call.channels) if form.projected else (call.channels,)
    options: dict[str, Any] = {"num_layers": form.levels, **call.options}
    return c.layer(
        *sizes,
        dtype=getattr(torch, call.dtype),
        projection="linear" if form.projected else None,
        bidirectional=form.both,
        batch_first=form.batch_first,
        **options,
    )


def given_to(cell: RandomCell, form: Form) -> list[Argument]:
    """The inputs that a layer doesn't compute."""
    return [a for a in cell.of("input") if a.given or not form.projected]


def _inputs(cell: RandomCell, call: RandomCall, form: Form) -> Results:
    """x, and what is given beside it or in its place, in float64."""
    size = (*call.leading, call.steps)
    found = {"the x": normal(call.seed, "the x", (*size, FEATURES))} if form.projected else {}
    for a in given_to(cell, form):
        last = a.size if a.shared else (call.channels, *a.size)
        found[a.name] = normal(call.seed, a.name, (*size, *last))
    return found


@dataclass
class _Stack:
    """The loops of all directions of all levels.

    Attributes:
        attributes: of each, the parameter for each of the cell's params: `step_` for one called
            `step`, `a_l1_reverse`.
    """

    cell: RandomCell
    call: RandomCall
    form: Form
    attributes: list[Mapping[str, str]]

    def loop(self, given: Results, probe: Probe | None = None) -> Results:
        """As the layer returns them."""
        form, ways = self.form, 1 + self.form.both
        x, ends, margins, whole = given.get("the x"), [], [], {}
        for level in range(form.levels):
            found = []
            for k in range(level * ways, (level + 1) * ways):
                own = None if probe is None else replace(probe)
                found.append(self._one(k, x, given, own))
                margins += [own.margin] if own is not None else []
            ends += found
            whole = self._side_by_side(found)
            x = whole[f"output {self.cell.output_names[0]}"]
        if probe is not None:
            probe.margin = min((m for m in margins if m is not None), default=None)
        if form.count > 1:
            lasts = [n for n in whole if n.startswith("last ")]
            whole |= {n: torch.stack([end[n] for end in ends]) for n in lasts}
        return whole

    def _one(self, k: int, x: Tensor | None, given: Results, probe: Probe | None) -> Results:
        """One direction of one level."""
        options = {**self.call.options, **({"reverse": True} if self._is_back(k) else {})}
        call = replace(self.call, options=options)
        named = given | {n: given[own] for n, own in self.attributes[k].items()}
        if self.form.count > 1:
            named |= {n: v[k] for n, v in given.items() if n.startswith("h0 ")}
        inputs = {a.name: given[a.name] for a in given_to(self.cell, self.form)}
        if x is not None:
            inputs |= projected(self.cell, call, x, given, self._ending(k))
        return by_loop(self.cell, call, named, inputs, probe)

    def _is_back(self, k: int) -> bool:
        return self.form.both and k % 2 == 1

    def _ending(self, k: int) -> str:
        level = k // (1 + self.form.both)
        return f"{f'_l{level}' if level else ''}{'_reverse' if self._is_back(k) else ''}"

    def _side_by_side(self, found: list[Results]) -> Results:
        if len(found) == 1:
            return dict(found[0])
        channels = len(self.call.leading) + 1
        return {
            n: found[0][n] if n.startswith("last ") else torch.cat([f[n] for f in found], channels)
            for n in found[0]
        }


def projected(
    cell: RandomCell, call: RandomCall, x: Tensor, leaves: Results, ending: str
) -> Results:
    """The inputs of the cell: N rows of the projection for each, then one for each shared one.

    Of a vector, N or one for each element.
    """
    weight, bias = (leaves[f"projection{ending}.{n}"] for n in ("weight", "bias"))
    rows: Tensor = x @ weight.T + bias
    found, first = {}, 0
    taken = [a for a in cell.of("input") if not a.given]
    for a in sorted(taken, key=lambda a: a.shared):
        each = 1 if a.shared else call.channels
        pieces = []
        for _ in range(a.values):
            pieces.append(rows[..., first : first + each])
            first += each
        pieces = [piece.squeeze(-1) for piece in pieces] if a.shared else pieces
        whole = torch.stack(pieces, -1)
        found[a.name] = whole.unflatten(-1, a.size) if a.size else pieces[0]
    return found
