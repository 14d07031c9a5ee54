"""Doctor, the CUDA part: its CUDA installation -> what fits together, what doesn't, the fix."""

from __future__ import annotations

from dataclasses import asdict

from rnncc.doctor.finding import Finding
from rnncc.doctor.installed import HEADERS, NVRTC, OLDEST_DRIVER, Cuda, look, major
from rnncc.errors import RnnccError

TORCH_INDEX = {"12": "cu126", "13": "cu130"}
# As in pyproject.toml.
VERSIONS = {"12": ">=12.2", "13": ">=13,<14"}


def examine() -> list[Finding]:
    """Look at everything that running a kernel on a GPU needs; if all is there, run one."""
    try:
        found = look()
    except (ImportError, OSError):
        return [Finding("GPU", "optional", "not looked for, as PyTorch can't be imported")]
    findings = judge(found)
    if found.usable and all(finding.state == "ok" for finding in findings):
        findings += [_try(index) for index in range(len(found.gpus))]
    return findings


def judge(found: Cuda) -> list[Finding]:
    """The faults of an installation, and the command that fixes each."""
    return [_gpu(found), _cupy(found), _nvrtc(found), _headers(found)]


def _gpu(found: Cuda) -> Finding:
    facts = {
        "gpus": [asdict(gpu) for gpu in found.gpus],
        **{"driver": found.driver, "usable": found.usable, "torch_cuda": found.torch_cuda},
    }
    return Finding("GPU", *_judge_gpu(found), facts)


def _judge_gpu(found: Cuda) -> tuple[str, str, str]:
    driver = f"driver {found.driver}" if found.driver else "driver of unknown version"
    if found.rocm:
        return "optional", f"PyTorch is built for ROCm {found.rocm}; kernels are for CUDA", ""
    if not found.gpus and not found.driver:
        return "optional", "none found; the kernels for it can be inspected all the same", ""
    if not found.gpus:
        fix = "if there is one: start the container with --gpus all; check CUDA_VISIBLE_DEVICES"
        return "optional", f"{driver}, but no GPU is visible", fix
    here = f"{', '.join(map(str, found.gpus))}; {driver}"
    torch = f"PyTorch {found.torch}"
    if not found.torch_cuda:
        return "fault", f"{here}; but {torch} is built without CUDA", _torch_line(found.major)
    built = f"{torch} is built for CUDA {found.torch_cuda}"
    if major(found.torch_cuda) not in OLDEST_DRIVER:
        return "fault", f"{here}; but {built}, and kernels need 12 or 13", _torch_line(found.major)
    if found.usable:
        return "ok", here, ""
    oldest = OLDEST_DRIVER[found.major]
    if found.driver and int(major(found.driver)) < oldest:
        fix = f"update the NVIDIA driver to {oldest} or newer"
        if int(major(found.driver)) >= OLDEST_DRIVER["12"]:
            fix += f", or: {_torch_line('12')}"
        return "fault", f"{here} is too old: {built}, which needs {oldest} or newer", fix
    seen = f"{here}; but PyTorch can't use it: {found.why or 'no reason given'}"
    return "fault", seen, "check CUDA_VISIBLE_DEVICES and the output of nvidia-smi"


def _cupy(found: Cuda) -> Finding:
    facts = {"installed": found.cupy, "cuda": found.cupy_cuda, "error": found.cupy_error}
    return Finding("CuPy", *_judge_cupy(found), facts)


def _judge_cupy(found: Cuda) -> tuple[str, str, str]:
    names = _list(found.cupy)
    reinstall = f"pip uninstall -y {' '.join(found.cupy)} && {_extra_line(found)}"
    if len(found.cupy) > 1:
        return "fault", f"several, which overwrite each other: {names}", reinstall
    if found.cupy_cuda is None and not found.cupy:
        return _absent(found), "not found", _line_for_later(found)
    if found.cupy_cuda is None:
        fix = f"pip install --force-reinstall --no-deps {' '.join(found.cupy)}, or: {reinstall}"
        return _absent(found), f"{names}: {found.cupy_error}", fix
    if found.torch_cuda and found.cupy_cuda != major(found.torch_cuda):
        seen = f"{names} is built for CUDA {found.cupy_cuda}, but PyTorch for {found.torch_cuda}"
        return "fault", seen, reinstall
    return "ok", f"{names or 'not a wheel'}, built for CUDA {found.cupy_cuda}", ""


def _nvrtc(found: Cuda) -> Finding:
    facts = {
        "version": found.nvrtc,
        **{"wheels": found.nvrtc_wheels, "toolkit": found.toolkit, "error": found.nvrtc_error},
    }
    return Finding("NVRTC", *_judge_nvrtc(found), facts)


def _judge_nvrtc(found: Cuda) -> tuple[str, str, str]:
    wheels = _list(found.nvrtc_wheels)
    if found.cupy_cuda is None:
        seen = f"{wheels}; not tried without CuPy" if wheels else "not found"
        return _absent(found), seen, _line_for_later(found)
    if found.nvrtc is None:
        seen = f"{wheels or 'no wheel'}; can't be loaded: {found.nvrtc_error}"
        return _absent(found), seen, _line_for_later(found)
    seen = f"{found.nvrtc} ({wheels or found.toolkit or 'not from a wheel'})"
    if major(found.nvrtc) != found.cupy_cuda:
        fix = _wheel_line(NVRTC, found)
        return "fault", f"{seen}, but CuPy is built for CUDA {found.cupy_cuda}", fix
    return "ok", seen, ""


def _headers(found: Cuda) -> Finding:
    """CuPy 14 compiles nothing without them, and they define float16 and bfloat16."""
    facts = {"wheels": found.header_wheels, "toolkit": found.toolkit}
    return Finding("CUDA headers", *_judge_headers(found), facts)


def _judge_headers(found: Cuda) -> tuple[str, str, str]:
    wheels, version = _list(found.header_wheels), found.cupy_cuda or found.major
    if HEADERS.get(version) in found.header_wheels:
        return "ok", wheels, ""
    if found.toolkit:
        return "ok", found.toolkit, ""
    if wheels and found.cupy_cuda:
        seen = f"{wheels}, but CuPy is built for CUDA {found.cupy_cuda}"
        return "fault", seen, _wheel_line(HEADERS, found)
    fix = _wheel_line(HEADERS, found)
    return _absent(found), wheels or "not found", fix if found.usable else f"for a GPU: {fix}"


def _try(index: int) -> Finding:
    """Run a kernel, where all that it needs seems to be there."""
    import torch

    from rnncc.runtime.cuda.module import self_test

    topic = f"Kernel on cuda:{index}"
    try:
        return Finding(topic, "ok", self_test(torch.device("cuda", index)))
    except (RnnccError, RuntimeError) as error:
        seen, _, fix = str(error).partition("\nFix: ")
        return Finding(topic, "fault", " ".join(seen.split()), fix or "report it")


# --- words -----------------------------------------------------------------------------------


def _absent(found: Cuda) -> str:
    """The state of something missing that only a GPU needs."""
    return "fault" if found.usable else "optional"


def _list(wheels: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in wheels.items())


def _extra_line(found: Cuda) -> str:
    return f'pip install "rnncc[cuda{found.major}]"'


def _line_for_later(found: Cuda) -> str:
    return _extra_line(found) if found.usable else f"for a GPU: {_extra_line(found)}"


def _wheel_line(wheels: dict[str, str], found: Cuda) -> str:
    version = found.cupy_cuda if found.cupy_cuda in wheels else found.major
    return f'pip install "{wheels[version]}{VERSIONS[version]}"'


def _torch_line(version: str) -> str:
    index = f"https://download.pytorch.org/whl/{TORCH_INDEX[version]}"
    return f"pip install --force-reinstall torch --index-url {index}"
