"""Doctor: this machine -> the findings about everything that rnncc needs, and the fixes."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rnncc.cache import cache_dir
from rnncc.doctor import cuda
from rnncc.doctor.finding import Finding
from rnncc.runtime.cpu import build

TINY = 'extern "C" int rnncc_tiny(int x) { return x + 1; }\n'
CACHED = re.compile(r"\w+-b?float\d+-[0-9a-f]{20}\w*\.(so|cpp|cu|so\.lock|tmp)")


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
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        if done.returncode == 0 and Path(folder, "tiny.so").is_file():
            return ""
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[0] if lines else f"exit status {done.returncode}"


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
    folder = cache_dir()
    files = cached_files()
    size = sum(map(_size, files))
    facts: dict[str, Any] = {"folder": str(folder), "files": len(files), "bytes": size}
    reason = _unwritable(folder)
    facts["writable"] = not reason
    if reason:
        return Finding(
            "Kernel cache",
            "missing",
            f"{folder} can't be written: {reason}",
            "set RNNCC_CACHE_DIR to a folder that can",
            facts,
        )
    seen = f"{folder}, {len(files)} files, {size / 2**20:.1f} MiB, writable"
    return Finding("Kernel cache", "ok", seen, facts=facts)


def _unwritable(folder: Path) -> str:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def cached_files() -> list[Path]:
    """The cache's files that rnncc wrote; a file of another name belongs to another program."""
    folder = cache_dir()
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if CACHED.fullmatch(f.name) and f.is_file())


def _size(file: Path) -> int:
    """Bytes; 0 where another process has just moved the file away."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def clear_cache() -> dict[str, Any]:
    """Delete rnncc's cached files; kernels are rebuilt at their next use."""
    files = cached_files()
    size = sum(map(_size, files))
    for file in files:
        file.unlink(missing_ok=True)
    return {"folder": str(cache_dir()), "files": len(files), "bytes": size}


def cpu_name() -> str:
    """The processor's name, as its vendor gives it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    name = found.group(1).strip() if found else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"
