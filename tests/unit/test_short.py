"""Short: which calls share what was learned of one of them; nothing is built or run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from rnncc.nn import short
from rnncc.runtime.args import Packer
from rnncc.runtime.backend import registered
from rnncc.runtime.call import Call
from rnncc.runtime.cpu.backend import CpuBackend
from rnncc.runtime.prepared import Prepared
from tests.support.runs import compiled


class Learning(CpuBackend):
    """Notes what it is asked to prepare, and runs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.learned: list[tuple[Any, ...]] = []

    def prepare_forward(self, call: Call, *results: Any) -> Prepared:
        self.learned.append((call.shape, call.dtype, call.plan.threads, call.choices))
        packer = Packer(call, call.plan.forward)
        packer.forward(*results)
        return packer.prepared(lambda words: None, on_host=True)


@pytest.fixture
def backend() -> Iterator[Learning]:
    with registered("cpu", backend := Learning()):
        yield backend


def arguments(*shape: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    inputs = [torch.zeros(shape, dtype=dtype) for _ in range(3)]
    wide = torch.float32 if dtype.itemsize == 2 else dtype
    return inputs + [torch.zeros(shape[-1], dtype=wide) for _ in range(3)]


def call(tensors: Sequence[Tensor], **options: Any) -> Any:
    return compiled("para_gru")(*tensors, **options)


def test_calls_of_one_form_are_learned_once(backend: Learning) -> None:
    for _ in range(3):
        call(arguments(2, 3, 4))
    assert len(backend.learned) == 1


@pytest.mark.parametrize(
    "other",
    [
        lambda: call(arguments(2, 4, 4)),
        lambda: call(arguments(2, 3, 4, dtype=torch.float64)),
        lambda: call(arguments(2, 3, 4, dtype=torch.bfloat16)),
        lambda: call([arguments(3, 2, 4)[0].transpose(0, 1), *arguments(2, 3, 4)[1:]]),
        lambda: call(arguments(2, 3, 4), reverse=True),
        lambda: call(arguments(2, 3, 4), return_state=True),
        lambda: call(arguments(2, 3, 4), return_states=True),
        lambda: call(arguments(2, 3, 4), h0=torch.zeros(2, 4)),
        lambda: call([x.requires_grad_() for x in arguments(2, 3, 4)]),
        lambda: compiled("min_gru")(*arguments(2, 3, 4)[:2]),
    ],
)
def test_another_form_is_learned_too(backend: Learning, other: Any) -> None:
    call(arguments(2, 3, 4))
    for _ in range(2):
        other()
        call(arguments(2, 3, 4))
    assert len(backend.learned) == len(backend.ways) == 2


def test_the_number_of_threads_belongs_to_the_form(backend: Learning) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 1, 2):
            torch.set_num_threads(threads)
            call(arguments(8, 64, 64))
    finally:
        torch.set_num_threads(before)
    assert [threads for _, _, threads, _ in backend.learned] == [1, 2]


@pytest.mark.parametrize(
    "options",
    [{"lengths": [3, 1]}, {"reset": torch.zeros(2, 3, dtype=torch.bool)}, {"cu_seqlens": [0, 3]}],
    ids=["lengths", "reset", "cu_seqlens"],
)
def test_what_depends_on_values_is_not_learned(
    backend: Learning, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Learning, "forward", lambda *_: None)
    call(arguments(1 if "cu_seqlens" in options else 2, 3, 4), **options)
    assert not backend.ways


def test_forms_are_forgotten_where_they_are_many(
    backend: Learning, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(short, "MOST", 4)
    for steps in range(1, 20):
        call(arguments(1, steps, 4))
        assert 1 <= len(backend.ways) <= 4
    call(arguments(1, 19, 4))
    assert len(backend.learned) == 19


def test_results_are_new_and_dense(backend: Learning) -> None:
    turned = [x.transpose(0, 1) for x in arguments(3, 2, 4)[:3]]
    first, second = (call([*turned, *arguments(2, 3, 4)[3:]]) for _ in range(2))
    assert first.shape == (2, 3, 4)
    assert first.is_contiguous()
    assert first.data_ptr() != second.data_ptr()
