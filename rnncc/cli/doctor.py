"""Doctor: what rnncc finds and misses on this machine; its cache and its calibrations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rnncc.cli import options, terminal

if TYPE_CHECKING:
    from rnncc.bench.calibrate import Calibration
    from rnncc.bench.calibrate_gpu import GpuCalibration
    from rnncc.doctor.finding import Finding


@click.command(
    epilog="""\b
Examples:
  rnncc doctor
  rnncc doctor --calibrate
  rnncc doctor --calibrate --device cuda
  rnncc doctor --clear-cache"""
)
@click.option("--clear-cache", is_flag=True, help="Only delete all cached kernels.")
@click.option(
    "--calibrate",
    is_flag=True,
    help="Only time kernels on this machine, which should be idle, for the planner.",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    help="With --calibrate: the device whose kernels are timed.  [default: cpu]",
)
@options.common
@click.pass_context
def doctor(
    ctx: click.Context, clear_cache: bool, calibrate: bool, device: str | None, json: bool
) -> None:
    """Check this machine: compiler, PyTorch, CUDA, cache.

    For each fault it prints the fix. Exits with 3 if no kernel can be built and run here.
    """
    if device and not calibrate:
        raise click.UsageError(
            f"--device {device}: got no --calibrate, and all devices are looked at without it.\n"
            f"Fix: rnncc doctor --calibrate --device {device}, or rnncc doctor"
        )
    if clear_cache:
        _clear_cache(json)
        return
    if calibrate:
        (_calibrate_gpu if device == "cuda" else _calibrate)(json)
        return
    from rnncc.doctor import cpu

    findings = cpu.examine()
    healthy = cpu.healthy(findings)
    if json:
        terminal.as_json({"healthy": healthy, "findings": [vars(f) for f in findings]})
    else:
        _print_findings(findings, healthy)
    ctx.exit(0 if healthy else 3)


def _print_findings(found: Sequence[Finding], healthy: bool) -> None:
    """The findings, then the fixes."""
    terminal.table(("", "state", "found"), [(f.topic, f.state, f.seen) for f in found])
    terminal.line()
    for finding in found:
        if finding.fix:
            terminal.line(f"{finding.topic}: {finding.fix}")
    terminal.line("Kernels can be built and run here." if healthy else "No kernel can run here.")


def _clear_cache(json: bool) -> None:
    from rnncc.doctor import cpu

    cleared = cpu.clear_cache()
    if json:
        terminal.as_json({"cleared": cleared})
    else:
        size = f"{cleared['bytes'] / 2**20:.1f} MiB"
        terminal.line(f"{cleared['folder']}: {cleared['files']} files deleted, {size}.")


def _calibrate(json: bool) -> None:
    """Fit the planner's model to this machine, and save it."""
    from rnncc.bench.calibrate import calibrate
    from rnncc.planner.machine import save

    with terminal.progress("timing kernels", wanted=not json):
        found = calibrate()
    file = save(found.machine)
    if json:
        terminal.as_json({**vars(found), "machine": vars(found.machine), "file": str(file)})
    else:
        _print_calibration(found, file)


def _print_calibration(found: Calibration, file: Path) -> None:
    """The constants, beside those measured for the project."""
    from rnncc.planner.machine import MEASURED

    terminal.table(("nanoseconds of", "here", "shipped"), _beside(found.machine, MEASURED))
    terminal.line(
        f"\nMedian error of the model: {found.error:.0%} over {found.samples} times.\n"
        f"{file}: written; the planner reads it from the next process on."
    )


def _beside(found: Any, shipped: Any) -> list[tuple[str, str, str]]:
    return [
        (name, f"{value:.3g}", f"{getattr(shipped, name):.3g}")
        for name, value in vars(found).items()
    ]


# --- a GPU -----------------------------------------------------------------------------------


def _calibrate_gpu(json: bool) -> None:
    """The same for the GPU that is here."""
    from rnncc.bench.calibrate_gpu import calibrate
    from rnncc.bench.gpu import gpu, machine
    from rnncc.planner.gpu_constants import calibration_file, save

    place = gpu()
    name = machine()["device"]
    # one that can't be written is told before the minutes of timing
    calibration_file(name).parent.mkdir(parents=True, exist_ok=True)
    with terminal.progress(f"timing kernels on {name}", wanted=not json):
        found = calibrate(place)
    file = save(name, found.constants)
    if json:
        constants = vars(found.constants)
        terminal.as_json({**vars(found), "constants": constants, "gpu": name, "file": str(file)})
    else:
        _print_gpu_calibration(name, found, file)


def _print_gpu_calibration(name: str, found: GpuCalibration, file: Path) -> None:
    """The constants, beside the guesses that rnncc ships."""
    from rnncc.planner.gpu_constants import MEASURED

    terminal.table(("constant", name, "shipped"), _beside(found.constants, MEASURED))
    terminal.line(
        f"\nMedian error of the model: {found.error:.0%} over {len(found.times)} times; "
        f"{found.error_before:.0%} with the guesses.\n"
        "A constant on which no time depends stays near its guess; cycles, unless its name says "
        "otherwise.\n"
        f"{file}: written; the planner reads it from the next process on."
    )
