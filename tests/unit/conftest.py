"""The limits of unit tests: none builds a kernel, none takes over a second."""

import gc
import os
import shlex
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

MOST_SECONDS = 1.0  # of processor time, on a machine that takes REFERENCE for `_reference`
REFERENCE = 0.05
TOO_DEAR = "a unit test builds a kernel. Fix: move it to tests/kernels, or compile without running"
TOO_SLOW = (
    "a unit test took {:.1f} s of processor time, at most {:.0f} s are allowed.\n"
    "Fix: make it cheaper, or move it to tests/kernels (or tests/library)"
)
NO_COMPILER = shlex.join([sys.executable, "-c", f"raise SystemExit({TOO_DEAR!r})"])


@pytest.fixture(scope="package", autouse=True)
def warm() -> None:
    """Costs that the first test would pay for: imports, templates, the cached list of cells, and
    the constants that Hypothesis collects from all modules before it draws.
    """
    from tests.support.command_line import good
    from tests.support.runs import compiled

    compiled("para_gru")
    good("list")
    given(st.integers())(lambda _: None)()


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of PyTorch that wait for one another on a busy machine would be a test's own cost."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package", autouse=True)
def no_kernel_is_built() -> Iterator[None]:
    """Neither here nor in a process of its own; the cache's key holds CXX, so nothing is found."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        pytest.fail(TOO_DEAR)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXX", NO_COMPILER)
        patch.setattr("rnncc.runtime.cuda.nvrtc.compile", refuse)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    gc.disable()  # what all earlier tests left is no test's own cost
    before = _seconds()
    try:
        yield
    finally:
        gc.enable()
    seconds = _seconds() - before
    excused = item.get_closest_marker("slow") or item.config.pluginmanager.hasplugin("_cov")
    if excused or seconds <= MOST_SECONDS:
        return
    seconds /= max(1.0, _reference() / REFERENCE)  # a slow or busy machine is no fault of the test
    if seconds > MOST_SECONDS:
        pytest.fail(TOO_SLOW.format(seconds, MOST_SECONDS), pytrace=False)


def _seconds() -> float:
    """Of this process and of those that it waited for."""
    return sum(os.times()[:4])


def _reference() -> float:
    """The same work each time."""
    before = _seconds()
    sum(i * i for i in range(1_000_000))
    return _seconds() - before
