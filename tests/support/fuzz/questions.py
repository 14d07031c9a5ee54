"""Questions: a random cell and call -> ways to run it, each of which must agree with the loop."""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

import rnncc
from rnncc.codegen.writer import write
from tests.support.cells import cell_from
from tests.support.fuzz.calls import RandomCall, given, inputs_of
from tests.support.fuzz.cells import RandomCell
from tests.support.fuzz.draw import BOLD, Taste, expression
from tests.support.fuzz.judge import Question, Results
from tests.support.fuzz.loop import Probe, by_loop
from tests.support.fuzz.tree import Node, apply, name, text_of

SMALL = 2.0**-20  # the states of a scaled cell


def compiled(cell: RandomCell, folder: Path) -> rnncc.CompiledCell:
    """By rnncc, from its text."""
    changed: dict[str, Any] = dict(cell.changed)
    return rnncc.compile(cell_from(folder, cell.source), **changed)


def question(
    cell: RandomCell, call: RandomCall, leaves: Results, run: Callable[..., Any]
) -> Question:
    """The plain one.

    Args:
        run: of the compiled cell, or of what else takes the same arguments.
    """

    solvers: list[str] = []

    def loop(own: Results, probe: Probe | None = None) -> Results:
        return by_loop(cell, call, own, probe=probe)

    def observed(*args: Any, **named: Any) -> Any:
        return run(*args, **named, observe=lambda solve: solvers.append(solve.solver))

    kernel = partial(by_kernel, cell, call, observed)
    return Question("call", call, leaves, loop, kernel, solvers)


def by_kernel(
    cell: RandomCell, call: RandomCall, run: Callable[..., Any], leaves: Results
) -> Results:
    """As a user calls it."""
    inputs = inputs_of(cell, call, leaves)
    arguments = {
        a.name: inputs[a.name] if a.kind == "input" else given(call, a.name, leaves)
        for a in cell.of("input", "param", "matrix")
    }
    arguments |= {n: given(call, n, leaves) for n in cell.starts if n in leaves}
    options = {**sequences_of(call), **call.options, "return_state": True}
    if call.h0 != "none":
        states = tuple(given(call, f"h0 {s.name}", leaves) for s in cell.states)
        options["h0"] = states if len(states) > 1 else states[0]
    if call.return_states:
        options["return_states"] = True
    args = list(arguments.values()) if call.form == "positional" else []
    named = {} if args else dict(reversed(arguments.items()))
    before = torch.get_num_threads()
    torch.set_num_threads(call.threads)
    try:
        results = run(*args, **named, **options)
    finally:
        torch.set_num_threads(before)
    return named_results(cell, call, results)


def sequences_of(call: RandomCall) -> dict[str, Any]:
    """Those that are given, as options."""
    found: dict[str, Any] = {}
    if call.lengths is not None:
        found["lengths"] = torch.tensor(call.lengths).reshape(call.leading)
    if call.cu_seqlens is not None:
        found["cu_seqlens"] = list(call.cu_seqlens)
    if call.reset:
        found["reset"] = call.resets
    return found


def named_results(cell: RandomCell, call: RandomCall, results: Any) -> Results:
    outputs, *between, last = (listed(group) for group in results)
    found = {f"output {o}": y for o, y in zip(cell.output_names, outputs, strict=True)}
    for group in between:
        found |= {f"states {s.name}": z for s, z in zip(cell.states, group, strict=True)}
    return found | {f"last {s.name}": h for s, h in zip(cell.states, last, strict=True)}


def listed(values: Any) -> list[Tensor]:
    return [values] if isinstance(values, Tensor) else list(values)


# --- the same by other ways ------------------------------------------------------------------


def in_chunks(cell: RandomCell, plain: Question, run: Callable[..., Any]) -> Iterator[Question]:
    """In two calls, the second from the states of the first."""
    call = plain.call
    is_cut = call.lengths or call.cu_seqlens or call.reset or call.options.get("reverse")
    if call.steps < 2 or is_cut or "one step" in call.layouts.values():
        return
    cut = random.Random(call.seed).randint(1, call.steps - 1)

    def kernel(leaves: Results) -> Results:
        inputs, parts = inputs_of(cell, call, leaves), []
        own = {n: given(call, n, leaves) for n in leaves if n not in inputs}
        for first, end in ((0, cut), (cut, call.steps)):
            begins = any(n.startswith("h0 ") for n in own)
            part = replace(call, steps=end - first, layouts={}, h0="given" if begins else "none")
            for a in cell.of("input"):
                own[a.name] = inputs[a.name].narrow(len(call.leading), first, end - first)
            found = by_kernel(cell, part, run, own)
            own |= {f"h0 {s.name}": found[f"last {s.name}"] for s in cell.states}
            parts.append(found)
        along = [n for n in parts[0] if not n.startswith("last ")]
        time = len(call.leading)
        return {**parts[1], **{n: torch.cat([part[n] for part in parts], time) for n in along}}

    yield plain.alike(f"in chunks, cut at {cut}", kernel)


def as_package(
    cell: RandomCell, plain: Question, c: rnncc.CompiledCell, folder: Path
) -> Iterator[Question]:
    """Written, imported, and called."""
    module = imported(c, folder / "package")
    run = getattr(module, c.name)
    yield plain.alike("from the generated package", partial(by_kernel, cell, plain.call, run))


def imported(c: rnncc.CompiledCell, folder: Path) -> ModuleType:
    """The module that `rnncc compile` writes."""
    write(c.files, folder)
    spec = importlib.util.spec_from_file_location("rnncc_fuzz_package", folder / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    return module


def with_an_output_more(cell: RandomCell, plain: Question, folder: Path) -> Iterator[Question]:
    """Into which no gradient flows, and whose derivative may be infinite."""
    rng = random.Random(f"more {plain.call.seed}")
    readable = [a.name for a in cell.of("state", "input", "param") if not a.size]
    if not readable:
        return
    more = expression(rng, Taste(BOLD, 2, readable))
    outputs = dict(cell.outputs)
    if not outputs:
        last = cell.states[-1].name
        outputs = {f"again_{last}": cell.next[last]}
    wider = replace(cell, style="dict", outputs={**outputs, "unused_output": more})
    c = compiled(wider, folder)

    def kernel(leaves: Results) -> Results:
        found = by_kernel(wider, plain.call, c, leaves)
        found.pop("output unused_output")
        return dict(zip(plain.expected_results, found.values(), strict=True))

    yield plain.alike(f"with the output unused_output = {text_of(more)}", kernel)


def scaled(cell: RandomCell, plain: Question, folder: Path) -> Iterator[Question]:
    """All states in other units, a millionth of theirs: the same but for the scale."""
    if plain.call.dtype not in ("float32", "float64"):
        return
    names = {s.name: name(s.name) * (1 / SMALL) for s in cell.states}

    def at_scale(node: Node) -> Node:
        if node.op == "ago":
            return node * (1 / SMALL)
        if node.op == "name":
            return names.get(node.value, node)
        return replace(node, args=tuple(map(at_scale, node.args)))

    other = replace(
        cell,
        arguments=tuple(
            replace(a, init=a.init * SMALL) if a.kind == "state" else a for a in cell.arguments
        ),
        lets=tuple(replace(let, node=at_scale(let.node)) for let in cell.lets),
        next={n: apply("mul", at_scale(body), SMALL) for n, body in cell.next.items()},
        outputs={n: at_scale(body) for n, body in cell.outputs.items()},
    )
    c = compiled(other, folder)

    def kernel(leaves: Results) -> Results:
        small = {n for n in leaves if n.startswith("h0 ") or n in cell.starts}
        own = {n: t * SMALL if n in small else t for n, t in leaves.items()}
        found = by_kernel(other, plain.call, c, own)
        return {
            n: t / SMALL if n[:4] != "outp" or not cell.outputs else t for n, t in found.items()
        }

    yield plain.alike("with states in units of 2**-20", kernel)
