"""SASS: a compiled binary -> the machine code of its kernels, by NVIDIA's disassembler."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rnncc.errors import BuildError

# Opcodes by the unit that they occupy; a leading U is the warp's own copy.
CLASSES = {
    "global": "LD LDG ST STG LDGSTS ATOM ATOMG RED REDG UBLKCP",
    "shared": "LDS STS LDSM STSM ATOMS",
    "local": "LDL STL",  # spilled registers, or an array that is indexed at run time
    "constant": "LDC LDCU ULDC",
    "float": """
        FADD FMUL FFMA FADD2 FMUL2 FFMA2 FADD32I FMUL32I FFMA32I FMNMX FMNMX3 FSEL FSET FSETP FCHK
        FSWZADD DADD DMUL DFMA DMNMX DSETP HADD2 HMUL2 HFMA2 HMNMX2 HSET2 HSETP2
        """,
    "special": "MUFU",
    "integer": """
        IADD IADD3 IADD32I IMAD IMUL LEA LOP LOP3 SHF SHL SHR SEL MOV MOV32I PRMT IABS IMNMX VIADD
        VIMNMX VIMNMX3 VIADDMNMX VABSDIFF POPC FLO BREV SGXT BMSK S2R S2UR CS2R R2UR
        """,
    "conversion": "F2F F2FP F2I F2IP I2F I2FP I2I FRND",
    "control": """
        BRA BRX JMP JMX CALL RET EXIT BSSY BSYNC BREAK BMOV WARPSYNC YIELD NOP ISETP PLOP3 P2R R2P
        UP2UR NANOSLEEP DEPBAR LDGDEPBAR ENDCOLLECTIVE
        """,
    "exchange": "SHFL VOTE MATCH REDUX BAR B2R",
}
CLASS_OF = {opcode: name for name, opcodes in CLASSES.items() for opcode in opcodes.split()}
JUMPS = ("BRA", "BRX", "JMP", "JMX")
ENDS = ("EXIT", "RET")

_INSTRUCTION = re.compile(
    r"\s+/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z]\w*)((?:\.\w+)*)\s*(.*?)\s*;"
)
_LABEL = re.compile(r"(\S+):$")
_SECTION = re.compile(r"\s+\.section\s+\.text\.([^,\s]+)")


@dataclass(frozen=True)
class Instruction:
    """One line: FFMA.FTZ R6, R0, R5, R6 has opcode FFMA and modifiers .FTZ."""

    address: int
    guard: str
    opcode: str
    modifiers: str
    operands: str

    @property
    def kind(self) -> str:
        """One of `CLASSES`, or "other"."""
        if self.opcode == "HFMA2" and self.operands.partition(", ")[2].startswith("-RZ, RZ, "):
            return "integer"  # how a constant is put in a register when the adders are busy
        if self.opcode == "HADD2" and self.modifiers == ".F32":
            return "conversion"  # of a half
        bare = self.opcode.removeprefix("U")
        return CLASS_OF.get(self.opcode) or CLASS_OF.get(bare) or "other"

    @property
    def targets(self) -> tuple[str, ...]:
        """The labels and functions that it names."""
        return tuple(re.findall(r"`\(([^)]+)\)", self.operands))

    @property
    def jumps(self) -> bool:
        """Whether it may continue at a label; for sm_80 ptxas also "calls" labels, for good."""
        return self.opcode in JUMPS or (
            self.opcode == "CALL" and any(name.startswith(".L") for name in self.targets)
        )

    @property
    def always(self) -> bool:
        """Whether the next instruction is never reached from here."""
        if self.guard:
            return False
        chosen = self.opcode == "BRA" and not self.operands.startswith("`")  # by a predicate
        return (self.jumps and not chosen) or self.opcode in ENDS


@dataclass(frozen=True)
class Kernel:
    """The machine code of one kernel, and where its labels point."""

    name: str
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]


# --- the disassembler ------------------------------------------------------------------------


def disassemble(cubin: bytes) -> str:
    """The machine code of a binary as nvdisasm writes it.

    Raises:
        BuildError: nvdisasm isn't installed, or can't read the binary.
    """
    tool = find_disassembler()
    if tool is None:
        raise BuildError(
            "nvdisasm, which shows the machine code of CUDA kernels, was not found.\n"
            "Looked for: the wheel nvidia-cuda-nvdisasm, PATH, the wheel triton.\n"
            'Fix: pip install "rnncc[inspect]"'
        )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([tool, "-c", file.name], capture_output=True, text=True)
    if done.returncode:
        raise BuildError(
            f"{tool} can't read the binary: {done.stderr.strip()}.\n"
            'Fix: pip install -U "rnncc[inspect]"; nvdisasm must not be older than NVRTC'
        )
    return done.stdout


def find_disassembler() -> Path | None:
    """nvdisasm: from its own wheel, else on the PATH, else from Triton's wheel."""
    wheels = _inside("nvidia", "*/bin/nvdisasm")
    on_path = shutil.which("nvdisasm")
    found = [*wheels, *([Path(on_path)] if on_path else [])]
    return next(iter(found or _inside("triton", "backends/nvidia/bin/nvdisasm")), None)


def _inside(package: str, pattern: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    folders = (spec and spec.submodule_search_locations) or ()
    return [path for folder in folders for path in sorted(Path(folder).glob(pattern))]


# --- reading its text ------------------------------------------------------------------------


def read(text: str) -> dict[str, Kernel]:
    """The kernels in a disassembly, by name, in the order of the text."""
    return {name: _kernel(name, lines) for name, lines in _sections(text)}


def _sections(text: str) -> Iterator[tuple[str, list[str]]]:
    lines = text.splitlines()
    starts = [(i, m[1]) for i, line in enumerate(lines) if (m := _SECTION.match(line))]
    for (first, name), (end, _) in zip(starts, [*starts[1:], (len(lines), "")], strict=True):
        yield name, lines[first + 1 : end]


def _kernel(name: str, lines: list[str]) -> Kernel:
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    waiting: list[str] = []
    for line in lines:
        if label := _LABEL.match(line):
            waiting.append(label[1])
        elif found := _INSTRUCTION.match(line):
            address, guard, *rest = found.groups()
            instructions.append(Instruction(int(address, 16), guard or "", *rest))
            labels |= dict.fromkeys(waiting, instructions[-1].address)
            waiting.clear()
    return Kernel(name, tuple(instructions), labels)
