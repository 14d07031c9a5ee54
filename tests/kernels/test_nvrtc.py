"""NVRTC: emitted CUDA text becomes a binary without a GPU, with the flags that it runs with."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rnncc import ArgumentError, BuildError, paths
from rnncc.ir.functions import TABLE, Comparison
from rnncc.runtime.cpu.build import IO_TYPES
from rnncc.runtime.cuda import nvrtc

ROOT = Path(__file__).parents[2]
needs_nvrtc = pytest.mark.skipif(
    importlib.util.find_spec("cupy") is None, reason='needs pip install "rnncc[cuda13]"'
)
HAVE = 'Fix: pip install "rnncc[cuda13]"'

# In the form of an emitted kernel.
TINY = """\
// The recurrence:
//   h = a*h + x
namespace rnncc {
struct bfloat16 { unsigned short bits; };
struct float16 { unsigned short bits; };
typedef RNNCC_IO io;
struct Args { const io* x; io* y; const float* a; long long steps; };
struct Cell { static constexpr float start[] = {0.5f, 2.0f}; };
inline float decayed(float a, float h) { return a * h; }
}
extern "C" __global__ void __launch_bounds__(256) tiny_forward(rnncc::Args a) {
  float h = rnncc::Cell::start[threadIdx.x & 1];
  for (long long step = 0; step < a.steps; ++step) h = rnncc::decayed(a.a[step], h);
  if (h > 1) a.y[threadIdx.x] = a.x[threadIdx.x];
}
extern "C" __global__ void tiny_shared(rnncc::Args a) {
  __shared__ float row[64];
  row[threadIdx.x] = a.a[threadIdx.x];
  __syncthreads();
  if (row[63 - threadIdx.x] > 0) a.y[threadIdx.x] = a.x[threadIdx.x];
}
"""
# Sums in an order that needs all values at once, in more registers than there are.
SPILLS = """
extern "C" __global__ void __launch_bounds__(1024) spills(const float* x, float* y, int steps) {
  float v[96];
#pragma unroll
  for (int i = 0; i < 96; ++i) v[i] = x[i * 1024 + threadIdx.x];
  for (int step = 0; step < steps; ++step)
#pragma unroll
    for (int i = 0; i < 96; ++i) v[i] = v[i] * v[(i + 37) % 96] + x[step];
#pragma unroll
  for (int i = 0; i < 96; ++i) y[i * 1024 + threadIdx.x] = v[i];
}
"""


# --- without NVRTC ---------------------------------------------------------------------------


def test_cupy_is_handed_the_standard_and_the_type_of_tensors_and_no_fast_math() -> None:
    for dtype, name in IO_TYPES.items():
        assert nvrtc.options(dtype) == ("-std=c++17", f"-DRNNCC_IO={name}")


def test_a_log_is_read_kernel_by_kernel() -> None:
    log = (
        "ptxas info    : 12 bytes gmem\n"
        "ptxas info    : Compiling entry function 'b' for 'sm_90'\n"
        "ptxas info    : Function properties for b\n"
        "ptxas         .     40 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads\n"
        "ptxas info    : Used 34 registers, used 2 barriers, 48 bytes cumulative stack size, "
        "2048 bytes smem, 400 bytes cmem[0]\n"
        "ptxas info    : Function properties for helper\n"
        "ptxas         .     0 bytes stack frame, 16 bytes spill stores, 32 bytes spill loads\n"
        "ptxas info    : Compiling entry function 'a' for 'sm_90'\n"
        "ptxas info    : Function properties for a\n"
        "ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
        "ptxas info    : Used 8 registers, used 0 barriers\n"
    )
    ptx = (
        ".visible .entry a(\n.param .u64 a_0\n)\n{ }\n.visible .entry b(\n)\n.maxntid 256, 1, 1\n{"
    )
    assert nvrtc.resources(log, ptx) == (
        nvrtc.Resources("a", 1024, 8, 0, 0, 0, 0, 0),
        nvrtc.Resources("b", 256, 34, 20, 40, 48, 2048, 2),
    )


def test_warnings_are_told_apart_from_the_source_that_they_quote() -> None:
    log = (
        'a.cu(3): warning #177-D: variable "n" was declared but never referenced\n'
        "    int warning = n;\n"
        "nvrtc: warning: something\n"
        "ptxas info    : Used 8 registers\n"
        "ptxas warning : something else\n"
    )
    assert [w.split()[0] for w in nvrtc.warnings(log)] == ["a.cu(3):", "nvrtc:", "ptxas"]


def test_without_cupy_the_extra_is_recommended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy.cuda", None)
    with pytest.raises(BuildError) as error:
        nvrtc.compile("tiny", TINY, "float32")
    assert "NVRTC, which compiles CUDA kernels, can't be loaded through CuPy: " in str(error.value)
    assert HAVE in str(error.value)


# --- with it ---------------------------------------------------------------------------------


@needs_nvrtc
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100"])
def test_a_text_becomes_a_binary_whose_resources_are_in_its_order(arch: str) -> None:
    binary = nvrtc.compile("tiny", TINY, "float32", arch)
    assert binary.warnings == ()
    assert f".target {arch}" in binary.ptx
    assert binary.cubin[:4] == b"\x7fELF"
    first, second = binary.resources
    assert (first.kernel, first.threads, first.barriers) == ("tiny_forward", 256, 0)
    assert (second.kernel, second.threads, second.barriers) == ("tiny_shared", 1024, 1)
    assert (first.static_shared, second.static_shared) == (0, 256)
    assert 4 < first.registers < 64
    assert first.spill_stores == first.spill_loads == first.stack == 0
    assert binary.seconds > 0


@needs_nvrtc
@pytest.mark.parametrize(("dtype", "bits"), [("float32", 32), ("float64", 64), ("bfloat16", 16)])
def test_tensors_have_the_type_that_was_asked_for(dtype: str, bits: int) -> None:
    assert re.search(rf"st\.global\.\w+?{bits}\b", nvrtc.compile("tiny", TINY, dtype).ptx)


@needs_nvrtc
def test_denormals_are_flushed_as_cupy_has_it() -> None:
    assert "mul.ftz.f32" in nvrtc.compile("tiny", TINY, "float32").ptx


@needs_nvrtc
def test_cupy_and_we_add_the_same_flags() -> None:
    from cupy.cuda import compiler

    text = Path(compiler.__file__).read_text(encoding="utf-8")
    added = re.findall(r"options \+= \('(-[^']+)',\)", text)
    assert set(nvrtc.CUPY_OPTIONS) <= set(added)
    assert {flag for flag in added if "fast" in flag or "fmad" in flag or "prec" in flag} == set()


@needs_nvrtc
def test_spilled_registers_are_counted() -> None:
    (found,) = nvrtc.compile("spills", SPILLS, "float32").resources
    assert found.registers <= 64
    assert min(found.spill_stores, found.spill_loads, found.stack) > 0


@needs_nvrtc
def test_the_binary_is_whole_though_cupy_drops_its_last_byte() -> None:
    from cupy.cuda import nvrtc as binding

    cubin = nvrtc.compile("tiny", TINY, "float32").cubin
    assert len(cubin) % 8 == 0
    assert nvrtc._complete(cubin) == nvrtc._complete(cubin[:-1]) == cubin
    assert binding.getVersion() >= (12, 2)


@needs_nvrtc
def test_an_unknown_architecture_names_those_that_are_known() -> None:
    with pytest.raises(ArgumentError) as error:
        nvrtc.compile("tiny", TINY, "float32", "sm_20")
    text = str(error.value)
    assert re.match(r"arch: got 'sm_20', but NVRTC \d+\.\d+ compiles for (sm_\d+, )+sm_\d+\.", text)
    assert "sm_90" in nvrtc.architectures()
    assert "\nFix: arch='sm_90'" in text


@needs_nvrtc
def test_a_refused_text_is_shown_with_its_equations_and_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RNNCC_CACHE_DIR", str(tmp_path / "cache"))
    source = TINY + "syntax error;\n"
    with pytest.raises(BuildError) as error:
        nvrtc.compile("tiny", source, "bfloat16", "sm_80")
    text = str(error.value)
    assert text.startswith(
        "NVRTC refused the kernel 'tiny' for bfloat16 on sm_80.\n  h = a*h + x\nFull source: "
    )
    assert re.search(r"^tiny\.cu\(\d+\): error: ", text, re.MULTILINE)
    assert "-DRNNCC_IO=rnncc::bfloat16 " in text
    assert "if the message names rnncc's own code, report it" in text
    match = re.search(r"^Full source: (.*)$", text, re.MULTILINE)
    assert match
    assert Path(match[1]).parent == tmp_path / "cache"
    assert Path(match[1]).read_text() == source


@needs_nvrtc
def test_a_refusal_is_reported_even_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RNNCC_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(BuildError, match=r"Full source: not saved, .* can't be written: Not a dir"):
        nvrtc.compile("tiny", "syntax error;", "float32")


def every_function() -> str:
    """A kernel for each function of the table, in each precision."""
    headers = (paths.headers() / "rnncc" / name for name in ("cuda/math.h", "common/functions.h"))
    lines = [line for h in headers for line in h.read_text(encoding="utf-8").splitlines()]
    kernels = [line for line in lines if not line.startswith(("#include", "#pragma once"))]
    for (name, row), t in itertools.product(TABLE.items(), ("float", "double")):
        if not issubclass(row.symbol, Comparison) and name not in ("where", "div"):
            arguments = ", ".join(f"{a}[i]" for a in "xyz"[: row.arity])
            called = "heaviside(x[i])" if name.startswith("spike_") else f"{name}({arguments})"
            kernels += [
                f'extern "C" __global__ void {name}_{t}'
                f"(const {t}* x, const {t}* y, const {t}* z, {t}* out) {{",
                f"  const int i = threadIdx.x; out[i] = rnncc::{called};",
                "}",
            ]
    return "\n".join(kernels)


@needs_nvrtc
@pytest.mark.parametrize("arch", ["sm_90", pytest.param("sm_80", marks=pytest.mark.slow)])
def test_every_function_compiles_without_a_warning_or_a_spill(arch: str) -> None:
    made = nvrtc.compile("functions", every_function(), "float32", arch)
    assert made.warnings == ()
    assert {"exp_float", "remainder_double", "spike_atan_float"} <= {
        f.kernel for f in made.resources
    }
    assert not any(found.spill_stores or found.spill_loads for found in made.resources)
    assert max(found.registers for found in made.resources) <= 64


HOMELESS = """
from rnncc.runtime.cuda import nvrtc
nvrtc.give_cupy_a_cache()
import os
from cupy.cuda import nvrtc as binding
print(os.environ.get("CUPY_CACHE_DIR"), binding.getVersion()[0] >= 12)
"""


@needs_nvrtc
@pytest.mark.parametrize("its_cache", ["private", "nowhere", "open to all"])
def test_cupy_has_a_cache_that_it_and_nobody_else_can_write(tmp_path: Path, its_cache: str) -> None:
    """Without one, its import would fail."""
    home = tmp_path / "home"
    if its_cache == "nowhere":
        home.touch()
    elif its_cache == "open to all":
        (home / ".cupy" / "kernel_cache").mkdir(parents=True)
        (home / ".cupy" / "kernel_cache").chmod(0o777)
    environment = {**os.environ, "HOME": str(home), "RNNCC_CACHE_DIR": str(tmp_path / "cache")}
    environment.pop("CUPY_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", HOMELESS],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    folder = None if its_cache == "private" else tmp_path / "cache" / "cupy"
    assert done.stdout.split() == [str(folder), "True"]
    assert (home / ".cupy").exists() == (its_cache != "nowhere")
