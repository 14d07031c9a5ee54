"""A layer's projection into memory that is kept: F.linear's bits, and F.linear where it must be."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import FlopCounterMode

from rnncc.nn import linear
from rnncc.nn.linear import apply_linear
from rnncc.runtime.cpu import allocator
from tests.support.runs import compiled

OPERATOR: Any = torch.ops.rnncc.linear.default


@pytest.fixture(autouse=True)
def worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "WORTH_KEEPING", 0)


def is_own(y: Tensor) -> bool:
    return y.grad_fn is not None and y.grad_fn.name() == "LinearBackward"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3, 7, 5), (2, 3, 7, 5), (40, 5), (0, 7, 5)], ids=str)
def test_value_and_gradients_have_the_bits_of_torch(
    shape: tuple[int, ...], dtype: torch.dtype, bias: bool
) -> None:
    module = nn.Linear(5, 12, bias=bias, dtype=dtype)
    x = torch.randn(shape, dtype=dtype).requires_grad_()
    leaves = [x, *module.parameters()]
    y, expected = apply_linear(module, x), module(x)
    assert is_own(y)
    assert torch.equal(y, expected)
    dy = torch.randn_like(y)
    wanted = torch.autograd.grad(expected, leaves, dy)
    for a, b in zip(torch.autograd.grad(y, leaves, dy), wanted, strict=True):
        assert torch.equal(a, b)
    with torch.no_grad():
        assert torch.equal(apply_linear(module, x), expected)


def test_bits_of_rows_that_lie_apart() -> None:
    module, x = nn.Linear(5, 12).double(), torch.randn(7, 3, 5).double().transpose(0, 1)
    assert torch.equal(apply_linear(module, x), module(x))


def test_only_what_is_asked_for_is_computed() -> None:
    module, x = nn.Linear(5, 12), torch.randn(3, 7, 5)
    module.weight.requires_grad_(False)
    y = apply_linear(module, x)
    assert is_own(y)
    (dbias,) = torch.autograd.grad(y.sum(), [module.bias])
    assert torch.equal(dbias, torch.full((12,), 21.0))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Please use `torch.vmap`:FutureWarning")  # of torch 2.6's own
def test_derivatives_of_all_kinds() -> None:
    x, w, b = (torch.randn(s).double().requires_grad_() for s in ((2, 3, 4), (5, 4), (5,)))
    assert torch.autograd.gradcheck(OPERATOR, (x, w, b), check_batched_grad=True)
    assert torch.autograd.gradcheck(OPERATOR, (x, w, b), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(OPERATOR, (x, w, b))
    assert torch.autograd.gradgradcheck(lambda x, w: OPERATOR(x, w, None), (x, w))


Op = Callable[..., Tensor]
TRANSFORMS: dict[str, Callable[[Op, Tensor, Tensor, Tensor], Any]] = {
    "vmap of x": lambda op, x, w, b: torch.vmap(op, (1, None, None))(x, w, b),
    "vmap of weights": lambda op, x, w, b: torch.vmap(op, (None, 0, 0))(
        x, torch.stack([w, w + 1]), torch.stack([b, b - 1])
    ),
    "jvp": lambda op, x, w, b: torch.func.jvp(lambda w: op(x, w, b), (w,), (w * 2,))[1],
    "gradients per sample": lambda op, x, w, b: torch.vmap(
        torch.func.grad(lambda w, x: op(x, w, b).pow(2).sum()), (None, 0)
    )(w, x),
    "hessian": lambda op, x, w, b: torch.func.hessian(lambda w: op(x, w, b).pow(3).sum())(w),
    "vectorized jacobian": lambda op, x, w, b: torch.autograd.functional.jacobian(
        lambda w: op(x, w, b), w, vectorize=True
    ),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms(transform: str) -> None:
    x, w, b = (torch.randn(s).double() for s in ((2, 3, 4), (5, 4), (5,)))
    found, expected = (TRANSFORMS[transform](op, x, w, b) for op in (OPERATOR, functional.linear))
    torch.testing.assert_close(found, expected)


class Other(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def hooked(module: nn.Linear) -> nn.Module:
    module.register_forward_hook(lambda *given: given[-1] * 2)
    return module


def replaced(module: nn.Linear) -> nn.Module:
    plain = copy.copy(module)
    module.forward = lambda x: plain(x) * 2  # type: ignore[method-assign,assignment]
    return module


def other(module: nn.Linear) -> nn.Module:
    made = Other(5, 12)
    made.load_state_dict(module.state_dict())
    return made


@pytest.mark.parametrize(
    "make", [hooked, replaced, other, parametrizations.weight_norm, parametrizations.spectral_norm]
)
def test_a_module_that_does_more_is_called(make: Callable[[nn.Linear], nn.Module]) -> None:
    module, x = make(nn.Linear(5, 12)).eval(), torch.randn(3, 7, 5)
    assert torch.equal(apply_linear(module, x), module(x))
    assert not is_own(apply_linear(module, x))


def test_whoever_watches_operators_or_modules_sees_it() -> None:
    module, x = nn.Linear(5, 12), torch.randn(3, 7, 5)
    with FlopCounterMode(display=False) as counter:
        apply_linear(module, x)
    assert counter.get_total_flops() == 2 * 3 * 7 * 5 * 12
    seen: list[nn.Module] = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(m))
    apply_linear(module, x)
    handle.remove()
    assert seen == [module]


def test_autocast_casts() -> None:
    module, x = nn.Linear(5, 12), torch.randn(3, 7, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert apply_linear(module, x).dtype == torch.bfloat16


def test_another_dtype_is_refused_by_torch() -> None:
    with pytest.raises(RuntimeError, match="dtype"):
        apply_linear(nn.Linear(5, 12), torch.randn(3, 7, 5).double())


def test_small_results_are_those_of_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "WORTH_KEEPING", 3 * 7 * 12 * 4 + 1)
    assert not is_own(apply_linear(nn.Linear(5, 12), torch.randn(3, 7, 5)))
    assert is_own(apply_linear(nn.Linear(5, 13), torch.randn(3, 7, 5)))


def test_a_large_result_lies_in_kept_memory() -> None:
    module, x = nn.Linear(2, 2**9), torch.randn(2**10, 2)
    apply_linear(module, x)
    kept = allocator.kept_bytes()
    y = apply_linear(module, x)
    assert allocator.kept_bytes() == kept - 2**21
    del y
    assert allocator.kept_bytes() == kept


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamic", [None, True])
def test_a_layer_under_compile_has_the_bits_of_eager(
    dynamic: bool | None, fresh_dynamo: None
) -> None:
    layer, x = compiled("para_gru").layer(3, 4), torch.randn(2, 9, 3).requires_grad_()
    graphs: list[torch.fx.GraphModule] = []

    def backend(module: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(module)
        return module

    traced = torch.compile(layer, fullgraph=True, dynamic=dynamic, backend=backend)
    leaves = [x, *layer.parameters()]
    found = [torch.autograd.grad(run(x)[0].sum(), leaves) for run in (traced, layer)]
    assert "rnncc.linear.default" in graphs[0].code
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
