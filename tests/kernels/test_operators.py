"""The raw operators: no argument, however wrong, makes a kernel touch what isn't the call's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rnncc.nn import linear, ops
from tests.support.bad_calls import ROWS, arguments, run
from tests.support.runs import compiled
from tests.support.sanitizers import EmulationError, run_sanitized

ROOT = Path(__file__).parents[2]
# with inputs and params that channels share, a matrix, several states and several outputs
CELLS = ["crossed", "pair", "clocked"]
NAMES = "inputs params h0 starts lengths reset saved dy dz dh_last wanted choices".split()


@pytest.mark.parametrize("name", CELLS)
def test_a_call_with_one_wrong_argument_is_refused_by_its_name(name: str) -> None:
    """In a process of its own, which a segmentation fault would end."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.bad_calls", name]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    lines = [json.loads(line) for line in child.stdout.splitlines()]
    assert child.returncode == 0, f"{lines[-1:]}: {child.returncode}\n{child.stderr[-2000:]}"
    assert lines.pop() == {"call": "done"}
    assert len(lines) > 1000
    for call, found in zip(lines[::2], lines[1::2], strict=True):
        assert is_clear(call["call"], found["kind"], found["words"]), (call, found)


def is_clear(call: str, kind: str, words: str) -> bool:
    if call.endswith((", None", ", a number")) and kind == "RuntimeError":
        return "Expected a value of type" in words and "for argument" in words  # PyTorch's own
    named = words.startswith((*NAMES, "cu_seqlens", "channels", "segment", "solver", "checkpoint"))
    if call.endswith(": key, unknown"):
        named = words.startswith("the kernel 'nothing-0123' is not loaded")
    if "choices, " in call:
        named = named or words.startswith("tol")
    return kind == "ArgumentError" and named and "\nFix: " in words


@pytest.mark.parametrize("form", ["padded", "joined"])
def test_arguments_of_any_layout_give_the_same_bits(form: str) -> None:
    """Kernels read params, states and lengths as dense: the operator makes them so."""
    kernel = compiled("crossed").kernel
    good = arguments(kernel, "backward", form)
    expected = run("backward", good)
    for name in ("params", "h0", "starts", "lengths", "reset", "saved", "dy", "dz", "dh_last"):
        value = good[name]
        if value is None:
            continue
        spread = [apart(t) for t in value] if isinstance(value, list) else apart(value)
        found = run("backward", good | {name: spread})
        assert all(map(torch.equal, found, expected)), name


def apart(t: torch.Tensor) -> torch.Tensor:
    """The same values at every second place of every dimension."""
    wide = t.new_ones([2 * size for size in t.shape])
    view = wide[tuple(slice(None, None, 2) for _ in t.shape)]
    view.copy_(t)
    assert not view.is_contiguous()
    return view


def test_an_expanded_saved_or_length_is_read_as_what_it_shows() -> None:
    kernel = compiled("pair").kernel
    good = arguments(kernel, "forward", "padded")
    good["lengths"] = torch.tensor(7).expand(ROWS)
    expected = run("forward", good | {"lengths": torch.full((ROWS,), 7)})
    assert all(map(torch.equal, run("forward", good), expected))


def test_every_operator_checks_and_has_a_rule_for_fake_tensors() -> None:
    defined = {name.partition(".")[0] for name in torch._C._dispatch_get_all_op_names()
               if name.startswith("rnncc::")}  # fmt: skip
    assert defined == {f"rnncc::{name}" for name in (*ops.OPERATORS, *linear.OPERATORS)}


SANITIZED = """
import itertools, torch
from tests.support import bad_calls
from tests.support.runs import compiled
kernel = compiled("{name}").kernel
for form, steps, channels, solver in itertools.product(
    ("padded", "joined", "packed"), (9, 40), (2, 34), ("sequential", "segmented", "newton")
):
    text = f"solver={{solver}} checkpoint=5"
    text += " segment=7" if solver == "segmented" else ""
    text += " on_failure=sequential" if solver == "newton" else ""
    for reverse in ("", " reverse=True"):
        given = (kernel, "backward", form, steps, channels, text + reverse)
        bad_calls.run("backward", bad_calls.arguments(*given))
bad_calls.run("jacobian", bad_calls.arguments(kernel, "jacobian", "padded"))
bad_calls.main(["{name}"])
print("all within bounds")
"""


@pytest.fixture
def sanitized(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Processes build kernels with AddressSanitizer and UndefinedBehaviorSanitizer."""
    monkeypatch.setenv("CXX", "g++ -fsanitize=address,undefined -fno-sanitize-recover=all")
    monkeypatch.setenv("RNNCC_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("RNNCC_KEPT_BYTES", "0")


@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS)
def test_under_the_sanitizers_no_call_leaves_its_tensors(name: str, sanitized: None) -> None:
    """Over good calls and bad ones."""
    code = SANITIZED.format(name=name)
    assert "all within bounds" in run_sanitized("-W", "ignore", "-c", code)


UNCHECKED = """
import torch
from rnncc.nn import ops
from rnncc.nn.given import COMMON, Given
from rnncc.runtime.cpu.backend import BACKEND
from tests.support import bad_calls
from tests.support.runs import compiled
kernel = compiled("pair").kernel
good = bad_calls.arguments(kernel, "forward", "padded", channels=64)
ops.parse = lambda arguments: (Given(*arguments[:COMMON]), kernel, BACKEND)
bad_calls.run("forward", good | {"params": [torch.rand(3)]})
"""


@pytest.mark.slow
def test_the_sanitizers_see_what_a_missing_check_lets_through(sanitized: None) -> None:
    with pytest.raises(EmulationError, match="AddressSanitizer: heap-buffer-overflow"):
        run_sanitized("-W", "ignore", "-c", UNCHECKED)
