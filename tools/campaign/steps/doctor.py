"""Doctor: this machine -> the findings of `rnncc doctor`, and what PyTorch says of the GPU."""

from __future__ import annotations

import platform
import time
from typing import Any

from campaign.record import Result
from campaign.setting import Setting
from campaign.sink import Sink, UnavailableError

STATES = {"ok": "ok", "optional": "unavailable", "fault": "failed", "missing": "failed"}
OF_GPU = ("name", "major", "minor", "total_memory", "multi_processor_count", "L2_cache_size",
          "shared_memory_per_multiprocessor", "regs_per_multiprocessor")  # fmt: skip


def run(sink: Sink, setting: Setting) -> None:
    """Put every finding, as if it were a result."""
    sink.take("machine", lambda: machine(setting))
    if "findings" in sink.known:
        return
    from rnncc.doctor import cpu

    began = time.monotonic()
    sink.begin("findings")
    findings = cpu.examine()
    for finding in findings:
        seen = f"{finding.seen}. Fix: {finding.fix}" if finding.fix else finding.seen
        sink.put(Result(finding.topic, STATES[finding.state], 0.0, seen, dict(finding.facts)))
    seconds = round(time.monotonic() - began, 3)
    sink.put(Result("findings", "ok", seconds, data={"count": len(findings)}))


def machine(setting: Setting) -> dict[str, Any]:
    """The GPU as PyTorch sees it, and versions."""
    import torch

    if setting.rehearsal:
        return {
            "device": "emulated",
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
    if not torch.cuda.is_available():
        raise UnavailableError(f"PyTorch {torch.__version__} can use no GPU here")
    from rnncc.bench import gpu

    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    found = {name: getattr(properties, name) for name in OF_GPU if hasattr(properties, name)}
    return {**gpu.machine(), "properties": found}
