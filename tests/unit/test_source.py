"""Source: the cell's files and the driver's headers, joined in one text a target."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import rnncc
from rnncc import paths
from rnncc.codegen.kernel_spec import TILE, WIDEST
from rnncc.errors import LoadError
from rnncc.ir.spec import FILES
from rnncc.planner.cuda import LETS_IN_REGISTERS, WARM_UP_OF_BLOCK
from rnncc.planner.ring import (
    BYTES_AHEAD,
    BYTES_OF_BORDER,
    BYTES_OF_RING,
    MOST_STAGES,
    PARAMS_IN_REGISTERS,
    PARAMS_IN_SHARED,
    STAGES_OF_TILES,
    WARP,
)
from rnncc.runtime import source
from rnncc.runtime.kernel import Kernel
from rnncc.runtime.source import header, join, of_the_cell
from tests.support.many import MANY
from tests.support.runs import compiled

ROOT = Path(__file__).parents[2]
HEADERS = sorted(p.relative_to(paths.headers()).as_posix() for p in paths.headers().rglob("*.h"))


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the driver that a test may change."""
    shutil.copytree(paths.headers(), tmp_path / "include")
    monkeypatch.setattr(source.paths, "headers", lambda: tmp_path / "include")
    header.cache_clear()
    yield tmp_path / "include"
    monkeypatch.undo()
    header.cache_clear()


@pytest.mark.parametrize("target", FILES)
def test_the_joined_text_needs_no_other_file(target: str) -> None:
    text = compiled("para_gru").source(target)
    assert '#include "' not in text
    assert "#pragma once" not in text
    assert "__CUDACC__" not in text


@pytest.mark.parametrize("target", FILES)
def test_each_header_is_joined_once(target: str) -> None:
    text = compiled("para_gru").source(target)
    marks = re.findall(r"^// ---- (\S+) -+$", text, re.MULTILINE)
    assert len(marks) == len(set(marks))
    assert {"cell.h", "rnncc/common/args.h", "rnncc/common/policy.h"} <= set(marks)


def test_every_header_is_part_of_some_target() -> None:
    cells = ("para_gru", "head")  # of one value, and of so many that one pass is all there is
    text = "".join(compiled(name).source(target) for name in cells for target in FILES)
    assert [name for name in HEADERS if f"// ---- {name} -" not in text] == []


def test_system_headers_come_after_the_cell_whose_names_their_macros_could_be() -> None:
    text = compiled("para_gru").source("cpp")
    first = min(m.start() for m in re.finditer(r"#include <(?!stdint\.h)", text))
    assert text.index("void para_gru_adjoint(") < first


def test_conditions_that_the_compiler_decides_stay() -> None:
    kernel = (
        "#ifdef A\na\n#else\nb\n#endif\n#ifdef __CUDACC__\n#if C\nc\n#endif\n#else\nd\n#endif\n"
    )
    assert join({"kernel.cpp": kernel}, "cpp") == "#ifdef A\na\n#else\nb\n#endif\nd\n"
    assert (
        join({"kernel.cu": kernel}, "cuda") == "#ifdef A\na\n#else\nb\n#endif\n#if C\nc\n#endif\n"
    )


@pytest.mark.parametrize("name", HEADERS)
def test_a_comment_in_a_header_changes_no_generated_file(name: str, driver: Path) -> None:
    cell = MANY["head"] if "one_pass" in name else "elman"
    before = rnncc.compile(cell)
    joined = [before.source(target) for target in FILES]
    with (driver / name).open("a", encoding="utf-8") as file:
        file.write("// One more comment.\n")
    header.cache_clear()
    after = rnncc.compile(cell)
    assert after.files == before.files
    assert [after.source(target) for target in FILES] != joined


def test_a_kernels_key_follows_from_the_cell() -> None:
    c = compiled("elman")
    key = Kernel(c.spec, c.files).key
    assert Kernel(c.spec, dict(c.files)).key == key
    assert Kernel(c.spec, {**c.files, "cell.h": c.files["cell.h"] + "\n"}).key != key


def test_a_header_that_the_driver_lacks_is_named_with_the_fix() -> None:
    message = r"rnncc/cpp/gone\.h: the driver has no such header.*\nFix: regenerate the folder"
    with pytest.raises(LoadError, match=message):
        join({"kernel.cpp": '#include "rnncc/cpp/gone.h"\n'}, "cpp")


def test_the_shown_text_begins_with_the_cell_and_ends_with_its_kernels() -> None:
    files = compiled("elman").files
    text = of_the_cell(files, "cuda")
    assert text.startswith(files["cell.h"].splitlines()[0])
    assert text.endswith(files["kernel.cu"])


def test_a_tile_is_as_large_as_the_planner_takes_it_to_be() -> None:
    assert f"constexpr int kTile = {TILE};" in header("rnncc/cpp/lanes.h")
    assert f"constexpr int kWidest = {WIDEST};" in header("rnncc/cpp/lanes.h")


def test_a_block_along_time_is_as_the_planner_takes_it_to_be() -> None:
    assert f"constexpr int kWarp = {WARP};" in header("rnncc/cuda/runs.h")
    tiles = header("rnncc/cuda/tiles.h")
    most = WARM_UP_OF_BLOCK
    assert f"constexpr int kWarm = kAhead < {most} ? kAhead : {most};" in tiles
    assert f"constexpr int kStagesOfTiles = {STAGES_OF_TILES};" in tiles


def test_kernels_read_as_far_ahead_as_the_planner_takes_them_to() -> None:
    ring = header("rnncc/cuda/ring.h")
    assert f"constexpr int kBytesAhead = {BYTES_AHEAD};" in ring
    assert f"constexpr int kBytesOfRing = {BYTES_OF_RING // 1024} * 1024;" in ring
    assert f"constexpr int kMostStages = {MOST_STAGES};" in ring
    assert f"kAhead * Cell::kStored <= {LETS_IN_REGISTERS};" in header("rnncc/cuda/backward.h")
    sums = f"kParams > {PARAMS_IN_REGISTERS} && Cell::kParams <= {PARAMS_IN_SHARED};"
    assert sums in header("rnncc/cuda/backward.h")
    assert f"kMost * kReal <= {BYTES_OF_BORDER} ? 8 : 4;" in header("rnncc/cuda/queue.h")
