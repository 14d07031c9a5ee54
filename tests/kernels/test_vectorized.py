"""The inner loops of C++ kernels are vector code, whatever kind of processor g++ writes for."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from rnncc.runtime.cpu.build import FLAGS, IO_TYPES
from tests.support.runs import compiled

# Names of functions that walk, in all of which a step or its adjoint is inlined.
STEPS = ("take_steps", "take_steps_with_J", "step_to_store")
WALKS = (*STEPS, "back", "back_alone")
X86 = {
    "x86-64-v3": ("-march=x86-64-v3",),  # AVX2
    "x86-64-v4": ("-march=x86-64-v4", "-mprefer-vector-width=512"),  # AVX-512
}
REGISTER = {"x86-64-v3": "%ymm", "x86-64-v4": "%zmm"}
ARM = "aarch64-linux-gnu-g++"


def assembly(compiler: str, flags: tuple[str, ...], dtype: str, folder: Path) -> dict[str, str]:
    """The text of each function of a kernel, by its mangled name."""
    source = folder / "kernel.cpp"
    source.write_text(compiled("para_gru").kernel.source("cpp"))
    command = [compiler, *FLAGS, *flags, f"-DRNNCC_IO={IO_TYPES[dtype]}", "-S", str(source)]
    done = subprocess.run([*command, "-o", "-"], capture_output=True, text=True, check=True)
    parts = re.split(r"^(_Z\w+):\n", done.stdout, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], (p.partition(".cfi_endproc")[0] for p in parts[1::2]), strict=True))


def walks(functions: dict[str, str]) -> dict[str, str]:
    names = {w: rf"^_ZN5rnncc\d+\w*?{len(w)}{w}E" for w in WALKS}
    return {
        w: t for w, pattern in names.items() for f, t in functions.items() if re.match(pattern, f)
    }


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the processor is another")
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
@pytest.mark.parametrize(
    ("level", "dtype"),
    [
        ("x86-64-v3", "float32"),
        *(
            pytest.param(level, dtype, marks=pytest.mark.slow)
            for level, dtype in [
                *[("x86-64-v4", "float32"), ("x86-64-v3", "bfloat16"), ("x86-64-v4", "bfloat16")],
                *[("x86-64-v3", "float16"), ("x86-64-v4", "float16")],
            ]
        ),
    ],
)
def test_steps_and_conversions_are_vector_code_on_x86(
    level: str, dtype: str, tmp_path: Path
) -> None:
    functions = assembly("g++", X86[level], dtype, tmp_path)
    found = walks(functions)
    assert set(found) == set(WALKS)
    for name, text in found.items():
        assert not re.findall(r"\tv(?:fn?m\w+|div|mul|add|sub)ss\t", text), name
        vectors = re.findall(rf"\tv(?:fn?m\w+|div|mul|add|sub)ps\t.*{REGISTER[level]}", text)
        assert len(vectors) >= 15, name
    for name in STEPS:  # each input is fetched ahead in the loop over blocks of lanes
        assert found[name].count("\tprefetcht0\t") >= 3, name
    if dtype == "float32":
        return
    copies = [text for name, text in functions.items() if name.startswith("_ZNK5rnncc6Stream4each")]
    assert len(copies) == 2  # from memory and to it
    for text in copies:
        assert re.search(r"\tvps[lr]\w+\t.*%[yz]mm", text)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(ARM) is None, reason=f"there is no {ARM}")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_steps_are_vector_code_on_arm(dtype: str, tmp_path: Path) -> None:
    found = walks(assembly(ARM, ("-mcpu=neoverse-n1",), dtype, tmp_path))
    assert set(found) == set(WALKS)
    for name, text in found.items():
        assert not re.findall(r"\tf(?:madd|msub|div|mul|add|sub)\ts\d", text), name
        assert len(re.findall(r"\tf(?:mla|mls|div|mul|add|sub)\tv\d+\.4s", text)) >= 15, name
