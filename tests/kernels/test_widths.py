"""A channel's results don't depend on the number of others, nor on the tiles that hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from tests.support.runs import compiled

# They fill a part of a vector, tiles of several runs, rows whose last vector is full or isn't, and
# more than the lanes that a step takes at once.
PARTS = (5, 16, 33, 100, 255, 272, 600)
BATCH, STEPS = 3, 39
CHOICES = {
    "one pass": {"solver": "sequential"},
    "segments": {"solver": "segmented", "segment": 16, "iterations": 3},
}


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets their number, by which calls are cut into tiles."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def results(name: str, given: dict[str, Tensor], choices: dict[str, object]) -> list[Tensor]:
    """Outputs, the gradients of all inputs, and of all params."""
    leaves = {n: x.detach().requires_grad_() for n, x in given.items() if n != "upstream"}
    y = compiled(name)(**leaves, **choices)
    return [y, *torch.autograd.grad(y, list(leaves.values()), given["upstream"])]


def drawn(name: str, dtype: torch.dtype, packed: bool) -> dict[str, Tensor]:
    spec, generator = compiled(name).kernel.spec, torch.Generator().manual_seed(0)
    sizes, wide = sum(PARTS), torch.float64 if dtype == torch.float64 else torch.float32
    count = len(spec.inputs) + 1
    values = torch.randn(BATCH, STEPS, count * sizes, generator=generator).to(dtype)
    parts = [x if packed else x.contiguous() for x in values.split(sizes, -1)]
    names = [*(i.name for i in spec.inputs), "upstream"]
    params = {p.name: torch.randn(sizes, generator=generator).to(wide) for p in spec.params}
    return {**dict(zip(names, parts, strict=True)), **params}


each_dtype = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16], ids=["float32", "float64", "bfloat16"]
)
each_packing = pytest.mark.parametrize("packed", [False, True], ids=["separate", "packed"])


@each_packing
@each_dtype
@pytest.mark.parametrize("name", ["para_gru"])
def test_channels_have_the_same_bits_alone_and_among_others(
    name: str, dtype: torch.dtype, packed: bool
) -> None:
    given = drawn(name, dtype, packed)
    whole = results(name, given, CHOICES["one pass"])
    pieces = {n: x.split(PARTS, -1) for n, x in given.items()}
    for k, place in enumerate(torch.arange(sum(PARTS)).split(PARTS)):
        alone = results(name, {n: x[k] for n, x in pieces.items()}, CHOICES["one pass"])
        for one, other in zip(whole, alone, strict=True):
            assert torch.equal(one[..., place], other)


@pytest.mark.parametrize("choices", CHOICES.values(), ids=CHOICES)
@each_packing
@each_dtype
@pytest.mark.parametrize("name", ["para_gru"])
def test_tiles_of_any_width_give_the_same_bits(
    name: str,
    dtype: torch.dtype,
    packed: bool,
    choices: dict[str, object],
    threads: Callable[[int], None],
) -> None:
    given = drawn(name, dtype, packed)
    found = []
    for count in (1, 2, 7, 40):
        threads(count)
        found.append(results(name, given, choices))
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(("name", "channels"), [("min_gru", 24), ("para_gru", 32)])
def test_results_that_pass_the_cache_have_the_bits_of_small_ones(name: str, channels: int) -> None:
    """In rows of whole lines, which 24 channels of two inputs fill, but not whole vectors."""
    torch.manual_seed(0)
    layer = compiled(name).layer(3, channels, solver="sequential")
    x = torch.rand(4, 24_000, 3)
    whole, pieces = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, _ = layer(whole)
    found, state = [], None
    for piece in pieces.chunk(48, 1):  # less than 1 MiB of gradients each
        part, state = layer(piece, state)
        found.append(part)
    assert torch.equal(y, torch.cat(found, 1))
    upstream = torch.randn(y.shape)
    (one,) = torch.autograd.grad(y, whole, upstream)
    (other,) = torch.autograd.grad(torch.cat(found, 1), pieces, upstream)
    assert torch.equal(one, other)
