"""Write docs/kernels.json, figures of the core cells' CUDA kernels, and its table in docs/cuda.md.

    python tools/kernel_figures.py [CELL ...] [--table]

Needs CuPy, NVRTC and nvdisasm, no GPU. "before" stays as it is; cells that aren't named too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

import rnncc
from rnncc.inspect.figures import PASSES, Data, figures
from rnncc.lang.loader import find

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.runs import CORE  # noqa: E402

FILE, PAGE = ROOT / "docs" / "kernels.json", ROOT / "docs" / "cuda.md"
DTYPES = ("float32", "bfloat16")
BEGIN, END = "<!-- tools/kernel_figures.py writes from here -->", "<!-- to here -->"
COLUMNS = ("registers", "instructions", "KB in flight", "bound")


@click.command()
@click.argument("cells", nargs=-1, type=click.Choice(CORE))
@click.option("--table", "only_table", is_flag=True, help="Only write the table again.")
def main(cells: tuple[str, ...], only_table: bool) -> None:
    """Count the figures of CELLs, of all core cells if none is named, and write both files."""
    data = read()
    for name in () if only_table else cells or CORE:
        print(f"compiling {name}", file=sys.stderr)
        compiled = rnncc.compile(find(name))
        data["after"][name] = {dtype: figures(compiled, dtype) for dtype in DTYPES}
    data |= {"nvrtc": data["nvrtc"] if only_table else version()}
    FILE.write_text(as_json(data), encoding="utf-8")
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), data), encoding="utf-8")


def read() -> Data:
    data: Data = json.loads(FILE.read_text(encoding="utf-8"))
    return data


def version() -> str:
    """Of NVRTC, whose choice of instructions and registers the figures are."""
    from cupy.cuda import nvrtc

    return ".".join(map(str, nvrtc.getVersion()))


def as_json(data: Mapping[str, Any]) -> str:
    """A line for each kernel and each pass."""
    return _text(data, 5) + "\n"


def _text(value: Any, depth: int, pad: str = "") -> str:
    if not isinstance(value, dict) or depth == 0:
        return json.dumps(value)
    inner = pad + " "
    items = [f"{inner}{json.dumps(k)}: {_text(v, depth - 1, inner)}" for k, v in value.items()]
    return "{\n" + ",\n".join(items) + "\n" + pad + "}"


# --- the table -------------------------------------------------------------------------------


def with_table(page: str, data: Mapping[str, Any]) -> str:
    """The page with the table between its marks written again."""
    before, _, rest = page.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise click.ClickException(f"{PAGE} has no lines {BEGIN} and {END}. Fix: put them back")
    return f"{before}{BEGIN}\n\n{table(data)}\n\n{END}{after}"


def table(data: Mapping[str, Any]) -> str:
    heads = ["cell", "dtype", *(f"{p}: {column}" for p in PASSES for column in COLUMNS)]
    lines = [heads, ["---"] * len(heads)]
    for name, dtype in ((name, dtype) for name in data["after"] for dtype in DTYPES):
        both = data["before"][name][dtype], data["after"][name][dtype]
        lines.append([name, dtype, *(cell for p in PASSES for cell in _row(p, *both))])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(name: str, before: Data, after: Data) -> list[str]:
    kernels = [found["kernels"][name] for found in (before, after)]
    passes = [found["passes"][name] for found in (before, after)]
    return [
        _change(*(str(k["registers"]) for k in kernels)),
        _change(*(f"{k['instructions']['all']:.0f}" for k in kernels)),
        _change(*(f"{p['in_flight'] / 1000:.1f}" for p in passes)),
        _change(*(p["bound"] for p in passes)),
    ]


def _change(before: str, after: str) -> str:
    return before if before == after else f"{before} → {after}"


if __name__ == "__main__":
    main()
