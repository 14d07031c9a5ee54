"""Older folders: modules that earlier versions generated say what to do with them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from rnncc import LoadError

# The beginning of generated/elman/__init__.py, after its comment, of the version before packages.
BEFORE_PACKAGES = '''\
"""Elman's simple recurrent network with diagonal state-to-state weights.

The smallest nonlinear recurrence: a baseline, and the first cell to read.
Field: time series.
Source: Elman 1990, doi:10.1207/s15516709cog1402_1; one weight per channel as in arXiv:1803.04831.

`Elman` is the layer, `elman` the recurrence alone. Kernels are built at first use.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from rnncc.kernel import Kernel
from rnncc.layer import CellLayer
from rnncc.layer import run as _run
from rnncc.status import Solve

__all__ = ["Elman", "elman"]

_KERNEL = Kernel.read(Path(__file__).parent)
'''


def test_a_module_that_imports_what_has_moved_says_to_regenerate_it(tmp_path: Path) -> None:
    file = tmp_path / "__init__.py"
    file.write_text(BEFORE_PACKAGES, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("elman", file)
    assert spec is not None
    assert spec.loader is not None
    with pytest.raises(
        LoadError, match=r"earlier version.*\nFix: regenerate the folder with rnncc"
    ):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
