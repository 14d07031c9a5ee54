"""Short: calls of plain tensors, straight to the kernel, past PyTorch's dispatcher.

What was checked, planned and packed for one call serves all later ones of the same form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import attrgetter, or_
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from rnncc.nn.checks import check_gradients, parse
from rnncc.nn.given import Given
from rnncc.nn.refusal import STRIDED
from rnncc.nn.rows import Row, backward_rows, empty, forward_rows
from rnncc.runtime.backend import backend_of
from rnncc.runtime.call import Call
from rnncc.runtime.kernel import Kernel
from rnncc.runtime.prepared import Prepared
from rnncc.runtime.preparing import Preparing


class Way(NamedTuple):
    """From the tensors of a call to its results, for all calls of one form.

    Attributes:
        last, save, status: of a forward: which of h_last, saved and the status are among the
            results, at their end and in this order.
    """

    prepared: Prepared
    makers: tuple[Callable[[], Tensor], ...]
    last: bool = False
    save: bool = False
    status: bool = False


# A way, and the addresses of the tensors that are to go it; they must outlive the run.
Found = tuple[Way, list[int]]


def run(found: Found) -> list[Tensor]:
    """The results, in memory of their own."""
    way, addresses = found
    prepared, results = way.prepared, [make() for make in way.makers]
    if prepared.clears:
        results[-1].zero_()
    prepared.run_at([*addresses, *map(Tensor.data_ptr, results)])
    return results


def forward_way(
    given: Given, tensors: Sequence[Tensor], states: bool, last: bool, save: bool, status: bool
) -> Found | None:
    """The way of `rnncc::forward`, which takes `tensors`; None where there is none.

    It gives [*outputs, *states, h_last, saved, status], without those that `Way` says aren't there.

    Args:
        tensors: `given.own()`.
        last, save, status: what is wanted of these; saved is there only then.
    Raises:
        ArgumentError: a shape or dtype doesn't fit.
    """
    if given.lengths is not None or given.reset is not None or given.starts is not None:
        return None
    if not PLAIN.issuperset(map(type, tensors)):
        return None
    wanted = (states, last, save, status)
    head = (given.key, given.choices, given.packed, len(given.inputs), *wanted)
    return _find(head, tensors, _learn_forward, given, *wanted)


def seen_way(
    key: str, choices: str, tensors: Sequence[Any], count: int, states: bool, last: bool
) -> Found | None:
    """The same for arguments that weren't checked, if such a call was seen before.

    Args:
        tensors: `count` inputs, params, and h0 if it is given.
    """
    if not PLAIN.issuperset(map(type, tensors)):
        return None
    head = (key, choices, False, count, states, last, needs_gradient(tensors), False)
    return _find(head, tensors, None)


def stacked(states: Any) -> Tensor | None:
    """Those of a call, a tensor or several, as [states, S, N]; None where they must be checked."""
    if type(states) in PLAIN:
        dense = not states.is_nested and states.layout is STRIDED
        return states.unsqueeze(0) if dense else None
    if type(states) not in SEVERAL or not states or not PLAIN.issuperset(map(type, states)):
        return None
    if any(map(_is_nested, states)) or len({*map(_kind, states)}) > 1:
        return None
    return torch.stack(states) if states[0].layout is STRIDED else None


def watched() -> Any:
    """Whether a mode or transform of PyTorch, or its profiler, is to see each operator."""
    return (
        forward_ad._current_level >= 0
        or _included().raw_repr() & _UNUSUAL
        or _function_modes()
        or _profiled()
    )


def needs_gradient(tensors: Iterable[Tensor]) -> bool:
    """Whether autograd must see what is computed from them."""
    if not torch.is_grad_enabled():
        return False
    for tensor in tensors:  # noqa: SIM110  # a generator is slower
        if tensor.requires_grad:
            return True
    return False


def backward_way(given: Given, above: Sequence[Any], wanted: Sequence[bool]) -> Found | None:
    """The way of `rnncc::backward`, which takes `given.own()` and what isn't None of `above`.

    It gives the gradients of the inputs that are wanted, of all params, and of h0 if there is one.

    Args:
        above: saved, dy, dz, dh_last.
    """
    if given.lengths is not None or given.reset is not None or given.starts is not None:
        return None
    saved, dy, dz, dh_last = above
    gradients = (*dy, *dz, dh_last)
    there = tuple([g is not None for g in gradients])
    head = (given.key, given.choices, given.packed, len(given.inputs), tuple(wanted), there)
    tensors = [*given.own(), saved, *[g for g in gradients if g is not None]]
    if not PLAIN.issuperset(map(type, tensors)):
        return None
    return _find(head, tensors, _learn_backward, given, above, wanted)


Learn = Callable[..., "Way | None"]


def _find(
    head: tuple[Any, ...], tensors: Sequence[Tensor], learn: Learn | None, *call: Any
) -> Found | None:
    """The way of a form, and the tensors' addresses; None where the dispatcher must be asked.

    It is written in one, and by `map`, because every call pays for it.
    """
    if watched():
        return None
    try:
        addresses = [*map(Tensor.data_ptr, tensors)]
        on_host = tensors[0].is_cpu
        form = (
            head,
            torch.get_num_threads(),
            on_host or (*map(Tensor.get_device, tensors),),
            all(map(Tensor.is_contiguous, tensors)) or (*map(Tensor.stride, tensors),),
            *map(_shape, tensors),
        )
    except RuntimeError:  # a tensor that stands for others, or isn't dense
        return None
    if 0 in addresses or any(map(Tensor.is_neg, tensors)):
        return None
    backend = backend_of(CPU if on_host else tensors[0].device)
    ways = getattr(backend, "ways", None)  # others run all calls themselves
    if ways is None:
        return None
    way: Way | None = ways.get(form, UNSEEN)
    if way is UNSEEN:
        if learn is None:
            return None
        way = learn(backend, *call) if _alike(tensors) else None
        if len(ways) >= MOST:
            ways.clear()
        ways[form] = way
    return None if way is None else (way, addresses)


def _alike(tensors: Sequence[Tensor]) -> bool:
    """Dense, and on one device."""
    first = tensors[0].device
    return all(t.layout is STRIDED and not t.is_nested and t.device == first for t in tensors)


PLAIN, SEVERAL = frozenset((Tensor, torch.nn.Parameter)), (tuple, list)
CPU = torch.device("cpu")
UNSEEN: Any = object()
MOST = 1000  # forms that a backend knows
_function_modes: Callable[[], int] = torch._C._len_torch_function_stack
_profiled: Callable[[], bool] = torch._C._autograd._profiler_enabled
_included = torch._C._dispatch_tls_local_include_set
_shape = attrgetter("shape", "dtype", "is_cpu")
_kind, _is_nested = attrgetter("shape", "dtype", "device", "layout"), attrgetter("is_nested")
# That a thread has only within a mode or transform of PyTorch.
_USUAL = ("BackendSelect", "ADInplaceOrView", "AutocastCPU", "AutocastCUDA")
_UNUSUAL = ~reduce(
    or_,
    (torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, n)).raw_repr() for n in _USUAL),
)


def _learn_forward(
    backend: Preparing, given: Given, states: bool, last: bool, save: bool, status: bool
) -> Way | None:
    given, kernel, _ = parse(given)
    rows = forward_rows(given, kernel.spec, backend, states, save)
    call = _call(backend, given, kernel, rows)
    if call is None or call.plan.solver == "newton":  # which looks at its status afterwards
        return None
    kept = not backend.host_reads  # a GPU's kernels write them anyway
    there = (last or kept, save, status or kept)
    found, count = _shapes(rows, backend), len(kernel.spec.outputs)
    rest = [t if wanted else None for t, wanted in zip(found[-3:], there, strict=True)]
    prepared = backend.prepare_forward(call, found[:count], found[count:-3], *rest)
    made = rows[:-3] + [row for row, wanted in zip(rows[-3:], there, strict=True) if wanted]
    return Way(prepared, backend.makers(made, given.inputs[0]), *there)


def _learn_backward(
    backend: Preparing, given: Given, above: Sequence[Any], wanted: Sequence[bool]
) -> Way | None:
    given, kernel, _ = parse(given)
    saved, dy, dz, dh_last = above
    shapes = given.shapes(kernel.spec, backend)
    check_gradients(given, kernel.spec, shapes, saved, dy, dz, dh_last, wanted)
    rows = backward_rows(given, kernel.spec, backend, wanted)
    call = _call(backend, given, kernel, rows)
    dense = saved.is_contiguous() and (dh_last is None or dh_last.is_contiguous())
    if call is None or not dense:
        return None
    found, count = _shapes(rows, backend), len(given.inputs)
    into = [g if w else None for g, w in zip(found, wanted, strict=False)]
    dparams, dh0 = found[count:-1], None if given.h0 is None else found[-1]
    prepared = backend.prepare_backward(call, saved, dy, dz, dh_last, into, dparams, dh0)
    made = [row for row, w in zip(rows, wanted, strict=False) if w] + rows[count:-1]
    made += [] if dh0 is None else rows[-1:]
    return Way(prepared, backend.makers(made, given.inputs[0]))


def _call(backend: Preparing, given: Given, kernel: Kernel, rows: Sequence[Row]) -> Call | None:
    """The call; None where there is no element, or a copy would be made of an argument."""
    dense = all(t.is_contiguous() for t in given.own()[len(given.inputs) :])
    if not dense or 0 in given.inputs[0].shape or any(0 in shape for shape, _ in rows if shape[0]):
        return None
    return given.plan(kernel, backend)


def _shapes(rows: Sequence[Row], backend: Preparing) -> list[Tensor]:
    """The results without memory."""
    return empty(rows, torch.empty(0, device="meta"), backend)
