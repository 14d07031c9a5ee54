"""One step of tools/gpu_campaign.py, in a process of its own.

python tools/gpu_steps.py NAME --out FILE --seconds N [--rehearse]
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from campaign import plan, process
from campaign.setting import Setting, broken
from campaign.sink import Sink


def main() -> int:
    """Run the step."""
    parser = argparse.ArgumentParser(prog="gpu_steps", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=plan.NAMES)
    parser.add_argument("--out", type=Path, required=True, help="its file of results, JSON lines")
    parser.add_argument("--seconds", type=float, required=True, help="when to stop")
    parser.add_argument("--rehearse", action="store_true", help="emulate the GPU")
    options = parser.parse_args()
    process.end_with_parent()
    setting = Setting(options.rehearse)
    sink = Sink(options.out, options.seconds, broken)
    step = importlib.import_module(f"campaign.steps.{options.name}")
    with setting.running():
        step.run(sink, setting)
    sink.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
