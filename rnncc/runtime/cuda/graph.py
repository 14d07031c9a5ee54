"""Graph: a series of launches, captured once and replayed as one."""

from __future__ import annotations

from collections.abc import Callable

import torch


def record(run: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """A CUDA graph of what `run` launches: its replay.

    It runs once ahead of the capture, in which nothing may be loaded or set up, on a stream of its
    own as PyTorch wants it.
    """
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
    return graph.replay
