"""All that needs a GPU in one call: what runs, whether it is right, how fast it is, and why.

    python tools/gpu_campaign.py --out DIR     (make gpu ARGS="--out DIR")

Every step is a process with a time limit of its own; DIR/campaign.json is written after each.
tools/gpu_report.py makes tables of it. Needs nothing but Python to start.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import NoReturn

from campaign import machine, plan, process, schedule, tables
from campaign.record import FILE, Campaign, CampaignError, load, write_atomically
from campaign.schedule import Tools

ROOT = machine.ROOT
OUT = ROOT / "build" / "gpu"
STEPS = ROOT / "tools" / "gpu_steps.py"
CACHES = {"RNNCC_CACHE_DIR": "", "CUPY_CACHE_DIR": "cupy", "TRITON_CACHE_DIR": "triton",
          "TORCHINDUCTOR_CACHE_DIR": "inductor", "TORCH_EXTENSIONS_DIR": "extensions"}  # fmt: skip
WRONG = 2  # exit status of a call that can't be understood


def main(arguments: list[str] | None = None) -> int:
    """Run a campaign; 1 if a step failed or found something wrong."""
    options = _parser().parse_args(arguments)
    options.out = options.out.resolve()
    if options.list:
        print("\n".join(f"{p.name:10} {p.text}" for p in plan.PARTS))
        return 0
    out = sys.stderr if options.json else sys.stdout
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:4.0f} s] {text}", file=out, flush=True)

    try:
        found = campaign_of(options)
        return _run(found, options, say)
    except CampaignError as error:
        print(f"gpu_campaign: {error}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        say(f"stopped; {options.out / FILE} has what was found. --resume goes on")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gpu_campaign", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, default=OUT, metavar="DIR", help="the folder of the results")
    names = ", ".join(plan.NAMES)
    add("--part", action="append", choices=plan.NAMES, metavar="NAME",
        help=f"only this step; repeatable. One of {names}")  # fmt: skip
    add("--seconds", type=seconds, default=plan.SECONDS, metavar="N",
        help=f"of all steps, shared in proportion [{plan.SECONDS:.0f}]")  # fmt: skip
    add("--resume", action="store_true", help="go on with what DIR holds: complete steps stay")
    add("--list", action="store_true", help="list the steps and end")
    add("--json", action="store_true", help="print the results as JSON; progress on stderr")
    add("--commit", default="", help="the commit that runs, where git can't tell it")
    add("--rehearse", action="store_true",
        help="without a GPU: emulated kernels, small shapes, times that mean nothing")  # fmt: skip
    return parser


def seconds(text: str) -> float:
    """A length of time."""
    found = float(text)
    if not 1 <= found < 1e6:
        raise argparse.ArgumentTypeError(f"got {text}, expected seconds, 1 or more")
    return found


def campaign_of(options: argparse.Namespace) -> Campaign:
    """A new campaign, or the one to go on with.

    Raises:
        CampaignError: the folder doesn't fit what was asked.
    """
    folder = options.out
    if not options.rehearse and not machine.has_gpu():
        raise CampaignError(
            "no GPU: neither nvidia-smi nor /dev shows one.\nFix: --rehearse emulates one"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()  # can be written
    except OSError as error:
        raise CampaignError(f"--out {folder}: {error.strerror}.\nFix: another folder") from None
    here = Campaign(
        rehearsal=options.rehearse,
        began=schedule.date(),
        commit=options.commit or machine.commit(),
        machine=machine.about(),
        missing=machine.missing(),
    )
    if not (folder / FILE).exists():
        return here
    if not options.resume:
        raise CampaignError(
            f"--out {folder}: holds a campaign already.\nFix: --resume, or another folder"
        )
    found = load(folder)
    _compare(folder, found, here)
    found.missing = here.missing
    return found


def _compare(folder: Path, found: Campaign, here: Campaign) -> None:
    """Results of different machines or texts are not to be mixed."""
    same = ("commit", "rehearsal")
    pairs = {name: (getattr(found, name), getattr(here, name)) for name in same}
    pairs |= {
        name: (found.machine.get(name), here.machine.get(name))
        for name in ("name", "driver_version", "torch", "cupy-cuda12x", "cupy-cuda13x")
    }
    for name, (before, now) in pairs.items():
        if before != now:
            raise CampaignError(
                f"--resume: {folder} was measured with {name} = {before}, here it is {now}.\n"
                "Fix: another folder"
            )


def _run(campaign: Campaign, options: argparse.Namespace, say: Callable[[str], None]) -> int:
    _announce(campaign, say)
    parts = [p for p in plan.PARTS if not options.part or p.name in options.part]
    campaign.save(options.out)
    with tempfile.TemporaryDirectory(prefix="rnncc-gpu-") as logs:
        start = starter(Path(logs), options.rehearse)
        tools = Tools(start, time.monotonic, machine.clocks, say)
        try:
            schedule.run(campaign, parts, options.seconds, options.out, tools)
        finally:
            write_atomically(options.out / "report.md", tables.page(campaign))
    say(f"{options.out / FILE} and report.md: written")
    if options.json:
        print(json.dumps(campaign.data()))
    return int(any(wrong(campaign, part.name) for part in parts))


def wrong(campaign: Campaign, name: str) -> bool:
    """Whether a step failed, or found something that isn't as it should be."""
    step = campaign.steps[name]
    bad = [r for r in step.results if r.state in ("failed", "killed")]
    return step.state in ("failed", "killed") or bool(bad)


def _announce(campaign: Campaign, say: Callable[[str], None]) -> None:
    name = campaign.machine.get("name", "no GPU that nvidia-smi knows")
    say(f"{'rehearsal on ' if campaign.rehearsal else ''}{name}; commit {campaign.commit or '?'}")
    if campaign.missing:
        say(f"missing: {', '.join(campaign.missing)}")
        say(f"  {machine.pip_line(campaign.missing)}")


def starter(logs: Path, rehearse: bool) -> schedule.Start:
    """Starts STEPS."""
    env = environment(os.environ)

    def start(name: str, file: Path, limit: float, watch: Callable[[], str]) -> process.Ended:
        seconds = plan.soft(limit)
        command = [sys.executable, str(STEPS), name]
        command += ["--out", str(file), "--seconds", f"{seconds:.1f}"]
        command += ["--rehearse"] if rehearse else []
        log = logs / f"{name}.log"
        return process.run(command, log, limit, watch, folder=ROOT, env=env)

    return start


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """Of all steps: this checkout's rnncc, and caches of kernels that can be written."""
    cache = ROOT / "build" / "gpu-cache"
    path = os.pathsep.join(filter(None, (str(ROOT), given.get("PYTHONPATH"))))
    kernels = {name: str(cache / folder) for name, folder in CACHES.items()}
    return {**kernels, **given, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def _interrupted(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupted)
    sys.exit(main())
