"""Resources: a compiled binary -> the registers, memory and spills of each kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rnncc.inspect import sass
from rnncc.inspect.loops import Loop, loops, per_step
from rnncc.inspect.occupancy import LIMITS, occupancy
from rnncc.runtime.cuda.nvrtc import Binary, Resources

Row = tuple[str, ...]

HEADERS = ("kernel", "threads", "registers", "spilled", "shared", "warps at once", "steps", "all")
COLUMNS = ("global", "shared", "local", "float", "special", "integer", "conversion", "control")
NOTE = (
    "Shared: bytes of the largest block that is launched. Warps at once: of those that a\n"
    "multiprocessor can hold, and what limits them.\n"
    "After `steps`: instructions of one step of the largest loop, which takes that many steps a "
    "trip,\nfrom the lightest trip that does the work to the heaviest. Rare paths and loops inside "
    "don't count."
)


class Launch(NamedTuple):
    """A block as it is launched: its threads, and its bytes of dynamic shared memory."""

    threads: int
    shared: int


def inspect(
    binary: Binary,
    steps: Mapping[str, int] | None = None,
    launched: Mapping[str, Launch] | None = None,
) -> list[dict[str, Any]]:
    """The resources of each kernel, in the order of the text.

    Args:
        steps: of one trip of a kernel's largest loop, by kernel name; 1 where missing.
        launched: how its blocks are launched, by kernel name; where missing, with as many threads
            as they may have.
    Returns:
        For each kernel the fields of `Resources`, "dynamic_shared" memory, "occupancy" (None for an
        unknown architecture), "instructions" of the whole text, "steps" and "loops", the largest
        first.
    Raises:
        BuildError: nvdisasm isn't installed, or can't read the binary.
    """
    code = sass.read(sass.disassemble(binary.cubin))
    result = []
    for found in binary.resources:
        kernel, taken = code[found.kernel], (steps or {}).get(found.kernel, 1)
        launch = (launched or {}).get(found.kernel, Launch(found.threads, 0))
        at_once = _at_once(binary.arch, found, launch)
        listed = [_loop(loop, taken) for loop in loops(kernel)]
        counts = {"instructions": len(kernel.instructions), "steps": taken, "loops": listed}
        result.append(
            vars(found) | {"dynamic_shared": launch.shared, "occupancy": at_once} | counts
        )
    return result


def _at_once(arch: str, found: Resources, launch: Launch) -> dict[str, Any] | None:
    if arch not in LIMITS:
        return None
    shared = found.static_shared + launch.shared
    fits = occupancy(arch, launch.threads, found.registers, shared, found.barriers)
    return vars(fits) | {"of_warps": LIMITS[arch].warps}


def _loop(loop: Loop, steps: int) -> dict[str, Any]:
    counts = {name: list(pair) for name, pair in per_step(loop, steps).items()}
    return {
        "address": loop.start,
        "depth": loop.depth,
        "per_step": counts,
        "rare": loop.rare,
        "calls": list(loop.calls),
    }


def rows(found: list[dict[str, Any]]) -> list[Row]:
    """The findings of `inspect`, a row for each kernel under `HEADERS` and `COLUMNS`."""
    return [_row(kernel) for kernel in found]


def _row(kernel: dict[str, Any]) -> Row:
    fits, found = kernel["occupancy"], kernel["loops"]
    warps = "" if fits is None else f"{fits['warps']}/{fits['of_warps']}, {fits['limited_by'][0]}"
    shared = kernel["static_shared"] + kernel["dynamic_shared"]  # of a block
    spilled = kernel["spill_stores"] + kernel["spill_loads"]
    return (
        kernel["kernel"],
        str(kernel["threads"]),
        str(kernel["registers"]),
        f"{spilled} B" if spilled else "none",
        f"{shared} B" if shared else "none",
        warps,
        str(kernel["steps"]) if found else "",
        *(_range(found[0]["per_step"][c]) if found else "" for c in ("all", *COLUMNS)),
    )


def _range(pair: list[float]) -> str:
    least, most = (f"{count:.3g}" for count in pair)
    return least if least == most else f"{least} to {most}"
