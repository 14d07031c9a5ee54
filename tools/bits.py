"""Bits: hashes of all results of the shipped cells, to show that a change changes none of them.

`cd CHECKOUT; python tools/bits.py --out new.json`, then `--compare old.json new.json`.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import importlib
import json
import multiprocessing
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import torch
from bits_cases import CASES, EMULATED_CASES, LAYERS, Case
from torch import Tensor, autograd
from torch.nn.utils.rnn import PackedSequence, pack_sequence

ROOT = Path.cwd()  # the checkout whose rnncc is run
sys.path.insert(0, str(ROOT))
sys.dont_write_bytecode = True
THREADS = 2
CORE = "elman para_gru para_lstm lstm slstm min_gru lru block_elman lif fitzhugh_nagumo".split()
EMULATIONS = ("tests.emulated", "tests.support.emulated", "tests.support.emulation")
Hashes = dict[str, dict[str, str]]  # by case, then by result


# --- one cell --------------------------------------------------------------------------------


@dataclass
class Subject:
    """A compiled cell, and of each of its inputs the name, typical distribution, and if shared."""

    name: str
    compiled: Any
    inputs: list[dict[str, Any]]
    dtype: torch.dtype

    def channels(self, groups: int) -> int:
        return groups * int(self.compiled.structure.group)


def run_cell(emulated: bool, name: str) -> tuple[str, Hashes]:
    """All cases of a cell, each drawn by its own name: the order of cells and cases is free."""
    compiled, found = compile_cell(name), Hashes()
    described = json.loads(compiled.files["cell.json"])["inputs"]
    for dtype in (torch.float32,) if emulated else (torch.float32, torch.bfloat16):
        s = Subject(name, compiled, described, dtype)
        with emulation() if emulated else contextlib.nullcontext([]) as launches:
            for label, case in cases(s, emulated):
                hashes = case()
                if launches:
                    hashes["launches"] = " ".join(launches)
                    launches.clear()
                found[f"{str(dtype).removeprefix('torch.')}: {label}"] = hashes
    return name, found


def cases(s: Subject, emulated: bool) -> Iterator[tuple[str, Callable[[], dict[str, str]]]]:
    for label, case in (EMULATED_CASES if emulated else CASES).items():
        yield label, partial(run_case, s, label, case)
    yield "jacobians", partial(jacobians, s)
    for label in ("plain", "packed") if emulated else LAYERS:
        yield f"layer, {label}", partial(run_layer, s, label)
    yield "layer.step", partial(step, s)


def compile_cell(name: str) -> Any:
    import rnncc

    torch.set_num_threads(THREADS)  # before rnncc counts them
    if ROOT not in Path(rnncc.__file__).resolve().parents:
        raise click.ClickException(f"{rnncc.__file__} is imported, not that in {ROOT}")
    loader = SourceFileLoader(f"shipped_{name}", str(ROOT / "cells" / f"{name}.py"))
    module = ModuleType(loader.name)
    loader.exec_module(module)
    return rnncc.compile(getattr(module, name))


def emulation() -> Any:
    """Within it, calls on the CPU run the text of kernel.cu; it yields the kernels launched."""
    for name in EMULATIONS:
        with contextlib.suppress(ModuleNotFoundError, AttributeError):
            return importlib.import_module(name).emulated(seed=0)
    raise click.ClickException(f"no emulation: tried {', '.join(EMULATIONS)}")


# --- calls -----------------------------------------------------------------------------------


def run_case(s: Subject, label: str, case: Case) -> dict[str, str]:
    g, options, channels = generator(s, label), dict(case.options), s.channels(case.shape[2])
    batch, steps, _ = case.shape
    count = len(options["cu_seqlens"]) - 1 if "cu_seqlens" in options else batch
    inputs, params = draw_inputs(s, (batch, steps, channels), g), draw_params(s, channels, g)
    h0 = reached(s, count, channels, params, g) if case.h0 else []
    if "reset" in options:
        options["reset"] = torch.rand((batch, steps), generator=g) < options["reset"]
    inputs = {name: formed(x, case.form) for name, x in inputs.items()}
    h0 = [h.unsqueeze(1) for h in h0] if case.form == "lead" else h0
    leaves = inputs | params | named("h0", h0)
    arguments = hashed({"arguments": torch.cat([t.flatten().float() for t in leaves.values()])})
    fixed = {"frozen": inputs, "constant": leaves}.get(case.form, {})
    leaves = {name: t.requires_grad_() for name, t in leaves.items() if name not in fixed}
    solves: list[Any] = []
    options |= {"return_state": True, "return_states": case.states, "observe": solves.append}
    results = s.compiled(**inputs, **params, h0=tuple(h0) or None, **options)
    outcome = outcome_of(results, case.states)
    hashes = arguments | hashed(outcome) | {"solve": show(solves[0])}
    return hashes | gradients(outcome, leaves, case.flow, g)


def jacobians(s: Subject) -> dict[str, str]:
    g, channels = generator(s, "jacobians"), s.channels(11)
    inputs, params = draw_inputs(s, (3, 37, channels), g), draw_params(s, channels, g)
    h0 = tuple(reached(s, 3, channels, params, g))
    found = {"J": s.compiled.jacobians(**inputs, **params)}
    return hashed(found | {"J from h0": s.compiled.jacobians(**inputs, **params, h0=h0)})


def run_layer(s: Subject, label: str) -> dict[str, str]:
    """Forward and backward, from states that an earlier call reached."""
    g, (own, call) = generator(s, f"layer, {label}"), (dict(part) for part in LAYERS[label])
    layer, x, shared = draw_layer(s, g, own, None if call.get("autocast") else s.dtype)
    pack, autocast = call.pop("pack", False), call.pop("autocast", False)
    *_, state = layer(x, **shared)
    h0 = [h.detach().requires_grad_() for h in flat(state)]
    leaves = {"x": x.requires_grad_(), **dict(layer.named_parameters()), **named("h0", h0)}
    given: dict[str, Any] = {"x": x} | shared
    if pack:
        given = {name: packed(value) for name, value in given.items()}
    with torch.autocast("cpu", s.dtype, enabled=autocast and s.dtype != torch.float32):
        results = layer(state=tuple(h0) if len(h0) > 1 else h0[0], **given, **call)
    outcome = outcome_of(results, "return_states" in call)
    hashes = hashed(outcome) | {"solve": " ".join(map(show, flat(layer.last_solve)))}
    return hashes | gradients(outcome, leaves, "yzh", g)


def step(s: Subject) -> dict[str, str]:
    g = generator(s, "layer.step")
    layer, x, shared = draw_layer(s, g, {}, s.dtype)
    leaves, state = {"x": x.requires_grad_(), **dict(layer.named_parameters())}, None
    for t in range(3):
        given = {name: value[:, t] for name, value in shared.items()}
        y, state = layer.step(x[:, t], state, **given)
    outcome = outcome_of((y, state), False)
    return hashed(outcome) | gradients(outcome, leaves, "yh", g)


def gradients(
    outcome: dict[str, Tensor], leaves: dict[str, Tensor], flow: str, g: torch.Generator
) -> dict[str, str]:
    """Of all leaves, from a normal gradient of each result that `flow` names."""
    results = [r for name, r in outcome.items() if name[0] in flow and r.requires_grad]
    if not results or not leaves:
        return {}
    upstream = [torch.randn(r.shape, generator=g).to(r.dtype) for r in results]
    found = autograd.grad(results, list(leaves.values()), upstream, materialize_grads=True)
    return hashed({f"d {name}": d for name, d in zip(leaves, found, strict=True)})


# --- random arguments ------------------------------------------------------------------------


def generator(s: Subject, label: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(f"{s.name}: {label}".encode()))


def draw_inputs(
    s: Subject, shape: tuple[int, int, int], g: torch.Generator, given: bool = False
) -> dict[str, Tensor]:
    """Typical inputs, uniform or normal; only those that are `given` to a layer by name."""
    found = {}
    for i in s.inputs:
        if given and i.get("projected", True):
            continue
        typical, size = i.get("typical") or {}, shape[:2] if i.get("shared") else shape
        a, b = typical.get("a", 0.0), typical.get("b", 1.0)
        if typical.get("kind") == "uniform":
            drawn = a + (b - a) * torch.rand(size, generator=g)
        else:
            drawn = a + b * torch.randn(size, generator=g)
        found[i["name"]] = drawn.to(s.dtype)
    return found


def draw_params(s: Subject, channels: int, g: torch.Generator) -> dict[str, Tensor]:
    """By the cell's inits; those that are the same in all channels are perturbed a little."""
    torch.manual_seed(g.initial_seed())
    params = {}
    for name, value in s.compiled.layer(1, channels).named_parameters():
        if not name.startswith("projection"):
            p, unit = value.detach(), 2 * torch.rand(value.shape, generator=g) - 1
            params[name] = p + 0.1 * unit if (p == p.flatten()[0]).all() else p.clone()
    return params


def draw_layer(
    s: Subject, g: torch.Generator, options: dict[str, Any], dtype: torch.dtype | None
) -> tuple[Any, Tensor, dict[str, Tensor]]:
    """A layer, its x [3, 21, 8], and the inputs that it is given by name."""
    torch.manual_seed(g.initial_seed())
    layer = s.compiled.layer(8, s.channels(16), dtype=dtype, **options)
    x = torch.randn(3, 21, 8, generator=g).to(dtype or torch.float32)
    shared = draw_inputs(s, (3, 21, 1), g, given=True)
    return layer, x, {name: value.to(x.dtype) for name, value in shared.items()}


def reached(
    s: Subject, count: int, channels: int, params: dict[str, Tensor], g: torch.Generator
) -> list[Tensor]:
    """States that the cell reaches within three steps."""
    inputs = draw_inputs(s, (count, 3, channels), g)
    return flat(s.compiled(**inputs, **params, return_state=True, solver="sequential")[1])


def formed(x: Tensor, form: str) -> Tensor:
    if form == "strided":  # time before batch, and twice the memory
        return torch.stack([x, x], -1).transpose(0, 1).contiguous().transpose(0, 1)[..., 0]
    return {"lead": x.unsqueeze(1), "flat": x.flatten(0, 1)}.get(form, x)


def packed(x: Tensor) -> PackedSequence:
    return pack_sequence([x[0], x[1, :9], x[2, :14]], enforce_sorted=False)


# --- results ---------------------------------------------------------------------------------


def flat(values: Any) -> list[Any]:
    if isinstance(values, PackedSequence):
        return [values.data]
    return [v for value in values for v in flat(value)] if type(values) is tuple else [values]


def named(letter: str, tensors: Any) -> dict[str, Tensor]:
    return {f"{letter}[{i}]": t for i, t in enumerate(tensors)}


def outcome_of(results: tuple[Any, ...], states: bool) -> dict[str, Tensor]:
    """Outputs y, states along the way z, last states h."""
    parts = zip("yzh" if states else "yh", results, strict=True)
    return {name: t for letter, part in parts for name, t in named(letter, flat(part)).items()}


def show(solve: Any) -> str:
    names = ("solver", "segment", "sweeps", "mismatch", "converged", "sequential_from")
    return " ".join(str(getattr(solve, name)) for name in names)


def hashed(tensors: dict[str, Tensor]) -> dict[str, str]:
    return {name: _hash(tensor.detach()) for name, tensor in tensors.items()}


def _hash(tensor: Tensor) -> str:
    head = f"{tensor.dtype} {list(tensor.shape)}".encode()
    words = tensor.contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(head + words.numpy().tobytes()).hexdigest()[:16]


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


# --- all of them -----------------------------------------------------------------------------


def run(cells: list[str], jobs: int, emulated: bool) -> dict[str, Hashes]:
    """In processes of their own, which take PyTorch's threads from the environment."""
    os.environ |= {"OMP_NUM_THREADS": str(THREADS), "OMP_WAIT_POLICY": "PASSIVE"}
    found = {}
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, spawn) as pool:
        for name, hashes in pool.map(partial(run_cell, emulated), cells):
            click.echo(f"{name:20} {digest(hashes)}")
            found[name] = hashes
    return found


def differences(old: dict[str, Hashes], new: dict[str, Hashes]) -> Iterator[str]:
    for cell in sorted({*old, *new}):
        was, now = old.get(cell, {}), new.get(cell, {})
        for case in [*was, *(c for c in now if c not in was)]:
            a, b = was.get(case, {}), now.get(case, {})
            odd = [k for k in [*a, *(k for k in b if k not in a)] if a.get(k) != b.get(k)]
            if odd:
                yield f"{cell}: {case}: {', '.join(odd)}{'' if a and b else ' (in one only)'}"


@click.command()
@click.option("--cells", default="all", help="Names with commas; all, or the core if emulated.")
@click.option("--out", type=click.Path(path_type=Path), help="The file to write.")
@click.option("--jobs", default=2, show_default=True)
@click.option("--emulated", is_flag=True, help="Run the CUDA kernels, on the host.")
@click.option("--compare", nargs=2, type=click.Path(exists=True, path_type=Path))
def main(
    cells: str, out: Path | None, jobs: int, emulated: bool, compare: tuple[Path, Path] | None
) -> None:
    """Hash the results of cells, or compare what two runs wrote."""
    if compare:
        old, new = (json.loads(path.read_text()) for path in compare)
        found = list(differences(old["cells"], new["cells"]))
        click.echo("\n".join([*found, f"{len(found)} cases differ"]))
        sys.exit(bool(found))
    shipped = CORE if emulated else sorted(p.stem for p in (ROOT / "cells").glob("[!_]*.py"))
    began = time.perf_counter()
    hashes = run(shipped if cells == "all" else cells.split(","), jobs, emulated)
    click.echo(f"{'total':20} {digest(hashes)}  {time.perf_counter() - began:.0f} s")
    if out:
        result = {"torch": torch.__version__, "total": digest(hashes), "cells": hashes}
        out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
