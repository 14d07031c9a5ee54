"""Layers: a random cell behind its input projection, against a loop over the projected inputs."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

import rnncc
from tests.support.fuzz.calls import RandomCall, normal, state_leading
from tests.support.fuzz.cells import RandomCell
from tests.support.fuzz.judge import Question, Results
from tests.support.fuzz.loop import Probe, by_loop
from tests.support.fuzz.questions import named_results, sequences_of

FEATURES = 3


def by_layer(cell: RandomCell, call: RandomCall, c: rnncc.CompiledCell) -> Question:
    """The cell as a module, its own parameters drawn by its inits."""
    call = replace(call, layouts={}, params=call.dtype, without=(), form="keywords")
    dtype = getattr(torch, call.dtype)
    torch.manual_seed(0)
    layer = c.layer(FEATURES, call.channels, dtype=dtype, **call.options)
    own = {n: p.detach().clone() for n, p in layer.named_parameters()}
    attributes = layer._directions[0].params  # `step_` for a param called `step`
    size = (*call.leading, call.steps, FEATURES)
    leaves = {**own, "the x": normal(call.seed, "the x", size).to(dtype)}
    for a in cell.of("input"):
        if a.given:
            leaves[a.name] = normal(call.seed, a.name, size[:-1]).to(dtype)
    if call.h0 != "none":
        for s in cell.states:
            drawn = normal(call.seed, f"h0 {s.name}", (*state_leading(call), call.channels))
            leaves[f"h0 {s.name}"] = drawn.to(getattr(torch, call.h0))

    def loop(given: Results, probe: Probe | None = None) -> Results:
        named = given | {n: given[attribute] for n, attribute in attributes.items()}
        return by_loop(cell, call, named, projected(cell, call, given), probe)

    def kernel(given: Results) -> Results:
        named = {a.name: given[a.name] for a in cell.of("input") if a.given}
        states = tuple(given[f"h0 {s.name}"] for s in cell.states) if call.h0 != "none" else ()
        state = states if len(states) > 1 else states[0] if states else None
        arguments = (given["the x"], state)
        options = {**sequences_of(call), "return_states": call.return_states, **named}
        parameters = {n: given[n] for n in own}
        results = torch.func.functional_call(layer, parameters, arguments, options)
        return named_results(cell, call, results)

    return Question("as a layer", call, leaves, loop, kernel)


def projected(cell: RandomCell, call: RandomCall, leaves: Results) -> Results:
    """The inputs of the cell: N rows of the projection for each, then one for each shared one."""
    x, weight, bias = (leaves[n] for n in ("the x", "projection.weight", "projection.bias"))
    rows: Tensor = x @ weight.T + bias
    found, first = {}, 0
    for a in cell.of("input"):
        if not a.shared:
            found[a.name] = rows[..., first : first + call.channels]
            first += call.channels
    for a in cell.of("input"):
        if a.shared and not a.given:
            found[a.name] = rows[..., first]
            first += 1
        elif a.shared:
            found[a.name] = leaves[a.name]
    return found
