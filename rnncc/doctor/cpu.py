"""Doctor: this machine -> the findings about everything that rnncc needs, and the fixes."""

from __future__ import annotations

import os
import platform
import re
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

from rnncc.cache import VARIABLE, cache_dir, exposed, make_cache_dir, wanted_cache_dir
from rnncc.doctor import cuda
from rnncc.doctor.finding import Finding
from rnncc.errors import BuildError
from rnncc.runtime.cpu import build, stored, waiting

TINY = 'extern "C" int rnncc_tiny(int x) { return x + 1; }\n'
SECONDS = 60.0  # for a tiny program


def examine() -> list[Finding]:
    """Look at everything that compiling, building and running a cell needs."""
    return [_python(), _torch(), _compiler(), _pool(), _cache(), *cuda.examine()]


def healthy(findings: list[Finding]) -> bool:
    """Whether a kernel can be built and run here."""
    return all(finding.state != "missing" for finding in findings)


def _python() -> Finding:
    version = platform.python_version()
    facts = {"version": version, "executable": sys.executable}
    return Finding("Python", "ok", f"{version} ({sys.executable})", facts=facts)


def _torch() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:
        fix = "pip install torch, as pytorch.org says for this machine"
        return Finding("PyTorch", "missing", f"can't be imported: {error}", fix)
    built_for = torch.version.cuda
    facts = {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "cuda": built_for,
        "gpu": torch.cuda.is_available(),
    }
    built = f"built for CUDA {built_for}" if built_for else "built without CUDA"
    seen = f"{torch.__version__}, {facts['threads']} threads, {built}"
    return Finding("PyTorch", "ok", seen, facts=facts)


# --- the C++ compiler ------------------------------------------------------------------------


def _compiler() -> Finding:
    compiler = build.find_compiler()
    if compiler is None:
        return Finding(
            "C++ compiler",
            "missing",
            "none found: neither CXX, g++, clang++ nor the wheel ziglang",
            'pip install "rnncc[zig]", or install g++ or clang++, or set CXX',
        )
    command = " ".join(compiler.command)
    refusal, version = _try(compiler), ""
    facts = {"command": command, "origin": compiler.origin, "builds": not refusal}
    if refusal:
        return Finding(
            "C++ compiler",
            "missing",
            f"{command} (from {compiler.origin}) does not build a tiny program: {refusal}",
            "correct or unset CXX; or install g++ or clang++",
            facts,
        )
    version = compiler.version()
    seen = f"{command} (from {compiler.origin}), {version}; builds a tiny program"
    return Finding("C++ compiler", "ok", seen, facts=facts | {"version": version})


def _try(compiler: build.Compiler) -> str:
    """Build a tiny library with the flags that kernels are built with; the reason, if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "tiny.cpp"
        source.write_text(TINY, encoding="utf-8")
        command = [*compiler.command, *build.FLAGS, str(source), "-o", f"{folder}/tiny.so"]
        try:
            status, said = waiting.run(command, "building a tiny program", SECONDS)
        except TimeoutError:
            return f"it does not end within {SECONDS:.0f} s"
        except OSError as error:
            return str(error)
        if status == 0 and Path(folder, "tiny.so").is_file():
            return ""
    lines = said.strip().splitlines()
    return lines[0] if lines else f"exit status {status}"


def _pool() -> Finding:
    """Looked up after PyTorch is imported: its OpenMP is the one to share."""
    shared = build.thread_pool() != 0
    seen = (
        "kernels run on PyTorch's own threads"
        if shared
        else "PyTorch's OpenMP was not found; kernels start their own threads"
    )
    return Finding("Threads", "ok", seen, facts={"shares_pool": shared})


# --- the cache -------------------------------------------------------------------------------


def _cache() -> Finding:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a folder that isn't used, reported below
        try:
            wanted, folder = wanted_cache_dir(), cache_dir()
        except BuildError as error:
            seen, _, fix = str(error).partition("\nFix: ")
            return Finding("Kernel cache", "missing", seen, fix)
    files = stored.files(folder)
    size = sum(map(_size, files))
    facts: dict[str, Any] = {"folder": str(folder), "files": len(files), "bytes": size}
    reason = _unusable(folder)
    facts["writable"] = not reason
    if reason:
        fix = f"set {VARIABLE} to a folder that can"
        return Finding("Kernel cache", "missing", f"{folder} can't be {reason}", fix, facts)
    seen = f"{folder}, {len(files)} files, {size / 2**20:.1f} MiB, writable"
    if wanted == folder:
        return Finding("Kernel cache", "ok", seen, facts=facts)
    instead = f"in place of {wanted}, which {exposed(wanted)}" if wanted else "there is no home"
    fix = f"set {VARIABLE} to a folder of your own"
    return Finding("Kernel cache", "fault", f"{seen}; {instead}", fix, facts)


def _unusable(folder: Path) -> str:
    try:
        with tempfile.TemporaryFile(dir=make_cache_dir()):
            pass
    except OSError as error:
        return f"written: {error.strerror or error}"
    if build.nothing_runs(folder):
        return "used: its file system lets nothing be run from there (noexec)"
    return ""


def _size(file: Path) -> int:
    """Bytes; 0 where another process has just moved the file away."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def clear_cache() -> dict[str, Any]:
    """Delete rnncc's cached files; kernels are rebuilt at their next use."""
    folder = cache_dir()
    files = stored.files(folder)
    size = sum(map(_size, files))
    for file in files:
        file.unlink(missing_ok=True)
    return {"folder": str(folder), "files": len(files), "bytes": size}


def cpu_name() -> str:
    """The processor's name, as its vendor gives it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    name = found.group(1).strip() if found else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"
