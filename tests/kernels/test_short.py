"""Short calls: they give what the operators give, and modes of PyTorch see operators as before."""

from __future__ import annotations

import gc
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from rnncc.errors import ArgumentError
from rnncc.nn import functional, short
from rnncc.runtime.backend import backend_of, registered
from rnncc.runtime.cpu.backend import CpuBackend
from tests.support.runs import compiled

NAMES = ["para_gru", "para_lstm", "lru"]
pytestmark = pytest.mark.usefixtures("fresh")


@pytest.fixture
def fresh() -> Iterator[None]:
    """A backend that has seen no call."""
    with registered("cpu", CpuBackend()):
        yield


def draw(name: str, B: int, T: int, N: int, dtype: Any = torch.float32) -> list[Tensor]:
    spec = compiled(name).spec
    wide = torch.float32 if dtype.itemsize == 2 else dtype
    inputs = [torch.randn(B, T, N).to(dtype) for _ in spec.inputs]
    return inputs + [torch.randn(N).mul(0.5).to(wide) for _ in spec.params]


def through_the_dispatcher(call: Callable[[], Any]) -> Any:
    with Seeing():
        return call()


class Seeing(TorchDispatchMode):
    """Notes the operators of rnncc that the dispatcher is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function.namespace == "rnncc":
            self.seen.append(function.name().partition("::")[2])
        return function(*args, **(kwargs or {}))


@contextmanager
def counted() -> Iterator[list[str]]:
    """How each call goes on: by a way, or none."""
    seen: list[str] = []
    find = short._find

    def noting(head: Any, tensors: Any, learn: Any, *call: Any) -> Any:
        found = find(head, tensors, learn, *call)
        seen.append("way" if found else "none")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(short, "_find", noting)
        yield seen


# --- the same results ------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_changing_forms_give_the_bits_of_the_operators(name: str, dtype: torch.dtype) -> None:
    c = compiled(name)
    for B, T, N in ((1, 1, 8), (2, 5, 8), (1, 1, 8), (2, 5, 16), (3, 40, 8), (2, 5, 8)):
        for threads in (1, 2):
            with threads_of(threads):
                arguments = draw(name, B, T, N, dtype)
                for return_state in (False, True):

                    def call(arguments: Any = arguments, last: bool = return_state) -> Any:
                        return c(*arguments, return_state=last, return_states=True)

                    assert same(call(), through_the_dispatcher(call))


@contextmanager
def threads_of(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    return len(a) == len(b) and all(map(same, a, b))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_the_operators(name: str) -> None:
    c, leaves = compiled(name), draw(name, 2, 5, 8)
    count = len(leaves)
    for wanted in ({*range(count)}, {0}, {count - 1}, {1, count - 2}):
        some = [x.detach().requires_grad_(k in wanted) for k, x in enumerate(leaves)]

        def gradients(some: Any = some) -> Any:
            y, h = c(*some, return_state=True)
            total = sum(v.sum() for v in (y, h) if isinstance(v, Tensor))
            return torch.autograd.grad(total, [x for x in some if x.requires_grad])

        assert same(gradients(), through_the_dispatcher(gradients))
        assert same(gradients(), gradients())


@pytest.mark.parametrize("kind", ["transposed", "sliced", "expanded", "strided again"])
def test_strides_may_change_from_call_to_call(kind: str) -> None:
    c, (xz, xr, xc, *params) = compiled("para_gru"), draw("para_gru", 4, 6, 8)
    other = {
        "transposed": lambda: xz.transpose(0, 1).contiguous().transpose(0, 1),
        "sliced": lambda: torch.stack([xz, xz], -1)[..., 0],
        "expanded": lambda: xz[:, :1].expand(4, 6, 8),
        "strided again": lambda: xz.clone(),
    }[kind]()
    first = c(xz, xr, xc, *params)
    assert torch.equal(c(other, xr, xc, *params), c(other.contiguous(), xr, xc, *params))
    assert torch.equal(first, c(xz, xr, xc, *params))


def test_a_dtype_may_change_from_call_to_call() -> None:
    c = compiled("para_gru")
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float32):
        arguments = draw("para_gru", 2, 3, 8, dtype)
        y = c(*arguments)
        assert y.dtype == dtype
        assert torch.equal(y, through_the_dispatcher(lambda a=arguments: c(*a)))


def test_one_tensor_may_stand_in_several_places() -> None:
    c = compiled("para_gru")
    x, a = torch.randn(2, 3, 8, requires_grad=True), torch.randn(8, requires_grad=True)

    def gradients() -> Any:
        return torch.autograd.grad(c(x, x, x, a, a, a).sum(), (x, a))

    first = gradients()
    assert same(gradients(), first)
    assert same(through_the_dispatcher(gradients), first)


def test_freed_and_new_tensors_are_found_where_they_lie() -> None:
    c = compiled("para_gru")
    for _ in range(50):
        arguments = draw("para_gru", 1, 2, 8)
        y = c(*arguments)
        expected = through_the_dispatcher(lambda a=arguments: c(*a))
        assert torch.equal(y, expected)
        del arguments, y
        gc.collect(0)


def test_threads_may_call_at_once() -> None:
    c, wrong = compiled("para_gru"), []
    calls = [[x.requires_grad_() for x in draw("para_gru", 1 + k % 2, 3, 8)] for k in range(8)]

    def outcome(arguments: list[Tensor]) -> Any:
        y = c(*arguments)
        return y.detach(), torch.autograd.grad(y.sum(), arguments)

    expected = [outcome(arguments) for arguments in calls]

    def work(k: int) -> None:
        for _ in range(100):
            if not same(outcome(calls[k]), expected[k]):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_states_given_and_returned_are_those_of_the_operators() -> None:
    c, arguments = compiled("para_gru"), draw("para_gru", 2, 1, 8)
    h = torch.randn(2, 8)
    with torch.no_grad():
        for _ in range(4):
            found = c(*arguments, h0=h, return_state=True)
            assert same(found, through_the_dispatcher(
                lambda h=h: c(*arguments, h0=h, return_state=True)
            ))  # fmt: skip
            h = found[1]
    wide = torch.randn(8, 2).T  # not contiguous
    assert torch.equal(c(*arguments, h0=wide), c(*arguments, h0=wide.contiguous()))
    with pytest.raises(ArgumentError, match=r"h0: got float32 \[3, 8\] on cpu"):
        c(*arguments, h0=torch.randn(3, 8))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("places", [0, 2])
@pytest.mark.parametrize("gradients", [False, True])
def test_calls_by_name_and_with_states_are_not_checked_again(
    name: str, places: int, gradients: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    c, arguments = compiled(name), [x.requires_grad_(gradients) for x in draw(name, 2, 3, 8)]
    rest = zip(c.spec.arguments[places:], arguments[places:], strict=True)
    named = dict(reversed([*rest]))
    states = tuple(torch.randn(2, 8, requires_grad=gradients) for _ in c.spec.states)
    given: dict[str, Any] = {"h0": states if len(states) > 1 else states[0]}
    for options in ({}, {"return_state": True}, given, {**given, "return_state": True}):
        expected = through_the_dispatcher(lambda o=options: c(*arguments, **o))
        c(*arguments, **options)
        with monkeypatch.context() as patch:
            patch.setattr(functional, "prepare", None)
            found = c(*arguments[:places], **named, **options)
        assert same(found, expected)
        if gradients:
            leaves = [*arguments, *(states if "h0" in options else ())]
            ends = [[v.sum() for v in flat(results)] for results in (found, expected)]
            got, wanted = (torch.autograd.grad(sum(e), leaves) for e in ends)
            assert same(got, wanted)


def flat(results: Any) -> list[Tensor]:
    return [results] if isinstance(results, Tensor) else [v for r in results for v in flat(r)]


# --- every check is still there --------------------------------------------------------------


def test_names_and_states_that_do_not_fit_are_refused_after_calls_that_did() -> None:
    c, arguments = compiled("para_lstm"), draw("para_lstm", 2, 3, 8)
    named, h = dict(zip(c.spec.arguments, arguments, strict=True)), torch.randn(2, 8)
    first, *_, last = named
    for _ in range(3):
        c(**named, h0=(h, h), return_state=True)
    fewer = {n: x for n, x in named.items() if n != last}
    for call, said in (
        (lambda: c(**fewer), f"{last}: missing"),
        (lambda: c(**fewer, other=h), "other: not an argument"),
        (lambda: c(**named, other=h), "other: not an argument"),
        (lambda: c(h, **fewer), f"{first}: given twice"),
        (lambda: c(**{**named, last: h}), f"{last}: got float32"),
        (lambda: c(**{**named, last: None}), f"{last}: got NoneType"),
        (lambda: c(**named, h0=(h, h, h)), "h0: got 3 tensors"),
        (lambda: c(**named, h0=h), "h0: got 1 tensor, "),
        (lambda: c(**named, h0=()), "h0: got 0 tensors"),
        (lambda: c(**named, h0=(h, h.double())), r"h0 \(\w+\): got float64"),
        (lambda: c(**named, h0=(h, h[:1])), r"h0 \(\w+\): got float32 \[1, 8\]"),
        (lambda: c(**named, h0=(h, h.to("meta"))), r"h0 \(\w+\): got float32 \[2, 8\] on meta"),
        (lambda: c(**named, h0=(h, None)), r"h0 \(\w+\): got NoneType"),
        (lambda: c(**named, h0=(h, h.to_sparse())), r"h0 \(\w+\): got a sparse_coo tensor"),
        (lambda: c(**named, h0=(h.to_sparse(),) * 2), r"h0 \(\w+\): got a sparse_coo tensor"),
        (lambda: c(**named, h0=h.to_mkldnn()), "h0: got 1 tensor, "),
        (lambda: c(**named, return_states=1), "return_states: got 1"),
    ):
        with pytest.raises(ArgumentError, match=said):
            call()
    assert same(c(**named, h0=[h, h]), c(**named, h0=(h, torch.nn.Parameter(h))))


def test_what_does_not_fit_is_refused_after_calls_that_did() -> None:
    c, arguments = compiled("para_gru"), draw("para_gru", 2, 3, 8)
    for _ in range(3):
        c(*arguments)
    xz, xr, xc, az, ar, ac = arguments
    for wrong, said in (
        ((xz, xr, xc, az, ar, ac[:7]), "ac: got float32"),
        ((xz, xr, xc.double(), az, ar, ac), "xc: got float64"),
        ((xz, xr, xc, az, ar), "ac: missing"),
        ((xz, xr, xc, az, ar, ac, ac), "got 7 positional arguments"),
        ((xz, xr, xc, az, ar, [0.0] * 8), "ac: got list"),
        ((xz, xr, xc.to_sparse(), az, ar, ac), "xc: got a sparse_coo tensor"),
        ((xz, xr, xc.to("meta"), az, ar, ac), "xc: got float32"),
        ((xz[0, 0], xr, xc, az, ar, ac), "xz: got float32"),
    ):
        with pytest.raises(ArgumentError, match=said):
            c(*wrong)
    with pytest.raises(ArgumentError, match="return_states: got 1"):
        c(*arguments, return_states=1)
    freed = xz.clone()
    c(freed, xr, xc, az, ar, ac)
    freed.untyped_storage().resize_(0)
    with pytest.raises(ArgumentError, match=r"a tensor \[2, 3, 8\] of the call has no memory"):
        c(freed, xr, xc, az, ar, ac)


@pytest.mark.parametrize("shape", [(0, 3, 8), (2, 0, 8), (0, 0, 8), (2, 3, 0)])
def test_nothing_may_be_given(shape: tuple[int, int, int]) -> None:
    c = compiled("para_gru")
    for _ in range(2):
        arguments = [x.requires_grad_() for x in draw("para_gru", *shape)]
        y, h = c(*arguments, return_state=True)
        assert (y.shape, h.shape) == (shape, (shape[0], shape[2]))
        assert not h.any()
        (y.sum() + h.sum()).backward()
        assert all(x.grad is not None for x in arguments)


# --- PyTorch's modes and transforms ----------------------------------------------------------


def test_a_mode_of_the_dispatcher_sees_the_operators() -> None:
    c, arguments = compiled("para_gru"), [x.requires_grad_() for x in draw("para_gru", 1, 1, 8)]
    c(*arguments).sum().backward()
    with Seeing() as mode:
        c(*arguments).sum().backward()
    assert mode.seen == ["forward", "backward"]


def test_a_mode_of_functions_sees_the_operators() -> None:
    class Noting(TorchFunctionMode):
        def __torch_function__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(f))
            return f(*args, **(kwargs or {}))

    seen: list[str] = []
    c, arguments = compiled("para_gru"), draw("para_gru", 1, 1, 8)
    c(*arguments)
    with Noting():
        c(*arguments)
    assert "rnncc.forward.default" in seen


def test_a_default_device_is_not_where_results_lie() -> None:
    c, arguments = compiled("para_gru"), draw("para_gru", 1, 1, 8)
    y = c(*arguments)
    with torch.device("meta"):
        assert torch.equal(c(*arguments), y)


def test_a_profiler_sees_the_operators_and_the_node() -> None:
    c, arguments = compiled("para_gru"), [x.requires_grad_() for x in draw("para_gru", 1, 1, 8)]
    before = c(*arguments)
    with torch.autograd.profiler.profile() as profile:
        c(*arguments).sum().backward()
        before.sum().backward()  # of a forward that wasn't profiled
    names = [event.name for event in profile.function_events]
    assert names.count("rnncc::forward") == 1
    assert names.count("rnncc::backward") == 2
    assert "RecurrenceBackward" in " ".join(names)
    assert type(before.grad_fn).__name__ == "RecurrenceBackward"


def test_stand_ins_for_tensors_take_the_dispatcher() -> None:
    class Own(Tensor):
        pass

    c, arguments = compiled("para_gru"), draw("para_gru", 1, 2, 8)
    y = c(*arguments)
    x, *rest = arguments
    negative = torch.complex(torch.zeros_like(x), -x).conj().imag
    assert negative.is_neg()
    assert torch.equal(c(negative, *rest), y)
    own = c(x.as_subclass(Own), *rest)
    assert type(own) is Own
    assert torch.equal(own.as_subclass(Tensor), y)
    zero = torch._efficientzerotensor((1, 2, 8))
    assert torch.equal(c(zero, *rest), c(torch.zeros(1, 2, 8), *rest))
    with FakeTensorMode() as mode:
        fake = c(*[mode.from_tensor(v) for v in arguments])
    assert fake.shape == y.shape
    left: list[Tensor] = []
    torch.func.grad(lambda v: (left.append(v), v.sum())[1])(x)
    assert torch.equal(c(left[0], *rest), y)  # what a transform has left behind
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nested = torch.nested.nested_tensor([torch.randn(2, 8)])
    with pytest.raises(ArgumentError, match="xz: got a nested tensor"):
        c(nested, *rest)


def test_transforms_give_the_same_after_plain_calls() -> None:
    c, arguments = compiled("para_gru"), draw("para_gru", 1, 2, 8)
    x, *rest = arguments

    def summed(v: Tensor) -> Tensor:
        return c(v, *rest).sum()

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(summed(leaf), leaf)
    assert torch.equal(torch.func.grad(summed)(x), expected)
    both = torch.stack([x, x])
    assert torch.equal(torch.func.vmap(lambda v: c(v, *rest))(both), c(x, *rest).expand(2, 1, 2, 8))
    with warnings.catch_warnings():  # of torch's own making
        warnings.simplefilter("ignore")
        _, along = torch.func.jvp(summed, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(along, expected.sum())


def test_saved_tensors_go_through_hooks() -> None:
    c, arguments = compiled("para_gru"), [x.requires_grad_() for x in draw("para_gru", 2, 3, 8)]
    packed: list[Any] = []

    def pack(x: Tensor) -> Any:
        packed.append(tuple(x.shape))
        return x.double()  # comes back in another dtype, and is made what it was

    expected = torch.autograd.grad(c(*arguments).sum(), arguments)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x.float()):
        y = c(*arguments)
    assert packed == [*(tuple(x.shape) for x in arguments), (16,)]
    assert same(torch.autograd.grad(y.sum(), arguments), expected)
    with torch.autograd.graph.save_on_cpu():
        assert same(torch.autograd.grad(c(*arguments).sum(), arguments), expected)


def test_a_checkpoint_runs_the_forward_once_more() -> None:
    c, arguments = compiled("para_gru"), [x.requires_grad_() for x in draw("para_gru", 2, 3, 8)]
    expected = torch.autograd.grad(c(*arguments).sum(), arguments)
    for _ in range(2):
        y = checkpoint(c, *arguments, use_reentrant=False)
        assert same(torch.autograd.grad(y.sum(), arguments), expected)


def test_second_derivatives_come_from_a_short_call() -> None:
    c = compiled("para_gru")
    arguments = [x.requires_grad_() for x in draw("para_gru", 1, 3, 4, torch.float64)]
    assert torch.autograd.gradgradcheck(c, arguments)


def test_a_changed_input_is_refused_by_the_backward() -> None:
    c, arguments = compiled("para_gru"), [x.requires_grad_() for x in draw("para_gru", 1, 3, 4)]
    y = c(*arguments)
    with torch.no_grad():
        arguments[0].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_inference_mode_is_kept() -> None:
    c, arguments = compiled("para_gru"), draw("para_gru", 1, 3, 4)
    leaves = [x.clone().requires_grad_() for x in arguments]
    for _ in range(2):
        with torch.inference_mode():
            y, own = c(*leaves), [x + 0 for x in arguments]
            assert y.is_inference()
            assert torch.equal(c(*own), y)
        assert not c(*own).is_inference()
        assert not c(*leaves).is_inference()
        assert torch.equal(c(*leaves), y)


def test_results_have_autograd_only_where_something_requires_it() -> None:
    c, arguments = compiled("para_gru"), draw("para_gru", 1, 3, 4)
    leaves = [x.clone().requires_grad_() for x in arguments]
    for _ in range(2):
        assert c(*arguments).grad_fn is None
        assert c(*leaves).grad_fn is not None
        assert c(*arguments[:5], leaves[5]).grad_fn is not None
        with torch.no_grad():
            assert c(*leaves).grad_fn is None


# --- what is held ----------------------------------------------------------------------------


def test_a_form_that_was_seen_is_neither_checked_nor_planned_nor_packed() -> None:
    c, arguments = compiled("para_gru"), [x.requires_grad_() for x in draw("para_gru", 1, 3, 4)]
    first = torch.autograd.grad(c(*arguments).sum(), arguments)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("parse", "check_gradients", "_learn_forward", "_learn_backward"):
            patch.setattr(short, name, None)
        assert same(torch.autograd.grad(c(*arguments).sum(), arguments), first)


def test_a_backend_holds_few_forms_and_no_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short, "MOST", 5)
    c, ways = compiled("para_gru"), backend_of(torch.device("cpu")).ways  # type: ignore[attr-defined]
    for T in range(1, 30):
        c(*draw("para_gru", 1, T, 4))
        assert 1 <= len(ways) <= 5
    gc.collect()
    shapes = [tuple(v.shape) for v in gc.get_objects() if type(v) is Tensor]
    assert (1, 29, 4) not in [s for s in shapes if len(s) == 3 and s[1] == 28]
    large = draw("para_gru", 1, 31, 4)
    c(*large)
    before = sum(v.untyped_storage().nbytes() for way in ways.values() for v in protos(way))
    assert before <= 64 * 5


def protos(way: short.Way) -> list[Tensor]:
    """The tensors that its makers hold."""
    return [v for maker in way.makers for v in maker.args if isinstance(v, Tensor)]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "options", [{"solver": "sequential"}, {"reverse": True}, {"checkpoint": 2}]
)
def test_options_belong_to_the_form(options: dict[str, Any]) -> None:
    c, arguments = compiled("para_gru"), draw("para_gru", 2, 9, 4)
    plain = c(*arguments)
    with counted() as seen:
        found = [c(*arguments, **options) for _ in range(3)]
    assert seen[-1] == "way"
    expected = through_the_dispatcher(lambda: c(*arguments, **options))
    assert all(torch.equal(y, expected) for y in found)
    assert torch.equal(plain, c(*arguments))


def test_lengths_resets_and_newton_take_the_dispatcher() -> None:
    c, arguments = compiled("para_gru"), draw("para_gru", 2, 9, 4)
    c(*arguments)
    with counted() as seen:
        c(*arguments, lengths=[9, 3])
        c(*arguments, reset=torch.zeros(2, 9, dtype=torch.bool))
        c(*arguments, solver="newton", iterations=9)
    assert "way" not in seen


def test_segments_take_a_way_with_scratch_memory() -> None:
    c, arguments = compiled("para_gru"), draw("para_gru", 1, 4096, 4)
    arguments = [x.requires_grad_() for x in arguments]

    def outcome() -> Any:
        y = c(*arguments, solver="segmented", segment=256)
        return y.detach(), torch.autograd.grad(y.sum(), arguments)

    expected = through_the_dispatcher(outcome)
    assert same(outcome(), expected)
    assert same(outcome(), expected)


@pytest.mark.parametrize(
    "options", [{}, {"lengths": torch.tensor([3, 5])}], ids=["short", "padded"]
)
@pytest.mark.parametrize("create_graph", [False, True])
def test_a_gradient_that_is_negated_lazily_keeps_its_sign(
    options: dict[str, Any], create_graph: bool
) -> None:
    x = {i.name: torch.rand(2, 5, 8, requires_grad=True) for i in compiled("para_gru").spec.inputs}
    p = {i.name: torch.rand(8, requires_grad=True) for i in compiled("para_gru").spec.params}
    leaves = [*x.values(), *p.values()]
    y = compiled("para_gru")(**x, **p, **options)
    upstream = torch.rand(y.shape, dtype=torch.complex64).conj().imag
    assert upstream.is_neg()
    found = torch.autograd.grad(y, leaves, upstream, retain_graph=True, create_graph=create_graph)
    expected = torch.autograd.grad(y, leaves, upstream.resolve_neg())
    assert all(map(torch.equal, found, expected))
