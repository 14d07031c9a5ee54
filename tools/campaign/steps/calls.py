"""Calls: para_gru -> what Python takes for short calls, and for one step of a layer."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

from campaign.setting import Setting, compiled, name_of
from campaign.sink import Sink

CELL = "para_gru"
SHAPES = ((1, 1, 128), (1, 1, 4096), (8, 2048, 256))
DTYPES = ("float32", "bfloat16")
NEEDS = 4.0  # seconds of a row


def run(sink: Sink, setting: Setting) -> None:
    """A row for each shape and dtype."""
    needs = setting.choose(NEEDS, 0.0)
    for shape in setting.choose(SHAPES, ((1, 1, 8),)):
        for dtype in DTYPES:
            key = f"{CELL} {name_of(shape)} {dtype}"
            sink.take(key, partial(measure, shape, dtype, setting), needs=needs)


def measure(shape: tuple[int, int, int], dtype: str, setting: Setting) -> dict[str, Any]:
    """Median microseconds of each program: of Python, and of the device with what it waits for."""
    from rnncc.bench.timing import interleave_on_gpu

    found = interleave_on_gpu(programs(shape, dtype, setting), setting.place.clock, 1.0)
    middle = {
        name: [1e6 * statistics.median(column) for column in zip(*samples, strict=True)]
        for name, samples in found.items()
    }
    python = {name: us[1] for name, us in middle.items()}
    device = {name: us[0] for name, us in middle.items()}
    return {"shape": list(shape), "dtype": dtype, "python_us": python, "device_us": device}


def programs(
    shape: tuple[int, int, int], dtype: str, setting: Setting
) -> dict[str, Callable[[], Any]]:
    """The function; where there is one step, also a layer's step and what PyTorch has for it."""
    import torch

    from rnncc.bench import workload

    c, kind = compiled(CELL), getattr(torch, dtype)
    given = workload.random_arguments(c.spec, shape, dtype=kind, device=setting.device)
    leaves = [x.detach().clone().requires_grad_() for x in given.values()]
    found = {
        "by place": workload.without_gradients(lambda: c(*given.values())),
        "by name": workload.without_gradients(lambda: c(**given)),
        "forward+backward": workload.with_gradients(lambda: c(*leaves), leaves),
    }
    if shape[1] != 1:
        return found
    batch, _, channels = shape
    there: dict[str, Any] = {"device": setting.device, "dtype": kind}
    layer, x = c.layer(channels, channels, **there), torch.randn(batch, channels, **there)
    gru, h = torch.nn.GRUCell(channels, channels, **there), torch.zeros(batch, channels, **there)
    with torch.no_grad():
        _, state = layer.step(x)
    steps = {
        "layer.step": partial(layer.step, x, state),
        "decoder": partial(layer.decoder(batch), x),
        "decoder, no graph": partial(layer.decoder(batch, graph=False), x),
        "nn.GRUCell": partial(gru, x, h),
        "Linear": partial(layer.projection, x),
    }
    return found | {name: workload.without_gradients(step) for name, step in steps.items()}
