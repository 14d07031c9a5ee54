"""Loop: a random cell run step by step on tensors, sequence by sequence, from its trees alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.support.fuzz.calls import RandomCall, given, inputs_of
from tests.support.fuzz.cells import RandomCell
from tests.support.fuzz.several import joined, split
from tests.support.fuzz.tree import Evaluation


@dataclass
class Probe:
    """What a loop is asked beside its results.

    Attributes:
        margin: how near an argument comes to a jump or kink: 1.0 asks for it.
        unit, seed: of the error that each operation makes, for a loop as rough as a kernel.
    """

    margin: float | None = None
    unit: float = 0.0
    seed: int = 0


def by_loop(
    cell: RandomCell,
    call: RandomCall,
    leaves: Mapping[str, Tensor],
    inputs: Mapping[str, Tensor] | None = None,
    probe: Probe | None = None,
) -> dict[str, Tensor]:
    """Outputs, last states, and states if they are asked for, in the dtype of the leaves.

    Args:
        leaves: params, and `h0 NAME` of each state; inputs too, unless these are given.
        probe: what the loop is asked beside its results.
    """
    dtype = next(iter(leaves.values())).dtype
    functions = {h.name: (h.parameters, h.body, h.times) for h in cell.helpers}
    evaluation = Evaluation(dtype, call.channels, functions)
    if probe is not None:
        evaluation.margin, evaluation.unit = probe.margin, probe.unit
        evaluation.rough = torch.Generator().manual_seed(probe.seed) if probe.unit else None
    inputs = inputs_of(cell, call, leaves) if inputs is None else inputs
    rows = _rows(cell, call, inputs)
    fixed: dict[str, Any] = {
        a.name: split(given(call, a.name, leaves), a.size) for a in cell.of("param", "matrix")
    }
    changed = dict(cell.changed)
    for a in cell.of("constant"):
        fixed[a.name] = torch.tensor(changed.get(a.name, a.init), dtype=dtype)
    walk = _Walk(cell, call, evaluation, rows, fixed)
    whole = walk.together(leaves) if _is_plain(call) else walk.one_by_one(leaves)
    if probe is not None:
        probe.margin = evaluation.margin
    return whole


def _is_plain(call: RandomCall) -> bool:
    return call.lengths is None and call.cu_seqlens is None and not call.reset


def _rows(cell: RandomCell, call: RandomCall, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """[B, T, N, *size] of each input, N = 1 of those that channels share."""
    found = {}
    for a in cell.of("input"):
        x = inputs[a.name].unsqueeze(len(call.leading) + 1) if a.shared else inputs[a.name]
        rest = (call.steps, 1 if a.shared else call.channels, *a.size)
        found[a.name] = x.expand(*call.leading, *rest).reshape(call.batch, *rest)
    return found


class _Walk:
    def __init__(
        self,
        cell: RandomCell,
        call: RandomCall,
        evaluation: Evaluation,
        inputs: Mapping[str, Tensor],
        fixed: Mapping[str, Any],
    ) -> None:
        self.cell, self.call, self.evaluation = cell, call, evaluation
        self.inputs, self.fixed = inputs, fixed
        self.columns = [
            *(f"output {o}" for o in cell.output_names),
            *(f"states {s.name}" for s in cell.states),
        ]

    def step(self, states: dict[str, Tensor], at: Mapping[str, Tensor]) -> list[Tensor]:
        """Outputs, then next states, [..., N, ...]; the states are replaced."""
        values = {**self.fixed, **self.arguments(at)}
        for s in self.cell.states:
            ages = states[s.name].unbind(-1) if s.delay else [states[s.name]]
            past = {f"{s.name}.ago({k})": split(h, s.size) for k, h in enumerate(ages)}
            values |= {**past, s.name: past[f"{s.name}.ago(0)"]}
        for let in self.cell.lets:
            values[let.name] = self.evaluation(let.node, values)
        new = {n: self.evaluation(body, values) for n, body in self.cell.next.items()}
        outputs = [self.evaluation(body, values) for body in self.cell.outputs.values()]
        last = self.cell.states[-1].name
        like = self._like(states)
        whole = {n: joined(v, like) for n, v in new.items()}
        outputs = [joined(v, like) for v in outputs] or [whole[last]]
        if not all(v.isfinite().all() for v in whole.values()):
            # a reset may drop the state; docs/numerics.md lets its NaN reach the step's gradients
            self.evaluation.note_other_values()
        for s in self.cell.states:
            head = whole[s.name]
            older = states[s.name][..., :-1] if s.delay else head
            states[s.name] = torch.cat([head.unsqueeze(-1), older], -1) if s.delay else head
        return [*outputs, *(states[s.name] for s in self.cell.states)]

    def _like(self, states: Mapping[str, Tensor]) -> Tensor:
        """One value of each channel."""
        first = self.cell.states[0]
        like = states[first.name]
        for _ in first.extra:
            like = like[..., 0]
        return like

    def arguments(self, at: Mapping[str, Tensor]) -> dict[str, Any]:
        """The inputs of a step."""
        return {a.name: split(at[a.name], a.size) for a in self.cell.of("input")}

    def init(self, leaves: Mapping[str, Tensor], size: tuple[int, ...]) -> dict[str, Tensor]:
        """All states before the first step."""
        dtype, found = self.evaluation.dtype, {}
        for s in self.cell.states:
            whole = (*size, *s.extra)
            if f"h0 {s.name}" in leaves:
                found[s.name] = given(self.call, f"h0 {s.name}", leaves).reshape(whole)
            elif s.learned:
                found[s.name] = given(self.call, f"{s.name}_init", leaves).expand(whole)
            else:
                found[s.name] = torch.full(whole, s.init, dtype=dtype)
        return found

    def together(self, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
        call = self.call
        states = self.init(leaves, (call.batch, call.channels))
        order = range(call.steps)
        rows = [
            self.step(states, {n: x[:, t] for n, x in self.inputs.items()})
            for t in (reversed(order) if call.options.get("reverse") else order)
        ]
        if call.options.get("reverse"):
            rows.reverse()
        whole = [torch.stack(column, 1) for column in zip(*rows, strict=True)]
        return self._shaped(whole, states, call.leading)

    def one_by_one(self, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
        call, resets = self.call, self.call.resets
        masks = None if resets is None else resets.reshape(call.batch, call.steps)
        sequences = call.rows
        begin = self.init(leaves, (len(sequences), call.channels))
        found: dict[tuple[int, int], list[Tensor]] = {}
        ends: dict[str, list[Tensor]] = {s.name: [] for s in self.cell.states}
        for i, (row, first, end) in enumerate(sequences):
            states = {n: h[i] for n, h in begin.items()}
            order = range(first, end)
            for t in reversed(order) if call.options.get("reverse") else order:
                if masks is not None and masks[row, t]:
                    states = {n: h[i] for n, h in begin.items()}
                found[row, t] = self.step(states, {n: x[row, t] for n, x in self.inputs.items()})
            for n, h in states.items():
                ends[n].append(h)
        dtype = self.evaluation.dtype
        nothing = [
            torch.zeros(call.channels, *self.cell.extra(n), dtype=dtype) for n in self.columns
        ]
        whole = [
            torch.stack([
                torch.stack([found.get((b, t), nothing)[k] for t in range(call.steps)])
                for b in range(call.batch)
            ])
            for k in range(len(self.columns))
        ]  # fmt: skip
        last = {n: torch.stack(rows) for n, rows in ends.items()}
        leading = call.leading if call.cu_seqlens is None else (len(sequences),)
        return self._shaped(whole, last, leading)

    def _shaped(
        self, whole: list[Tensor], last: Mapping[str, Tensor], leading: tuple[int, ...]
    ) -> dict[str, Tensor]:
        call = self.call
        results = {
            name: v.reshape(*call.leading, *v.shape[1:])
            for name, v in zip(self.columns, whole, strict=True)
            if call.return_states or not name.startswith("states ")
        }
        ends = {f"last {n}": h.reshape(*leading, *h.shape[1:]) for n, h in last.items()}
        return results | ends
