"""Calls of the raw operators with one argument wrong, in a process that may die of them.

python -m tests.support.bad_calls CELL...     a line of JSON for each call, before it and after it
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import rnncc.nn.ops  # noqa: F401  defines the operators
from rnncc.nn.given import Given
from rnncc.runtime.kernel import Kernel
from tests.support.runs import compiled, fitting

Arguments = dict[str, Any]
OPERATORS = ("forward", "backward", "jacobian")
ROWS, STEPS, CHANNELS = 3, 20, 6
MOST = 2**63 - 1

# What can be wrong with any tensor: its shape, its dtype, where and how it lies.
WRONG: dict[str, Callable[[Tensor], Any]] = {
    "a dimension less": lambda t: t[0] if t.dim() else t[None],
    "a dimension more": lambda t: t[None],
    "no dimension": lambda t: t.new_zeros(()),
    "empty": lambda t: t.new_zeros(0),
    "first size + 1": lambda t: t.new_zeros(t.shape[0] + 1, *t.shape[1:]),
    "first size 0": lambda t: t.new_zeros(0, *t.shape[1:]),
    "last size + 1": lambda t: t.new_zeros(*t.shape[:-1], t.shape[-1] + 1),
    "last size - 1": lambda t: t.new_zeros(*t.shape[:-1], t.shape[-1] - 1),
    "a vast expanded size": lambda t: (
        t.new_zeros([1] * t.dim()).expand(2**40, *[1] * (t.dim() - 1)) if t.dim() else t[None]
    ),
    "int32": lambda t: t.to(torch.int32),
    "another float": lambda t: t.to(torch.float64),
    "complex": lambda t: t.to(torch.complex64),
    "bytes": lambda t: t.to(torch.uint8),
    "on meta": lambda t: t.to("meta"),
    "sparse": lambda t: t.to_sparse(),
    "sparse rows": lambda t: t.to_sparse_csr() if t.dim() in (2, 3) else t.to_sparse(),
    "nested": lambda t: torch.nested.nested_tensor([t, t]),
    "None": lambda t: None,
    "a number": lambda t: 1,
}

# What can be wrong with the numbers of padded and of joined sequences.
LENGTHS: dict[str, list[int]] = {
    "too long": [STEPS + 1, 1, 1],
    "negative": [-1, 1, 1],
    "the most": [MOST, 1, 1],
    "the least": [-MOST - 1, 1, 1],
}
BOUNDS: dict[str, tuple[list[int], list[int]]] = {
    "falling": ([0, 9, 4], [9, -5, 16]),
    "late": ([1, 4, 9], [3, 5, 11]),
    "early": ([0, 4, 9], [4, 5, 10]),
    "overlapping": ([0, 0, 0], [20, 20, 20]),
    "apart": ([0, 5, 9], [4, 4, 11]),
    "before": ([-4, 0, 9], [4, 9, 11]),
    "wrapping": ([0, 2**62, -(2**63)], [2**62, 2**62, -MOST]),
    "wrapping lengths": ([0, 2**62, 20], [2**62, 20 - 2**62, 0]),
    "vast": ([0, MOST, 20], [MOST, 20 - MOST, 0]),
}
TEXTS = ("deer", "solver=deer", "segment=x", "segment=0", "checkpoint=-1", "solver", "=", "tol=nan")


def main(names: list[str]) -> None:
    """Run all calls; each says its name first, so that the last line names one that died."""
    torch.manual_seed(0)
    for name, operator in itertools.product(names, OPERATORS):
        kernel = compiled(name).kernel
        for form in ("padded", "joined", "packed") if operator != "jacobian" else ("padded",):
            good = arguments(kernel, operator, form)
            run(operator, good)
            for label, bad in wrong_calls(good):
                print(json.dumps({"call": f"{name} {operator} {form}: {label}"}), flush=True)
                print(json.dumps(outcome(operator, bad)), flush=True)
            run(operator, good)  # whose arguments no call has changed
    print(json.dumps({"call": "done"}))


def arguments(
    kernel: Kernel,
    operator: str,
    form: str,
    steps: int = STEPS,
    channels: int = CHANNELS,
    choices: str = "segment=8 solver=segmented checkpoint=4",
) -> Arguments:
    """Good ones, with everything that an operator can be given.

    Args:
        form: "padded", "joined", or "packed" in one tensor.
        steps: at least 9.
    """
    spec = kernel.spec
    joined, channels = form == "joined", fitting(spec.name, channels)
    rows = 1 if joined else ROWS
    own = [i for i in spec.inputs if not i.shared]
    inputs = [torch.randn(rows, steps, *([] if i.shared else [channels])) for i in spec.inputs]
    if form == "packed":
        shared = [x for i, x in zip(spec.inputs, inputs, strict=True) if i.shared]
        inputs = [torch.randn(rows, steps, len(own), channels), *shared]
    params = [
        torch.rand(channels // p.block, p.block, p.block)
        if p.block
        else torch.rand(1 if p.shared else channels)
        for p in spec.params
    ]
    ends = [0, 4, 9, steps]
    starts = torch.tensor(ends[:-1]) if joined else None
    lengths = torch.tensor(ends).diff() if joined else torch.tensor([steps, 0, 7])
    head = Given(
        key=kernel.key,
        choices=choices,
        inputs=inputs,
        packed=form == "packed",
        params=params,
        h0=torch.rand(len(spec.states), ROWS, channels),
        starts=starts,
        lengths=lengths,
        reset=torch.rand(rows, steps) < 0.1,
    )._asdict()
    if operator == "jacobian":
        return {name: head[name] for name in ("key", "inputs", "params", "h0")}
    if operator == "forward":
        return head | {"states": True, "save": True}
    *results, h, saved, _ = torch.ops.rnncc.forward(*head.values(), True, True)
    count = len(spec.outputs)
    return head | {
        "saved": saved,
        "dy": [torch.randn_like(y) for y in results[:count]],
        "dz": [torch.randn_like(z) for z in results[count:]],
        "dh_last": torch.randn_like(h),
        "wanted": [True] * len(inputs),
    }


def run(operator: str, given: Arguments) -> Any:
    return getattr(torch.ops.rnncc, operator)(*given.values())


def outcome(operator: str, bad: Arguments) -> dict[str, str]:
    """The kind of the error and its words, or "accepted"."""
    try:
        run(operator, bad)
    except Exception as error:
        return {"kind": type(error).__name__, "words": str(error)}
    return {"kind": "accepted", "words": ""}


def wrong_calls(good: Arguments) -> Iterator[tuple[str, Arguments]]:
    """The good call with one thing wrong."""
    for name, value in good.items():
        if isinstance(value, Tensor):
            for what, bad in wrong_tensors(value):
                if bad is not None or name == "saved":
                    yield f"{name}, {what}", good | {name: bad}
        elif isinstance(value, list):
            yield from _wrong_lists(name, value, good)
    yield "key, unknown", good | {"key": "nothing-0123"}
    if "choices" in good:
        for text in TEXTS:
            yield f"choices, {text!r}", good | {"choices": text}
    if good.get("starts") is not None:
        yield "starts without lengths", good | {"lengths": None}
        for what, (starts, lengths) in BOUNDS.items():
            bounds = {"starts": torch.tensor(starts), "lengths": torch.tensor(lengths)}
            yield f"boundaries, {what}", good | bounds
    elif "lengths" in good:
        yield "starts of rows of their own", good | {"starts": torch.zeros(ROWS, dtype=torch.int64)}
        for what, lengths in LENGTHS.items():
            yield f"lengths, {what}", good | {"lengths": torch.tensor(lengths)}


def wrong_tensors(value: Tensor) -> Iterator[tuple[str, Any]]:
    for what, make in WRONG.items():
        try:
            yield what, make(value)
        except (RuntimeError, NotImplementedError):  # PyTorch has no such tensor
            continue


def _wrong_lists(name: str, values: list[Any], good: Arguments) -> Iterator[tuple[str, Arguments]]:
    yield f"{name}, one more", good | {name: [*values, values[-1]]}
    if name != "dz" or len(values) > 1:  # without any dz, none has a gradient
        yield f"{name}, one fewer", good | {name: values[:-1]}
    if name != "dz":
        yield f"{name}, none", good | {name: []}
    for i, value in enumerate(values):
        if isinstance(value, Tensor):
            for what, bad in wrong_tensors(value):
                if bad is not None or name in ("inputs", "params"):
                    changed = [*values[:i], bad, *values[i + 1 :]]
                    yield f"{name}[{i}], {what}", good | {name: changed}


if __name__ == "__main__":
    main(sys.argv[1:])
