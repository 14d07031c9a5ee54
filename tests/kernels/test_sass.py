"""Machine code: read from nvdisasm, its loops found, its instructions counted; what an SM holds."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import itertools
import shutil
import subprocess
from pathlib import Path

import pytest

from rnncc import ArgumentError, BuildError
from rnncc.inspect import resources, sass
from rnncc.inspect.loops import Loop, loops, per_step
from rnncc.inspect.occupancy import LIMITS, Occupancy, occupancy
from rnncc.inspect.sass import CLASSES, Kernel
from rnncc.runtime.cuda import nvrtc
from tests.support.runs import compiled

needs_tools = pytest.mark.skipif(
    importlib.util.find_spec("cupy") is None or sass.find_disassembler() is None,
    reason='needs pip install "rnncc[cuda13,inspect]"',
)

# As nvdisasm writes it: a loop over steps (.L_1) that holds a short one (.L_2), a branch that some
# trips leave out, a call that only rare operands reach, and a branch for lanes that have parted,
# from which a jump leads back without being a loop.
TEXT = """
\t.section\t.text.walk,"ax",@progbits
\t.align\t128
walk:
.text.walk:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_1:
        /*0010*/                   LDG.E R2, desc[UR4][R4.64] ;
        /*0020*/              @!P0 BRA `(.L_3) ;
        /*0030*/                   MUFU.EX2 R3, R2 ;
.L_3:
        /*0040*/                   FFMA.FTZ R6, R2, R3, R6.reuse ;
        /*0050*/                   HFMA2.MMA R7, -RZ, RZ, 1.875, 0 ;
        /*0060*/                   BRA.DIV UR4, `(.L_5) ;
.L_4:
        /*0070*/               @P1 BRA `(.L_6) ;
        /*0080*/                   CALL.REL.NOINC `($__internal_0_$__cuda_sm20_rcp_slowpath) ;
        /*0090*/                   BRA `(.L_6) ;
.L_6:
        /*00a0*/                   F2F.F64.F32 R8, R2 ;
.L_2:
        /*00b0*/                   IADD3 R9, P2, R9, 0x1, RZ ;
        /*00c0*/              @!P3 BRA P2, `(.L_2) ;
        /*00d0*/                   UISETP.NE.AND UP0, UPT, UR6, UR7, UPT ;
        /*00e0*/                   STG.E desc[UR4][R4.64], R6 ;
        /*00f0*/                   BRA.U UP0, `(.L_1) ;
        /*0100*/                   EXIT ;
.L_5:
        /*0110*/                   SHFL.IDX PT, R2, R2, 0x1, 0x1f ;
        /*0120*/                   BRA `(.L_4) ;
.L_7:
        /*0130*/                   BRA `(.L_7);
        /*0140*/                   NOP;
\t.section\t.text.nothing,"ax",@progbits
nothing:
        /*0000*/                   EXIT ;
"""

# A loop with a second way back and a choice in a choice, in one whose way back is a "call", and a
# jump back that isn't a loop.
BRANCHES = """
\t.section\t.text.branches,"ax",@progbits
        /*0000*/               @P0 BRA `(.L_far) ;
.L_near:
        /*0010*/                   MOV R1, R2 ;
.L_loop:
        /*0020*/                   IADD3 R1, R1, 0x1, RZ ;
        /*0030*/               @P1 BRA `(.L_loop) ;
        /*0040*/               @P2 BRA `(.L_else) ;
        /*0050*/               @P3 BRA `(.L_inner) ;
        /*0060*/                   FADD R3, R3, R4 ;
.L_inner:
        /*0070*/                   FMUL R3, R3, R4 ;
        /*0080*/                   BRA `(.L_join) ;
.L_else:
        /*0090*/                   FFMA R3, R3, R4, R5 ;
.L_join:
        /*00a0*/                   STG.E desc[UR4][R6.64], R3 ;
        /*00b0*/               @P4 BRA `(.L_loop) ;
        /*00c0*/               @P5 CALL.REL.NOINC `(.L_near) ;
        /*00d0*/                   EXIT ;
.L_far:
        /*00e0*/                   MOV R1, R3 ;
        /*00f0*/                   BRA `(.L_near) ;
"""

SOURCE = """
typedef RNNCC_IO io;
#define RNNCC_KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)
RNNCC_KERNEL(128) decay(const io* x, io* y, long long steps, long long channels) {
  const long long c = blockIdx.x * 128LL + threadIdx.x;
  io h = 0;
#pragma unroll 1
  for (long long t = 0; t + 4 <= steps; t += 4) {
    io row[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) row[k] = x[(t + k) * channels + c];
#pragma unroll
    for (int k = 0; k < 4; ++k) y[(t + k) * channels + c] = h = h * exp2f(h) + row[k];
  }
}
RNNCC_KERNEL(128) straight(const io* x, io* y) { y[threadIdx.x] = x[threadIdx.x]; }
"""


def walk() -> Kernel:
    return sass.read(TEXT)["walk"]


def addresses(pieces: tuple[sass.Instruction, ...]) -> list[int]:
    return [instruction.address for instruction in pieces]


# --- reading ---------------------------------------------------------------------------------


def test_each_kernel_is_read_with_its_instructions_and_labels() -> None:
    kernels = sass.read(TEXT)
    assert {name: len(kernel.instructions) for name, kernel in kernels.items()} == {
        "walk": 21,
        "nothing": 1,
    }
    assert walk().labels[".L_6"] == 0xA0
    inner = walk().instructions[12]
    assert (inner.guard, inner.opcode, inner.modifiers) == ("!P3", "BRA", "")
    assert (inner.operands, inner.targets) == ("P2, `(.L_2)", (".L_2",))


def test_code_after_a_jump_is_reached_only_if_the_jump_is_conditional() -> None:
    def always(opcode: str, operands: str, guard: str = "") -> bool:
        return sass.Instruction(0, guard, opcode, "", operands).always

    assert always("EXIT", "")
    assert always("BRA", "`(.L_1)")
    assert always("CALL", "`(.L_1)")
    assert not always("CALL", "`($accurate_pow)")
    assert not always("BRA", "`(.L_1)", guard="P0")
    assert not always("BRA", "P1, `(.L_1)")
    assert not always("BRA", "UP0, `(.L_1)")


def test_every_instruction_has_one_class() -> None:
    opcodes = [opcode for opcodes in CLASSES.values() for opcode in opcodes.split()]
    assert len(opcodes) == len(set(opcodes))
    kinds = {f"{i.opcode}{i.modifiers}": i.kind for i in walk().instructions}
    assert kinds["LDG.E"] == kinds["STG.E"] == "global"
    assert kinds["UISETP.NE.AND"] == kinds["BRA.U"] == "control"
    assert kinds["HFMA2.MMA"] == kinds["IADD3"] == "integer"  # the first puts 1.875 in a register
    assert (kinds["F2F.F64.F32"], kinds["MUFU.EX2"]) == ("conversion", "special")
    assert (kinds["FFMA.FTZ"], kinds["SHFL.IDX"]) == ("float", "exchange")
    assert sass.Instruction(0, "", "HFMA2", "", "R1, R2, R3, R4").kind == "float"
    assert sass.Instruction(0, "", "HADD2", ".F32", "R1, -RZ, R2.H0_H0").kind == "conversion"
    assert sass.Instruction(0, "", "NEWOP", "", "R1").kind == "other"


# --- loops -----------------------------------------------------------------------------------


def test_loops_are_found_without_those_inside_and_without_rare_paths() -> None:
    outer, inner = loops(walk())
    assert (outer.start, outer.depth, inner.start, inner.depth) == (0x10, 1, 0xB0, 2)
    assert addresses(inner.lightest) == addresses(inner.heaviest) == [0xB0, 0xC0]
    usual = [0x10, 0x20, 0x40, 0x50, 0x60, 0x70, 0xA0, 0xD0, 0xE0, 0xF0]
    assert addresses(outer.lightest) == usual
    assert addresses(outer.heaviest) == sorted([*usual, 0x30])
    assert (outer.rare, outer.calls) == (2, ())


def test_a_call_that_is_not_rare_is_counted_and_named() -> None:
    text = TEXT.replace("$__internal_0_$__cuda_sm20_rcp_slowpath", "$accurate_pow")
    outer = loops(sass.read(text)["walk"])[0]
    assert (outer.rare, outer.calls) == (0, ("$accurate_pow",))
    assert {0x30, 0x80, 0x90} < set(addresses(outer.heaviest))
    assert not {0x30, 0x80, 0x90} & set(addresses(outer.lightest))


def test_a_trip_takes_one_side_of_each_choice_and_does_not_skip_the_work() -> None:
    loop, outer = loops(sass.read(BRANCHES)["branches"])
    assert (loop.start, loop.depth) == (0x20, 2)
    heaviest = [0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x80, 0xA0, 0xB0]
    assert addresses(loop.heaviest) == heaviest
    assert addresses(loop.lightest) == [a for a in heaviest if a != 0x60]
    assert (addresses(outer.heaviest), outer.calls) == ([0x10, 0xC0], ())
    other_side = BRANCHES.replace("FADD", "MOV").replace("FMUL", "MOV")
    loop, _ = loops(sass.read(other_side)["branches"])
    assert addresses(loop.lightest) == [0x20, 0x30, 0x40, 0x90, 0xA0, 0xB0]
    assert addresses(loop.heaviest) == heaviest


# A step of two pieces, in two copies of which the first also stores; before them a choice to load.
COPIES = """
\t.section\t.text.copies,"ax",@progbits
.L_loop:
        /*0000*/               @P0 BRA `(.L_nothing) ;
        /*0010*/                   LDG.E R2, desc[UR4][R4.64] ;
        /*0020*/                   LDG.E R3, desc[UR4][R4.64+0x4] ;
.L_nothing:
        /*0030*/               @P1 BRA `(.L_reset) ;
        /*0040*/               @P2 BRA `(.L_plain) ;
{step}
        /*0170*/                   STG.E desc[UR4][R6.64], R3 ;
        /*0180*/                   BRA `(.L_join) ;
.L_plain:
{plain}
        /*02b0*/                   BRA `(.L_join) ;
.L_reset:
        /*02c0*/                   LDG.E R3, desc[UR4][R8.64] ;
.L_join:
        /*02d0*/               @P3 BRA `(.L_loop) ;
        /*02e0*/                   EXIT ;
"""


def test_of_two_copies_of_a_step_the_lighter_counts_with_the_loads_of_its_inputs() -> None:
    def step(start: int) -> str:
        lines = [f"{' ' * 8}/*{start + 16 * i:04x}*/ FADD R3, R3, R4 ;" for i in range(18)]
        return "\n".join([*lines[:9], f".L_{start}:", *lines[9:]])

    kernel = sass.read(COPIES.format(step=step(0x50), plain=step(0x190)))["copies"]
    (loop,) = loops(kernel)
    expected = [0, 0x10, 0x20, 0x30, 0x40, *range(0x190, 0x2B0, 0x10), 0x2B0, 0x2D0]
    assert addresses(loop.lightest) == expected
    assert {0x170, 0x180} < set(addresses(loop.heaviest))


def test_no_trip_takes_the_rare_side_of_a_choice() -> None:
    text = BRANCHES.replace("FFMA R3, R3, R4, R5", "CALL.REL.NOINC `($slowpath)")
    text = text.replace("@P1 BRA `(.L_loop)", "@P1 MOV R7, R8").replace("F", "V")
    loop, _ = loops(sass.read(text)["branches"])
    assert addresses(loop.lightest) == [0x20, 0x30, 0x40, 0x50, 0x70, 0x80, 0xA0, 0xB0]
    assert loop.rare == 1


def test_instructions_of_a_step_are_those_of_the_lightest_and_heaviest_trip() -> None:
    counts = per_step(loops(walk())[0], steps=2)
    assert counts["all"] == (5, 5.5)
    assert counts["special"] == (0, 0.5)
    assert counts["global"] == (1, 1)
    assert counts["exchange"] == (0, 0)
    least, most = (sum(pair[i] for name, pair in counts.items() if name != "all") for i in (0, 1))
    assert (least, most) == counts["all"]


def test_a_kernel_without_a_loop_has_none() -> None:
    assert loops(sass.read(TEXT)["nothing"]) == ()
    assert loops(Kernel("empty", (), {})) == ()


# --- the disassembler ------------------------------------------------------------------------


def test_without_nvdisasm_the_extra_is_recommended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert sass.find_disassembler() is None
    with pytest.raises(BuildError) as error:
        sass.disassemble(b"")
    assert str(error.value) == (
        "nvdisasm, which shows the machine code of CUDA kernels, was not found.\n"
        "Looked for: the wheel nvidia-cuda-nvdisasm, PATH, the wheel triton.\n"
        'Fix: pip install "rnncc[inspect]"'
    )


def test_the_wheel_comes_before_the_path_and_triton_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {
        "nvidia": tmp_path / "nvidia" / "cu13" / "bin" / "nvdisasm",
        "path": tmp_path / "bin" / "nvdisasm",
        "triton": tmp_path / "triton" / "backends" / "nvidia" / "bin" / "nvdisasm",
    }
    for place in places.values():
        place.parent.mkdir(parents=True)
        place.write_text("#!/bin/sh\n")
        place.chmod(0o755)

    def found(*there: str) -> Path | None:
        def spec(name: str) -> object:
            result = importlib.util.spec_from_loader(name, None, is_package=True)
            assert result
            result.submodule_search_locations = [str(tmp_path / name)]
            return result if name in there else None

        monkeypatch.setattr(importlib.util, "find_spec", spec)
        monkeypatch.setenv("PATH", str(places["path"].parent if "path" in there else tmp_path))
        return sass.find_disassembler()

    assert found("nvidia", "path", "triton") == places["nvidia"]
    assert found("path", "triton") == places["path"]
    assert found("triton") == places["triton"]


@needs_tools
def test_anything_but_a_binary_is_refused_in_the_words_of_nvdisasm() -> None:
    with pytest.raises(
        BuildError, match=r"nvdisasm can't read the binary: .*\n.*Fix: pip install -U"
    ):
        sass.disassemble(b"not a binary")


# --- real code -------------------------------------------------------------------------------


@functools.cache
def decay(dtype: str, arch: str) -> dict[str, Kernel]:
    return sass.read(sass.disassemble(nvrtc.compile("decay", SOURCE, dtype, arch).cubin))


@needs_tools
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100", "sm_120"])
def test_the_loop_over_steps_reads_writes_and_computes_each_step_once(arch: str) -> None:
    kernels = decay("float32", arch)
    assert set(kernels) == {"decay", "straight"}
    assert loops(kernels["straight"]) == ()
    (loop,) = loops(kernels["decay"])
    counts = per_step(loop, steps=4)
    assert counts["global"] == (2, 2)
    assert counts["special"] == (1, 1)
    assert 1 <= counts["float"][0] <= 4
    assert counts["local"] == counts["shared"] == counts["other"] == (0, 0)


@needs_tools
def test_the_table_has_a_row_for_each_kernel_under_its_headers() -> None:
    binary = nvrtc.compile("decay", SOURCE, "float32")
    found = resources.inspect(binary, {"decay": 4}, {"straight": resources.Launch(128, 200 * 1024)})
    rows = resources.rows(found)
    headers = (*resources.HEADERS, *resources.COLUMNS)
    table = {row[0]: dict(zip(headers, row, strict=True)) for row in rows}
    assert list(table) == ["decay", "straight"]
    assert table["decay"]["warps at once"] == "64/64, warps"
    assert table["straight"]["warps at once"] == "4/64, shared"
    assert (table["decay"]["steps"], table["straight"]["steps"]) == ("4", "")
    assert (table["decay"]["spilled"], table["decay"]["special"]) == ("none", "1")
    assert table["straight"]["special"] == ""
    first, second = found
    assert (first["loops"][0]["depth"], first["loops"][0]["calls"]) == (1, [])
    assert (second["loops"], second["steps"]) == ([], 1)
    assert second["instructions"] >= 4


@needs_tools
def test_an_architecture_whose_limits_are_unknown_has_no_occupancy() -> None:
    found = resources.inspect(nvrtc.compile("decay", SOURCE, "float32", "sm_75"))
    assert found[0]["occupancy"] is None
    assert resources.rows(found)[0][5] == ""


@needs_tools
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_every_instruction_of_an_emitted_kernel_is_known(dtype: str) -> None:
    binary = nvrtc.compile("para_gru", compiled("para_gru").source("cuda"), dtype)
    kernels = sass.read(sass.disassemble(binary.cubin))
    assert set(kernels) == {found.kernel for found in binary.resources}
    unknown = {i.opcode for k in kernels.values() for i in k.instructions if i.kind == "other"}
    assert unknown == set()
    hot: Loop = loops(kernels["para_gru_forward"])[0]
    assert len(hot.heaviest) > 20


# --- occupancy -------------------------------------------------------------------------------

# (arch, threads, registers, bytes of shared memory, barriers) -> blocks, as cuda_occupancy.h of
# CUDA 13.0 counts them.
KNOWN = {
    ("sm_80", 256, 32, 0, 1): 8,
    ("sm_80", 256, 33, 0, 1): 6,
    ("sm_80", 256, 40, 0, 1): 6,
    ("sm_80", 256, 64, 0, 1): 4,
    ("sm_80", 256, 255, 0, 1): 1,
    ("sm_80", 32, 32, 0, 1): 32,
    ("sm_80", 256, 32, 48 * 1024, 1): 3,
    ("sm_80", 256, 32, 163 * 1024, 1): 1,
    ("sm_80", 256, 32, 163 * 1024 + 1, 1): 0,
    ("sm_86", 256, 40, 0, 1): 6,
    ("sm_86", 32, 16, 0, 1): 16,
    ("sm_89", 32, 16, 0, 1): 24,
    ("sm_89", 128, 16, 9000, 1): 10,
    ("sm_90", 128, 96, 0, 1): 5,
    ("sm_90", 1024, 64, 0, 1): 1,
    ("sm_90", 1024, 65, 0, 1): 0,
    ("sm_90", 256, 32, 227 * 1024, 1): 1,
    ("sm_90", 32, 16, 0, 16): 4,
    ("sm_100", 128, 32, 1024, 1): 16,
    ("sm_120", 32, 16, 0, 2): 12,
    ("sm_120", 256, 40, 0, 1): 6,
}


def test_occupancy_is_that_of_nvidias_calculator() -> None:
    found = {setting: occupancy(*setting).blocks for setting in KNOWN}
    assert found == KNOWN


def test_the_limit_on_another_block_is_named() -> None:
    assert occupancy("sm_90", 256, 40) == Occupancy(6, 48, 0.75, ("registers",))
    assert occupancy("sm_90", 256, 32) == Occupancy(8, 64, 1.0, ("warps", "registers"))
    assert occupancy("sm_90", 256, 16, 100 * 1024).limited_by == ("shared",)
    assert occupancy("sm_90", 32, 16).limited_by == ("blocks",)
    assert occupancy("sm_90", 32, 16, 0, 16).limited_by == ("barriers",)


def test_an_architecture_without_limits_is_named() -> None:
    with pytest.raises(ArgumentError, match=r"arch: got 'sm_35', expected one of sm_80, .*\nFix: "):
        occupancy("sm_35", 256, 32)
    with pytest.raises(ArgumentError, match=r"threads: got 0, expected at least 1"):
        occupancy("sm_90", 0, 32)


CALCULATOR = """
#include <climits>
#include <cstring>
#include "cuda_occupancy.h"
extern "C" int blocks(int major, int minor, int warps, int shared, int threads, int registers,
                      int dynamic, int barriers) {
  cudaOccDeviceProp device;
  device.computeMajor = major, device.computeMinor = minor;
  device.maxThreadsPerBlock = 1024, device.maxThreadsPerMultiprocessor = 32 * warps;
  device.regsPerBlock = device.regsPerMultiprocessor = 65536;
  device.warpSize = 32, device.numSms = 1, device.reservedSharedMemPerBlock = 1024;
  device.sharedMemPerBlock = 48 * 1024, device.sharedMemPerMultiprocessor = shared;
  device.sharedMemPerBlockOptin = shared - 1024;
  cudaOccFuncAttributes kernel;
  kernel.maxThreadsPerBlock = 1024, kernel.numRegs = registers;
  kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN, kernel.maxDynamicSharedSizeBytes = dynamic;
  kernel.numBlockBarriers = barriers;
  cudaOccDeviceState state;
  state.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
  cudaOccResult result;
  memset(&result, 0, sizeof result);
  const cudaOccError failed =
      cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &kernel, &state, threads, dynamic);
  return failed ? -1 : result.activeBlocksPerMultiprocessor;
}
"""


def test_occupancy_is_that_of_nvidias_own_header_everywhere(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("nvidia")
    folders = (spec and spec.submodule_search_locations) or ()
    headers = [h for f in folders for h in Path(f).glob("*/include/cuda_occupancy.h")]
    compiler = shutil.which("g++") or shutil.which("clang++")
    if not headers or compiler is None:
        pytest.skip("needs the wheel nvidia-cuda-runtime and a C++ compiler")
    source, library = tmp_path / "calculator.cpp", tmp_path / "calculator.so"
    source.write_text(CALCULATOR)
    include = f"-I{headers[0].parent}"
    subprocess.run(
        [compiler, "-O1", "-fPIC", "-shared", include, source, "-o", library], check=True
    )
    blocks = ctypes.CDLL(str(library)).blocks
    kib = 1024
    grid = itertools.product(
        (1, 32, 96, 128, 160, 256, 384, 512, 768, 1024),
        (8, 16, 24, 32, 33, 40, 56, 64, 65, 96, 128, 168, 200, 255),
        (0, 1, 1000, 16 * kib, 48 * kib, 48 * kib + 1, 99 * kib, 99 * kib + 1, 227 * kib),
        (0, 1, 2, 16),
    )
    settings = list(grid)
    for arch, limits in LIMITS.items():
        major, minor = divmod(int(arch.removeprefix("sm_")), 10)
        for setting in settings:
            expected = blocks(major, minor, limits.warps, limits.shared, *setting)
            assert occupancy(arch, *setting).blocks == expected, (arch, setting)
