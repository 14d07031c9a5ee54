"""Large results lie in memory that is reused once no tensor holds it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from rnncc.runtime.cpu import allocator as memory
from tests.support.runs import compiled

LARGE = (8, 256, 256)  # float32: 2 MiB


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """And results of the size below count as large."""
    monkeypatch.setattr(memory, "WORTH_KEEPING", 2**20)
    memory._free.clear()
    yield
    memory._free.clear()


def test_a_block_is_reused_when_the_last_tensor_on_it_is_gone() -> None:
    result = memory.empty(torch.empty(0), LARGE)
    address, part = result.data_ptr(), result[1:]
    del result
    assert memory.kept_bytes() == 0
    assert memory.empty(torch.empty(0), LARGE).data_ptr() != address
    memory._free.clear()
    del part
    assert memory.kept_bytes() == 2**21
    assert memory.empty(torch.empty(0), LARGE).data_ptr() == address


def test_a_result_is_an_ordinary_tensor() -> None:
    result = memory.empty(torch.empty(0), LARGE, dtype=torch.float64)
    assert result.shape == LARGE
    assert result.dtype == torch.float64
    assert result.is_contiguous()
    assert not result._is_view()
    result.fill_(1).add_(1)
    assert float(result.sum()) == 2 * result.numel()
    assert torch.equal(result.clone(), result)


def test_small_results_stay_with_pytorch() -> None:
    memory.empty(torch.empty(0), (4, 4))
    assert memory.kept_bytes() == 0


def test_free_blocks_stay_below_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MOST_KEPT", 2**22)
    several = [memory.empty(torch.empty(0), LARGE) for _ in range(4)]
    del several
    assert 0 < memory.kept_bytes() <= 2**22


def test_training_reuses_its_results_and_never_one_that_is_still_held() -> None:
    gru = compiled("para_gru")
    arguments = [torch.randn(*LARGE, requires_grad=True) for _ in range(3)]
    arguments += [torch.rand(LARGE[-1], requires_grad=True) for _ in range(3)]
    held = gru(*arguments)
    gradients = torch.autograd.grad(held.sum(), arguments)
    copies = [t.detach().clone() for t in (held, *gradients)]

    def train() -> None:
        for gradient in torch.autograd.grad(gru(*arguments).mul(2).sum(), arguments):
            gradient.zero_()

    for _ in range(3):
        train()
    assert memory.kept_bytes() == 3 * held.nbytes  # the gradients, one where the output was
    for t, copy in zip((held, *gradients), copies, strict=True):
        assert torch.equal(t, copy)
