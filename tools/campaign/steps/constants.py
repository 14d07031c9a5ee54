"""Constants: times of kernels -> the planner's constants, and what its choices cost."""

from __future__ import annotations

from campaign.setting import Setting
from campaign.sink import Sink


def run(sink: Sink, setting: Setting) -> None:
    """Fit."""
