"""Which tests run every day, and the tenth of the others that CI draws."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.support.runs import CORE, SHIPPED
from tests.support.tiers import FOLDER, drawn, is_slow


@dataclass
class Item:
    """As much of a pytest.Item as a tier depends on."""

    nodeid: str = ""
    file: str = "kernels/test_x.py"
    given: dict[str, Any] = field(default_factory=dict)
    marks: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return FOLDER / self.file

    @property
    def callspec(self) -> SimpleNamespace:
        return SimpleNamespace(params=self.given)

    def get_closest_marker(self, name: str) -> bool:
        return name in self.marks


OTHER = next(name for name in SHIPPED if name not in CORE)


@pytest.mark.parametrize(
    ("item", "slow"),
    [
        (Item(), False),
        (Item(marks=("slow",)), True),
        (Item(file="library/test_x.py"), True),
        (Item(given={"name": "para_gru"}), False),
        (Item(given={"name": OTHER}), True),
        (Item(given={"path": Path("cells") / f"{OTHER}.py"}), True),
        (Item(file="fidelity/test_x.py", given={"name": OTHER}), False),
        (Item(given={"name": "para_gru", "dtype": torch.bfloat16}), False),
        (Item(given={"name": "slstm", "dtype": torch.bfloat16}), True),
        (Item(given={"name": "slstm", "dtype": "float16"}), True),
        (Item(given={"name": "slstm", "dtype": torch.float64, "target": "cpp"}), False),
        (Item(given={"name": "slstm", "dtype": torch.float64, "target": "emulated"}), True),
        (Item(given={"name": "not a cell", "dtype": torch.float16}), False),
    ],
)
def test_a_test_is_slow_by_its_mark_its_folder_its_cell_or_what_it_builds(
    item: Any, slow: bool
) -> None:
    assert is_slow(item) is slow


def items() -> list[Any]:
    cells = [Item(f"test_{i}[{n}]", given={"name": n}) for n in SHIPPED for i in range(3)]
    return [*cells, *(Item(f"test_alone_{i}") for i in range(37))]


def test_a_tenth_is_drawn_by_its_seed_and_cells_are_drawn_whole() -> None:
    few = drawn(items(), "a1b2c3")
    assert few == drawn(items()[::-1], "a1b2c3")
    assert few != drawn(items(), "a1b2c4")
    groups = {nodeid.partition("[")[2] or nodeid for nodeid in few}
    assert len(groups) == 11  # of 73 cells and 37 tests of none
    cells = {group for group in groups if group.endswith("]")}
    assert len(few) == 3 * len(cells) + len(groups - cells)


def test_every_slow_test_is_drawn_by_some_seed() -> None:
    seen = {nodeid for seed in range(200) for nodeid in drawn(items(), str(seed))}
    assert seen == {item.nodeid for item in items()}
