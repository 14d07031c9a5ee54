"""Layers on a real GPU: graphs, streams, threads, devices, torch.compile, sizes, memory."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
import threading
import unittest.mock
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from rnncc.bench.workload import random_arguments
from rnncc.errors import ArgumentError
from rnncc.nn.layer import CellLayer
from tests.support import runs
from tests.support.runs import (
    CELLS,
    DTYPES,
    assert_agree,
    by_kernel,
    compiled,
    fitting,
    is_spiking,
    listed,
    random_call,
)
from tests.support.tolerances import TOLERANCES, assert_close

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[2]
DEVICE = torch.device("cuda", 0)
LONG = 400_000_000  # clocks; a fifth of a second or more

# One state, two, an affine cell, a spiking one, blocks of channels, an input that all share.
KINDS = ["para_gru", "lstm", "lru", "lif", "block_elman", "clocked"]
# Batch, steps and channels: enough of them for one pass over time, and so few that segments help.
WIDE, NARROW = (16, 60, 512), (1, 4096, 16)
SMOOTH = [name for name in CELLS if not is_spiking(name)]
COMPARED = [(8, 300, 200), (1, 5000, 24), (70, 33, 513)]
MANY_RUNS = 5
INPUTS = 24  # features of a layer's x

each_kind = pytest.mark.parametrize("name", KINDS)
each_shape = pytest.mark.parametrize("shape", [WIDE, NARROW], ids=["wide", "narrow"])

Arguments = dict[str, Any]


def layer_of(name: str, hidden_size: int = 64, **options: Any) -> CellLayer:
    """The same weights wherever it is."""
    torch.manual_seed(0)
    layer = compiled(name).layer(INPUTS, fitting(name, hidden_size), **options)
    if name == "lru":
        layer.nu_log.data.clamp_(min=-2.0)  # see `forgetful`
    return layer.to(DEVICE)


def draw(name: str, batch: int, steps: int, seed: int = 0) -> Arguments:
    """x, and the inputs that all channels share."""
    generator = torch.Generator().manual_seed(seed)
    cell = compiled(name).stages.cell
    shared = {
        i.name: torch.rand(batch, steps, generator=generator) for i in cell.inputs if i.shared
    }
    x = torch.randn(batch, steps, INPUTS, generator=generator)
    return {n: t.to(DEVICE) for n, t in {"x": x, **shared}.items()}


def forgetful(name: str, call: runs.Call) -> runs.Call:
    """Without states that are kept for a thousand steps: there a last bit of exp changes digits."""
    if name == "driven":
        call.arguments["a"] = call.arguments["a"].abs() + 0.5
    return call


def fill(old: Arguments, new: Arguments) -> None:
    for name, tensor in old.items():
        tensor.copy_(new[name])


def flat(result: Any) -> list[Tensor]:
    """The tensors of nested tuples, in order."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, PackedSequence):
        return [result.data]
    return [tensor for part in result for tensor in flat(part)]


def train(layer: nn.Module, x: Tensor, **options: Any) -> list[Tensor]:
    """Outputs and last states, then the gradients of x and of all parameters."""
    x = x.detach().requires_grad_()
    results = flat(layer(x, **options))
    upstream = [torch.cos(3 * t.detach()) for t in results]
    gradients = torch.autograd.grad(results, [x, *layer.parameters()], upstream)
    return [*(t.detach() for t in results), *gradients]


def assert_alike(got: list[Tensor], expected: list[Tensor], what: str) -> None:
    """As far as matrix products in another order may be apart."""
    for number, (g, e) in enumerate(zip(got, expected, strict=True)):
        assert_close(g, e, torch.float32, f"{what} {number}", gradient=True)


def ready(layer: CellLayer, x: Tensor) -> None:
    """Prepare for a capture: load our kernels, and cuBLAS here and in autograd's thread."""
    layer.warmup()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        layer.projection(x).sum().backward()
    torch.cuda.current_stream().wait_stream(side)
    layer.zero_grad(set_to_none=True)


class Recorded:
    """A CUDA graph of what a function launches."""

    def __init__(self, body: Callable[[], list[Tensor]]) -> None:
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.results = body()

    def replay(self) -> list[Tensor]:
        """The tensors that the function returned, as they are now."""
        self.graph.replay()
        return self.results


@contextmanager
def no_waiting() -> Iterator[None]:
    """Every function of PyTorch that waits for the GPU raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "a prototype feature"
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextmanager
def there() -> Iterator[None]:
    """The calls of tests.support.runs go to the GPU."""
    with unittest.mock.patch.object(runs, "DEVICE", str(DEVICE)):
        yield


# --- the same answer as on the CPU -----------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("name", SMOOTH)
def test_large_calls_equal_those_of_the_cpu(name: str, dtype: torch.dtype) -> None:
    for batch, steps, channels in COMPARED:
        call = forgetful(name, random_call(name, (batch, steps, fitting(name, channels)), dtype))
        expected = by_kernel(name, call)
        with there():
            got = by_kernel(name, call)
        assert_agree(name, call, got, expected, f"{name} {(batch, steps, channels)}")


@each_shape
@each_kind
def test_a_layer_moves_to_the_gpu_and_back(name: str, shape: tuple[int, int, int]) -> None:
    batch, steps, channels = shape
    if is_spiking(name):
        batch, steps, channels = 2, 60, 8  # one spike more or less changes what follows
    layer, given = layer_of(name, channels), draw(name, batch, steps)
    got = train(layer, **given)
    expected = train(layer.cpu(), **{n: t.cpu() for n, t in given.items()})
    assert {t.device for t in got} == {DEVICE}
    assert_alike(got, expected, name)


@pytest.mark.parametrize("name", ["lstm", "clocked", "block_elman"])
def test_gradcheck_passes(name: str) -> None:
    spec, generator = compiled(name).spec, torch.Generator().manual_seed(0)
    arguments = random_arguments(spec, (2, 21, spec.group * 2), dtype=torch.float64)
    given = [t.to(DEVICE).requires_grad_() for t in arguments.values()]
    shape = (len(spec.states), 2, spec.group * 2)
    h0 = torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE).requires_grad_()

    def call(h0: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(arguments, given, strict=True))
        return tuple(flat(compiled(name)(**named, h0=tuple(h0), return_state=True)))

    assert torch.autograd.gradcheck(call, (h0, *given))


@pytest.mark.parametrize("kind", ["padded", "joined", "packed", "reset", "reverse", "both ways"])
@pytest.mark.parametrize("name", ["para_gru", "lstm"])
def test_sequences_of_every_kind_equal_those_of_the_cpu(name: str, kind: str) -> None:
    layer, x, options = sequences(name, kind)
    got = train_packed(layer, x, options) if kind == "packed" else train(layer, x, **options)
    layer, options = layer.cpu(), {n: v.cpu() for n, v in options.items()}
    x = x.cpu()
    expected = train_packed(layer, x, options) if kind == "packed" else train(layer, x, **options)
    assert_alike(got, expected, kind)


def sequences(name: str, kind: str) -> tuple[CellLayer, Tensor, Arguments]:
    """A layer, its x, and tensors that describe the sequences."""
    flags = {"reverse": {"reverse": True}, "both ways": {"bidirectional": True}}.get(kind, {})
    layer, x = layer_of(name, 40, **flags), draw(name, 3, 90)["x"]
    bounds = torch.tensor([0, 90, 90, 200, 270])
    options: dict[str, Arguments] = {
        "padded": {"lengths": torch.tensor([90, 0, 41])},
        "packed": {"lengths": torch.tensor([90, 7, 41])},
        "joined": {"cu_seqlens": bounds},
        "reset": {"reset": torch.rand(3, 90, generator=torch.Generator().manual_seed(2)) < 0.1},
    }
    if kind == "joined":
        x = x.reshape(1, 270, INPUTS)
    return layer, x, {n: v.to(DEVICE) for n, v in options.get(kind, {}).items()}


def train_packed(layer: CellLayer, x: Tensor, options: Arguments) -> list[Tensor]:
    lengths = options["lengths"].cpu()

    class Packing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Any:
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            return self.layer(packed)

    return train(Packing(), x)


def test_tensors_on_several_devices_are_refused_by_name() -> None:
    layer, x = layer_of("lstm"), draw("lstm", 2, 5)["x"]
    with pytest.raises(ArgumentError, match=rf"^x: got .* on cpu, expected a tensor on {DEVICE}"):
        layer(x.cpu())
    with pytest.raises(ArgumentError, match=r"^h0 \(h\): got .* on cpu, expected"):
        layer(x, (torch.zeros(2, 64, device=DEVICE), torch.zeros(2, 64)))


# --- half precision --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@each_shape
def test_a_layer_trains_in_half_precision(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    batch, steps, channels = shape
    layer, x = layer_of("lstm", channels).to(dtype), draw("lstm", batch, steps)["x"].to(dtype)
    got = train(layer, x)
    y, c, h, *gradients = got
    assert (y.dtype, c.dtype, h.dtype) == (dtype, torch.float32, torch.float32)
    assert {g.dtype for g in gradients} == {dtype}
    assert near(got, train(layer.float(), x.float()), dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["para_gru", "lstm", "clocked"])
def test_autocast_computes_in_half_precision_and_keeps_gradients_in_float32(
    name: str, dtype: torch.dtype
) -> None:
    layer, given = layer_of(name), draw(name, 8, 60)
    expected = train(layer, **given)
    with torch.autocast(DEVICE.type, dtype):
        y, h = layer(**given)
    assert {t.dtype for t in flat(y)} == {dtype}
    assert {t.dtype for t in flat(h)} == {torch.float32}
    with torch.autocast(DEVICE.type, dtype):
        got = train(layer, **given)
    assert {g.dtype for g in got[len(flat((y, h))) :]} == {torch.float32}
    assert near(got, expected, dtype)


def near(got: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> bool:
    """Within the error of rounded inputs and weights, a few times that of rounded results."""
    limit = 3 * TOLERANCES[dtype].gradient
    pairs = [(g.float(), e.float()) for g, e in zip(got, expected, strict=True)]
    return all((g - e).abs().max() <= limit * max(1.0, float(e.abs().max())) for g, e in pairs)


def test_the_functional_form_promotes_under_autocast() -> None:
    arguments = random_arguments(compiled("para_gru").spec, (2, 9, 8), device=DEVICE)
    mixed = arguments | {"xz": arguments["xz"].bfloat16()}
    with pytest.raises(ArgumentError, match=r"or torch\.autocast to promote"):
        compiled("para_gru")(**mixed)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        assert compiled("para_gru")(**mixed).dtype == torch.float32


# --- torch.compile ---------------------------------------------------------------------------


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore")  # of torch's own making
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
@pytest.mark.parametrize("name", ["para_gru", "lstm", "clocked"])
def test_a_compiled_layer_trains_as_it_does_uncompiled(
    name: str, mode: str, fresh_dynamo: None
) -> None:
    if DEVICE.type == "cuda":
        pytest.importorskip("triton")
    layer = layer_of(name)
    layer.warmup()  # "reduce-overhead" records graphs
    traced = torch.compile(layer, fullgraph=True, mode=mode)
    for seed, steps in enumerate((50, 50, 50, 200)):
        given = draw(name, 3, steps, seed)
        torch.compiler.cudagraph_mark_step_begin()
        got = [t.clone() for t in train(traced, **given)]
        assert_alike(got, train(layer, **given), f"{name} at {steps}")


# --- CUDA graphs -----------------------------------------------------------------------------


@each_shape
@each_kind
def test_a_forward_replays_with_new_inputs(name: str, shape: tuple[int, int, int]) -> None:
    batch, steps, channels = shape
    layer, given = layer_of(name, channels), draw(name, batch, steps)
    ready(layer, given["x"])
    with torch.no_grad():
        recorded = Recorded(lambda: flat(layer(**given)))
        for seed in range(1, 4):
            fill(given, draw(name, batch, steps, seed))
            got = [t.clone() for t in recorded.replay()]
            assert_alike(got, flat(layer(**given)), f"{name}, seed {seed}")


@each_shape
@each_kind
def test_a_training_step_replays_with_new_inputs(name: str, shape: tuple[int, int, int]) -> None:
    batch, steps, channels = shape
    layer, given = layer_of(name, channels), draw(name, batch, steps)
    twin, target = copy.deepcopy(layer), torch.zeros(batch, steps, layer.hidden_size).to(DEVICE)
    ready(layer, given["x"])

    def step_of(model: CellLayer) -> Callable[[], list[Tensor]]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

        def step() -> list[Tensor]:
            optimizer.zero_grad(set_to_none=True)
            loss = (listed(model(**given)[0])[0] - target).square().mean()
            loss.backward()
            optimizer.step()
            return [loss.detach()]

        return step

    step_of(copy.deepcopy(layer))()  # what is PyTorch's is loaded
    recorded, plain = Recorded(step_of(layer)), step_of(twin)
    for seed in range(1, 5):
        fill(given, draw(name, batch, steps, seed))
        target.copy_(torch.randn(target.shape, generator=torch.Generator().manual_seed(seed)))
        assert_alike(recorded.replay(), plain(), f"{name}, loss of step {seed}")
    assert_alike(list(layer.parameters()), list(twin.parameters()), f"{name}, parameters")


@each_kind
def test_decoding_replays_one_step(name: str) -> None:
    layer, given = layer_of(name), draw(name, 4, 30)
    ready(layer, given["x"][:, 0])
    with torch.no_grad():
        y, _ = layer(**given)
        rows, state = layer(**{n: t[:, :1] for n, t in given.items()})
        state = state.clone() if isinstance(state, Tensor) else tuple(h.clone() for h in state)
        now = {n: t[:, 1].clone() for n, t in given.items()}

        def step() -> list[Tensor]:
            row, after = layer.step(state=state, **now)
            for old, new in zip(listed(state), listed(after), strict=True):
                old.copy_(new)
            return listed(row)

        recorded = Recorded(step)
        columns = [[row[:, 0]] for row in listed(rows)]
        for t in range(1, 30):
            fill(now, {n: v[:, t] for n, v in given.items()})
            for column, row in zip(columns, recorded.replay(), strict=True):
                column.append(row.clone())
    for column, whole in zip(columns, listed(y), strict=True):
        assert_close(torch.stack(column, 1), whole, torch.float32, name)


@each_kind
def test_a_decoder_replays_what_a_layer_steps(name: str) -> None:
    layer, given = layer_of(name), draw(name, 4, 30)
    with torch.no_grad():
        decoder, plain, state = layer.decoder(4), layer.decoder(4, graph=False), None
        for t in range(30):
            now = {n: v[:, t] for n, v in given.items()}
            row, state = layer.step(state=state, **now)
            for got in (decoder(**now), plain(**now)):
                assert_alike(listed(got), listed(row), f"{name}, step {t}")
        assert_alike(listed(decoder.state), listed(state), f"{name}, state")


IN_A_NEW_PROCESS = """
import torch, rnncc
from rnncc.lang.loader import find
x = torch.randn(4, 300, 24, device="cuda")
layer = rnncc.compile(find("{name}")).layer(24, 64, device="cuda", solver="{solver}")
layer.warmup({dtype})
half = torch.autocast("cuda", {dtype} or torch.bfloat16, enabled={dtype} is not None)
with half:  # what is PyTorch's: cuBLAS, autograd's thread
    layer.projection(x).float().square().mean().backward()
layer.zero_grad()
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph), half:
    y, _ = layer(x)
    y.float().square().mean().backward()
graph.replay()
torch.cuda.synchronize()
print(y.isfinite().all().item(), layer.projection.weight.grad.abs().max().item() > 0)
"""


@pytest.mark.parametrize("solver", ["auto", "sequential", "segmented"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_warmup_is_all_that_a_capture_needs_of_us(solver: str, dtype: torch.dtype | None) -> None:
    script = IN_A_NEW_PROCESS.format(name="para_gru", solver=solver, dtype=dtype)
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("True True\n", 0), done.stderr


# --- streams, threads, devices ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["whole", "padded", "joined", "reset", "reverse", "both ways"])
@pytest.mark.parametrize("name", ["para_gru", "lstm"])
def test_nothing_waits_on_a_stream_of_its_own(name: str, kind: str) -> None:
    layer, x, options = sequences(name, kind)
    expected = train(layer, x, **options)  # and everything is loaded
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        train(layer, x, **options)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(LONG)
        with no_waiting():
            got = train(layer, x, **options)
        busy = not stream.query()
    stream.synchronize()
    assert busy  # launched while the stream was still asleep
    assert_alike(got, expected, kind)


@each_shape
@each_kind
def test_no_cell_waits(name: str, shape: tuple[int, int, int]) -> None:
    batch, steps, channels = shape
    layer, given = layer_of(name, channels), draw(name, batch, steps)
    train(layer, **given)
    with no_waiting():
        train(layer, **given)
        with torch.no_grad():
            layer.step(**{n: t[:, 0] for n, t in given.items()})
    torch.cuda.synchronize()


def test_a_backward_runs_in_autograds_thread_on_the_stream_of_its_forward() -> None:
    seen: list[tuple[int, int]] = []

    def note(gradient: Tensor) -> None:
        seen.append((threading.get_ident(), torch.cuda.current_stream().cuda_stream))

    layer, stream = layer_of("lstm"), torch.cuda.Stream()
    x = draw("lstm", 4, 60)["x"].requires_grad_()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        inside = 1 * x
        inside.register_hook(note)
        y, _ = layer(inside)
        upstream = torch.ones_like(y)
    stream.synchronize()
    (gradient,) = torch.autograd.grad(y, x, upstream)  # called on another stream
    torch.cuda.synchronize()
    ((thread, used),) = seen
    assert thread != threading.get_ident()
    assert used == stream.cuda_stream
    again = x.detach().requires_grad_()
    (expected,) = torch.autograd.grad(layer(again)[0], again, upstream)
    assert_close(gradient, expected, torch.float32, "dx", gradient=True)


def test_threads_train_side_by_side() -> None:
    layers = {name: layer_of(name) for name in ("para_gru", "lstm", "clocked", "lru")}
    jobs = [(name, seed) for seed in range(8) for name in layers]
    expected = [train(layers[name], **draw(name, 3, 80, seed)) for name, seed in jobs]
    torch.cuda.synchronize()

    def work(job: tuple[str, int]) -> list[Tensor]:
        name, seed = job
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            found = train(layers[name], **draw(name, 3, 80, seed))
        stream.synchronize()
        return found

    with ThreadPoolExecutor(4) as pool:
        for job, got, e in zip(jobs, pool.map(work, jobs), expected, strict=True):
            assert_alike(got, e, str(job))


def test_a_loader_thread_can_run_a_layer_while_another_trains() -> None:
    encoder, layer = layer_of("min_gru"), layer_of("lstm", 32)
    batches: list[Tensor] = []

    def load() -> None:
        stream = torch.cuda.Stream()
        with torch.no_grad(), torch.cuda.stream(stream):
            for seed in range(10):
                batches.append(encoder(**draw("min_gru", 4, 50, seed))[0])
        stream.synchronize()

    expected = train(layer, **draw("lstm", 4, 50))
    thread = threading.Thread(target=load)
    thread.start()
    found = [train(layer, **draw("lstm", 4, 50)) for _ in range(10)]
    thread.join()
    for got in found:
        assert_alike(got, expected, "training")
    for seed, batch in enumerate(batches):
        with torch.no_grad():
            again, _ = encoder(**draw("min_gru", 4, 50, seed))
        assert_close(batch, again, torch.float32, f"batch {seed}")


def test_two_devices_give_the_same_and_leave_the_current_one_current() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    for name in KINDS:
        layer, given = layer_of(name), draw(name, 3, 200)
        other = copy.deepcopy(layer).to("cuda:1")
        for _ in range(2):
            expected = train(layer, **given)
            got = train(other, **{n: t.to("cuda:1") for n, t in given.items()})
            assert torch.cuda.current_device() == 0
            assert {t.device for t in got} == {torch.device("cuda", 1)}
            assert_alike(got, expected, name)


# --- the same bits ---------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["auto", "sequential", "segmented"])
@pytest.mark.parametrize("name", ["para_gru", "lstm", "clocked", "crossed", "slstm"])
def test_the_same_call_gives_the_same_bits_while_others_run(name: str, solver: str) -> None:
    for shape in ((5, 700, 96), (1, 3000, 16)):
        call = random_call(name, (*shape[:2], fitting(name, shape[2])), torch.float32)
        found = []
        for count in range(MANY_RUNS):
            with there(), others_running(count):
                found.append(by_kernel(name, call, solver=solver))
        first = found[0]
        for again in found[1:]:
            pairs = zip(
                [*first.y, *first.h, *first.gradients.values()],
                [*again.y, *again.h, *again.gradients.values()],
                strict=True,
            )
            assert all(torch.equal(a, b) for a, b in pairs)


@contextmanager
def others_running(count: int) -> Iterator[None]:
    """On other streams, each time something else, so that blocks start in another order."""
    streams = [torch.cuda.Stream() for _ in range(count)]
    a = torch.rand(500 + 100 * count, 500, device=DEVICE)
    torch.cuda.synchronize()
    for stream in streams:
        with torch.cuda.stream(stream):
            for _ in range(20):
                a @ a.T
    yield
    torch.cuda.synchronize()


# --- sizes and memory ------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["sequential", "segmented"])
@pytest.mark.parametrize(
    ("shape", "dim"),
    [((1, 2**16 + 3, 2**15 + 32), 2), ((2**15 + 5, 2**11 + 1, 33), 0)],
    ids=["many channels", "many sequences"],
)
def test_tensors_of_more_than_two_thousand_million_elements(
    shape: tuple[int, int, int], dim: int, solver: str
) -> None:
    """Compared with calls of the first and of the last rows, or channels, alone."""
    count = shape[0] * shape[1] * shape[2]
    assert count > 2**31
    free, _ = torch.cuda.mem_get_info()
    if free < 2 * 6 * count:  # x, y, their gradients, the saved states, and room
        pytest.skip(f"needs {12 * count / 2**30:.0f} GiB of free memory")
    check_by_slices(shape, dim, solver)


def check_by_slices(shape: tuple[int, int, int], dim: int, solver: str) -> None:
    cell, kind = compiled("elman"), {"dtype": torch.bfloat16, "device": DEVICE}
    torch.manual_seed(0)
    x, a = torch.randn(shape, **kind), torch.rand(shape[2], device=DEVICE) * 2 - 1
    dy = torch.randn(shape, **kind)

    def solved(x: Tensor, a: Tensor, dy: Tensor) -> list[Tensor]:
        x, a = x.requires_grad_(), a.requires_grad_()
        y, h = cell(x, a, solver=solver, return_state=True)
        dx, da = torch.autograd.grad(y, [x, a], dy)
        return [y.detach(), dx, h.detach(), da]

    y, dx, h, da = solved(x, a, dy)
    for part in (slice(0, 32), slice(shape[dim] - 32, shape[dim])):
        where = (slice(None),) * dim + (part,)
        given = [t.detach()[where].contiguous() for t in (x, dy)]
        own = a.detach()[part].contiguous() if dim == 2 else a.detach()
        y_, dx_, h_, da_ = solved(given[0], own, given[1])
        assert_close(y[where], y_, torch.bfloat16, f"y {part}")
        assert_close(dx[where], dx_, torch.bfloat16, f"dx {part}", gradient=True)
        assert_close(h[..., part] if dim == 2 else h[part], h_, torch.float32, f"h {part}")
        if dim == 2:
            assert_close(da[part], da_, torch.float32, f"da {part}", gradient=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(8, 2048, 1024), (1, 2**18, 64)], ids=["wide", "narrow"])
@pytest.mark.parametrize("name", ["min_gru", "para_gru", "lstm", "slstm"])
def test_training_takes_little_more_memory_than_its_tensors(
    name: str, shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    def call() -> list[Tensor]:
        given = random_arguments(compiled(name).spec, shape, dtype=dtype, device=DEVICE)
        leaves = {n: t.requires_grad_() for n, t in given.items()}
        upstream = torch.ones(shape, dtype=dtype, device=DEVICE)
        torch.cuda.reset_peak_memory_stats(DEVICE)
        y = compiled(name)(**leaves)
        return [
            *leaves.values(),
            y,
            upstream,
            *torch.autograd.grad(y, [*leaves.values()], upstream),
        ]

    call()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(DEVICE)
    tensors = sum(t.numel() * t.dtype.itemsize for t in call())
    assert torch.cuda.max_memory_allocated(DEVICE) - before <= 1.3 * tensors


def test_nothing_stays_allocated_after_a_call() -> None:
    layer, given = layer_of("lstm"), draw("lstm", 8, 500)
    train(layer, **given)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(DEVICE)
    for _ in range(5):
        train(layer, **given)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated(DEVICE) == before


# --- compute-sanitizer -----------------------------------------------------------------------

WATCHED = """
import torch
from tests.support import runs
runs.DEVICE = "cuda"
choices = [{"solver": "sequential"}, {"solver": "newton", "on_failure": "sequential"}]
choices += [{"solver": "segmented", "segment": segment} for segment in (1, 32)]
for name in ("para_gru", "pair", "clocked", "block_elman"):
    for number, chosen in enumerate(choices):
        dtype = runs.DTYPES[number]
        shape = (3, 70, runs.fitting(name, 37))
        sequences = {"lengths": torch.tensor([70, 0, 33])} if number % 2 else {}
        call = runs.random_call(name, shape, dtype, **sequences)
        runs.by_kernel(name, call, **chosen)
torch.cuda.synchronize()
print("all ran")
"""


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_the_sanitizer_has_nothing_to_say(tool: str) -> None:
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not on the PATH")
    # API errors: to look for a kernel in a part that has it not is one, and is meant
    options = ["--tool", tool, "--report-api-errors", "no", "--error-exitcode", "9"]
    done = subprocess.run(
        [sanitizer, *options, sys.executable, "-c", WATCHED],
        cwd=ROOT,
        env=os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},  # each tensor by itself
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    if "Device not supported" in done.stdout:
        pytest.skip("compute-sanitizer does not support this device here")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "all ran" in done.stdout
