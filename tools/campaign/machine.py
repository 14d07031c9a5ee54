"""Machine: GPU, driver, versions, commit, and the packages that are missing; without importing any.

A bare machine may lack what rnncc needs, so this asks nvidia-smi, git and package metadata.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ABOUT = ("name", "uuid", "driver_version", "compute_cap", "memory.total", "clocks.max.sm",
         "clocks.max.mem", "power.limit", "mig.mode.current", "ecc.mode.current")  # fmt: skip
CLOCKS = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw", "pstate")
VERSIONS = (
    *("torch", "triton", "cupy-cuda12x", "cupy-cuda13x", "nvidia-cuda-nvrtc"),
    *("nvidia-cuda-nvrtc-cu12", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "numpy", "sympy"),
)
# What these need in turn can't be asked while they aren't there.
PARTS = {
    "pydantic": ("pydantic-core", "annotated-types", "typing-extensions", "typing-inspection"),
    "rich": ("markdown-it-py", "mdurl", "pygments"),
    "jinja2": ("markupsafe",),
    "sympy": ("mpmath",),
    "pytest": ("iniconfig", "pluggy", "packaging", "pygments"),
    "hypothesis": ("sortedcontainers",),
}
TESTING = ("pytest", "hypothesis")
PATIENCE = 10.0  # seconds
CUPY = ("cupy-cuda12x", "cupy-cuda13x", "cupy")


def about() -> dict[str, Any]:
    """GPU, driver, clocks at most, and versions."""
    versions = {name: _version(name) for name in VERSIONS}
    return {
        **ask(ABOUT),
        "python": platform.python_version(),
        "system": platform.platform(),
        **{name: version for name, version in versions.items() if version},
    }


def has_gpu() -> bool:
    """Whether there is an NVIDIA GPU, as far as can be told without PyTorch."""
    return bool(ask(("name",))) or any(Path("/dev").glob("nvidia[0-9]*"))


def clocks() -> dict[str, str]:
    """Those of the GPU now; none without one."""
    return ask(CLOCKS)


def ask(names: Sequence[str]) -> dict[str, str]:
    """What nvidia-smi says of the first GPU."""
    command = ["nvidia-smi", "-i", "0", f"--query-gpu={','.join(names)}", "--format=csv,noheader"]
    row = _output(command).splitlines()[:1]
    values = row[0].split(", ") if row else []
    return dict(zip(names, values, strict=True)) if len(values) == len(names) else {}


def commit() -> str:
    """Of this checkout, with "+" if it has changes; empty where git can't tell."""
    git = ["git", "-C", str(ROOT)]
    found = _output([*git, "rev-parse", "--short=12", "HEAD"]).strip()
    return found + ("+" if found and _output([*git, "status", "--porcelain", "-uno"]) else "")


def _output(command: Sequence[str]) -> str:
    """What a command prints; nothing if it fails or doesn't answer, as beside a GPU that hangs."""
    try:
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
    except OSError:
        return ""
    try:
        found, _ = child.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()  # and not wait: the driver may hold it
        return ""
    return "" if child.returncode else found


# --- packages --------------------------------------------------------------------------------


def missing() -> list[str]:
    """Requirements that aren't met: of rnncc, of its tests, and CuPy."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = [r for r in requirements(text) if not _is_met(r)]
    for requirement in list(found):
        found += [part for part in PARTS.get(name_of(requirement), ()) if not _version(part)]
    if not any(_version(name) for name in CUPY):
        found.append("cupy-cuda12x" if "+cu12" in (_version("torch") or "") else "cupy-cuda13x")
    return list(dict.fromkeys(found))


def requirements(text: str) -> list[str]:
    """The dependencies of a pyproject.toml, and of its extra `dev` those that tests need."""
    blocks = re.findall(r"^(?:dependencies|dev) = \[\n(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    every = [r for block in blocks for r in re.findall(r'^ +"([^";]+)', block, re.MULTILINE)]
    own = re.findall(r'^ +"([^";]+)', blocks[0], re.MULTILINE) if blocks else []
    return [*own, *(r for r in every if name_of(r) in TESTING)]


def name_of(requirement: str) -> str:
    """The package of "name>=version"."""
    return re.split(r"[<>=!~ \[;]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def _is_met(requirement: str) -> bool:
    version = _version(name_of(requirement))
    least = re.search(r">=([\d.]+)", requirement)
    return version is not None and (least is None or _numbers(version) >= _numbers(least[1]))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version.partition("+")[0])[:3]))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def pip_line(wanted: Collection[str]) -> str:
    """The command that installs them, and nothing else; the versions that constraints.txt pins."""
    found = [r for r in wanted if name_of(r) != "torch"]
    names = " ".join(f'"{r}"' if re.search(r"[<>]", r) else r for r in found)
    line = f"{sys.executable} -m pip install --no-deps -c constraints.txt {names}"
    if len(found) < len(wanted):
        line = f"torch as pytorch.org says for this GPU; {line}"
    return line
