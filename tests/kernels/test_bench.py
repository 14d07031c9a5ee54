"""Bench: it times the right programs, and only correct ones; on a GPU its baselines too."""

from __future__ import annotations

import functools
import json
import os
import re
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor, nn

from rnncc.bench import baselines, cuda, gpu, peers, timing, workload
from rnncc.bench.cuda import LOOP, GpuTiming
from rnncc.bench.table import ROWS
from rnncc.cli import bench as command
from rnncc.cli.main import main
from rnncc.errors import RnnccError
from tests.support.clock import HERE, HostClock
from tests.support.emulated import emulated
from tests.support.runs import DTYPES, compiled
from tests.support.tolerances import assert_close

# --- the baselines ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lif", "block_elman"])
def test_the_kernel_is_held_to_the_loop_before_it_is_timed(name: str) -> None:
    spec = compiled(name).spec
    arguments = workload.random_arguments(spec, (2, 33, 8))
    kernel, loop = workload.fused_loop(compiled(name)), baselines.plain(compiled(name).stages.cell)
    workload.check(kernel, loop, arguments, spec)

    def wrong(given: baselines.Arguments) -> list[Any]:
        return [1.1 * y + 0.1 for y in loop(given)]

    with pytest.raises(RnnccError, match="of the kernel differs from the plain loop's by up to"):
        workload.check(kernel, wrong, arguments, spec)
    with pytest.raises(RnnccError, match="of the kernel differs from another's by up to"):
        workload.check(kernel, wrong, arguments, spec, "another's")


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_kernel_in_any_dtype_is_held_to_the_loop_in_the_dtype_it_computes_in(
    dtype: torch.dtype,
) -> None:
    cell, spec = compiled("slstm").stages.cell, compiled("slstm").spec
    arguments = workload.random_arguments(spec, (2, 40, 8), dtype=dtype)
    oracle = baselines.oracle(cell, dtype)
    assert {y.dtype for y in oracle(arguments)} == {dtype}
    workload.check(workload.fused_loop(compiled("slstm")), oracle, arguments, spec)


def test_the_chunked_loop_is_the_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    for name in ("lstm", "driven"):
        cell = compiled(name).stages.cell
        arguments = workload.random_arguments(compiled(name).spec, (2, 21, 4))
        for chunked, plain in zip(
            baselines.chunked(cell, size=8)(arguments),
            baselines.plain(cell)(arguments),
            strict=True,
        ):
            assert torch.equal(chunked, plain)


@pytest.mark.parametrize("name", ["lstm", "lif", "clocked"])
def test_one_step_of_the_plain_loop_is_its_first(name: str) -> None:
    cell = compiled(name).stages.cell
    arguments = workload.random_arguments(compiled(name).spec, (3, 1, 4))
    _, outputs = baselines.one_step(cell, arguments, torch.float32, HERE.device)()
    for one, whole in zip(outputs, baselines.plain(cell)(arguments), strict=True):
        assert torch.equal(one, whole[:, 0])


def test_constants_of_a_step_lie_on_its_device_and_are_made_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Any] = []
    full = torch.full

    def recorded(*args: Any, device: torch.device, **options: Any) -> Tensor:
        made.append(device)
        return full(*args, **options)

    monkeypatch.setattr(torch, "full", recorded)
    there = torch.device("cuda", 1)
    step = baselines.step_on(compiled("izhikevich").stages.cell, torch.float32, there)
    for _ in range(3):
        step(*torch.rand(3, 4))
    assert made == [there, there]  # the peak, and the voltage after it


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
@pytest.mark.parametrize("direction", cuda.DIRECTIONS)
def test_a_layer_of_cudnn_runs_as_many_features_as_channels(kind: Any, direction: str) -> None:
    results = peers.cudnn(kind, (3, 5, 8), torch.float32, HERE.device, direction)()
    steps = 1 if direction == "decode" else 5
    assert results[0].shape == (steps, 3, 8)
    assert len(results) == (5 if direction == "forward+backward" else 2)


def test_a_layer_of_cudnn_is_not_compared_in_float64() -> None:
    with pytest.raises(baselines.UnavailableError, match="float32, float16 and bfloat16 only"):
        peers.cudnn(nn.GRU, (3, 5, 8), torch.float64, HERE.device, "forward")


class Scan(types.ModuleType):
    """As accelerated_scan.warp, which prints its build when it is imported."""

    def __init__(self) -> None:
        super().__init__("accelerated_scan.warp")
        self.seen: list[tuple[Tensor, Tensor]] = []

    def scan(self, gates: Tensor, tokens: Tensor) -> Tensor:
        assert gates.is_contiguous()
        assert tokens.is_contiguous()
        self.seen.append((gates, tokens))
        return gates * tokens


@pytest.fixture
def scan(monkeypatch: pytest.MonkeyPatch) -> Scan:
    module = Scan()
    monkeypatch.setitem(sys.modules, "accelerated_scan", types.ModuleType("accelerated_scan"))
    monkeypatch.setitem(sys.modules, "accelerated_scan.warp", module)
    return module


def test_accelerated_scan_gets_its_own_layout_beforehand(scan: Scan) -> None:
    run = peers.accelerated_scan((3, 64, 8), torch.bfloat16, HERE.device, "forward+backward")
    assert scan.seen == []
    gradients = run()
    gates, tokens = scan.seen[0]
    assert [t.shape for t in (gates, tokens, *gradients)] == [(3, 8, 64)] * 4
    assert {t.dtype for t in (gates, tokens, *gradients)} == {torch.bfloat16}
    assert (gates <= 1).all()
    run = peers.accelerated_scan((3, 64, 8), torch.float32, HERE.device, "forward")
    assert not run().requires_grad


@pytest.mark.parametrize(
    ("steps", "dtype", "reason"),
    [
        (63, torch.float32, "takes a power of two of steps, from 32 to 65536"),
        (16, torch.float32, "takes a power of two of steps, from 32 to 65536"),
        (64, torch.float64, "takes float32, float16 and bfloat16 only"),
        (64, torch.float32, "not installed"),
    ],
)
def test_accelerated_scan_says_why_it_does_not_run(
    steps: int, dtype: torch.dtype, reason: str
) -> None:
    with pytest.raises(baselines.UnavailableError, match=reason):
        peers.accelerated_scan((3, steps, 8), dtype, HERE.device, "forward")


@pytest.mark.parametrize(
    ("name", "scans"), [("min_gru", True), ("lru", False), ("para_gru", False), ("driven", True)]
)
def test_accelerated_scan_is_for_affine_cells_of_one_state(name: str, scans: bool) -> None:
    assert peers.scans(compiled(name).structure) is scans


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """As mamba, FlashRNN and pararnn-torch: their functions, which record what they are given."""
    seen: dict[str, Any] = {}

    def selective_scan_fn(*given: Tensor) -> Tensor:
        seen["mamba"] = [tuple(t.shape) for t in given]
        u, delta, a, b, c = given
        return u * delta + (a.sum() + b.sum() + c.sum()).to(u.dtype)

    def flashrnn(x: Tensor, r: Tensor, b: Tensor, states: Tensor, **options: Any) -> Any:
        seen["flash"] = ([tuple(t.shape) for t in (x, r, b, states)], options)
        return x * (r.sum() + b.sum()), states

    class ParaGRU(nn.Linear):
        pass

    def newton_apply(layer: ParaGRU, x: Tensor, config: int) -> Tensor:
        seen["pararnn"] = (tuple(x.shape), config)
        found: Tensor = layer(x)
        return found

    def config(max_iters: int) -> int:
        return max_iters

    pararnn = {"ParaGRU": ParaGRU, "newton_apply": newton_apply, "NewtonConfig": config}
    for name, names in {
        **{"mamba_ssm": {}, "mamba_ssm.ops": {}},
        "mamba_ssm.ops.selective_scan_interface": {"selective_scan_fn": selective_scan_fn},
        "flashrnn": {"flashrnn": flashrnn},
        "pararnn": pararnn,
    }.items():
        module = types.ModuleType(name)
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, name, module)
    return seen


@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
def test_peers_get_their_own_layouts(installed: dict[str, Any], direction: str) -> None:
    there = ((2, 8, 128), torch.bfloat16, HERE.device, direction)
    wanted = 5 if direction == "forward+backward" else 2
    assert len(peers.mamba_scan(*there)()) == wanted
    assert installed["mamba"] == [(2, 128, 8), (2, 128, 8), (128, 16), (2, 16, 8), (2, 16, 8)]
    peers.flash_rnn("gru", 3, 4, 1, *there)()
    shapes, options = installed["flash"]
    assert shapes == [(2, 8, 3, 2, 64), (3, 2, 64, 64), (4, 2, 64), (1, 2, 1, 2, 64)]
    assert options == {"function": "gru", "backend": "cuda_fused", "dtype": "bfloat16"}
    peers.pararnn_torch("ParaGRU", *there)()
    assert installed["pararnn"] == ((2, 8, 128), 3)


@pytest.mark.usefixtures("installed")
def test_peers_say_why_they_do_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    single = ((2, 8, 128), torch.float32, HERE.device, "forward")
    narrow = ((2, 8, 100), torch.bfloat16, HERE.device, "forward")
    with pytest.raises(baselines.UnavailableError, match="float16 and bfloat16 only"):
        peers.flash_rnn("gru", 3, 4, 1, *single)
    with pytest.raises(baselines.UnavailableError, match="takes heads of 64 channels here"):
        peers.flash_rnn("gru", 3, 4, 1, *narrow)
    with pytest.raises(baselines.UnavailableError, match="not on PyPI"):
        peers.ml_pararnn()
    monkeypatch.setitem(sys.modules, "pararnn", types.ModuleType("pararnn"))
    with pytest.raises(baselines.UnavailableError, match="'pararnn' isn't pararnn-torch"):
        peers.pararnn_torch("ParaGRU", *single)


def test_a_peer_that_cannot_be_imported_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "peer_without.py").write_text("import something_else")
    (tmp_path / "peer_broken.py").write_text("raise ValueError('no nvcc\\nat all')")
    monkeypatch.syspath_prepend(tmp_path)
    for name, reason in (
        ("peer_absent", "not installed"),
        ("peer_without", "needs something_else"),
        ("peer_broken", "no nvcc"),
    ):
        with pytest.raises(baselines.UnavailableError, match=f"^{reason}$"):
            peers._module(name)


def test_peers_are_compared_with_cells_like_them() -> None:
    assert set(peers.peers_of(compiled("min_gru"), "forward")) == {
        *("nn.GRU", "nn.LSTM", "accelerated-scan", "mamba's scan")
    }
    assert set(peers.peers_of(compiled("para_gru"), "forward")) == {
        *("nn.GRU", "nn.LSTM", "FlashRNN", "pararnn-torch", "ml-pararnn")
    }
    assert set(peers.peers_of(compiled("para_gru"), "decode")) == {"nn.GRU", "nn.LSTM"}
    assert set(peers.peers_of(compiled("lif"), "forward")) == {"nn.GRU", "nn.LSTM"}


def test_the_stdout_of_a_build_goes_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    with peers._stdout_to_stderr():
        os.write(1, b"of a compiler\n")
        print("of Python")
    print("after")
    out, err = capfd.readouterr()
    assert out == "after\n"
    assert sorted(err.splitlines()) == ["of Python", "of a compiler"]


# --- the clock -------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few samples."""
    monkeypatch.setattr(timing, "MOST_ROUNDS", 3)
    monkeypatch.setattr(timing, "MOST_CALLS", 2)


@pytest.mark.usefixtures("clock")
def test_a_sample_is_of_one_call_out_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def call() -> None:
        nonlocal now
        now += 0.005

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    samples = timing.interleave_on_gpu({"call": call}, HERE.clock)
    assert len(samples["call"]) == 3
    for sample in samples["call"]:
        assert sample.device == pytest.approx(2 * 0.005)
        assert sample.python == pytest.approx(0.005)


# --- a whole bench ---------------------------------------------------------------------------


@pytest.fixture
def emulation(clock: None) -> Iterator[None]:
    """Calls take the CUDA kernels, by emulation."""
    with emulated():
        yield


@functools.cache
def measured(name: str, shape: baselines.Shape, dtype: str = "float32", **options: Any) -> Any:
    """Once per process; the fixture `emulation` must be there."""
    return list(cuda.measure(compiled(name), shape, HERE, dtype, **options))


@pytest.mark.usefixtures("emulation", "scan")
def test_a_gpus_bench_times_every_pass_against_every_baseline() -> None:
    found = measured("min_gru", (2, 64, 8), solvers=True)
    assert [t.direction for t in found] == ["forward", "forward+backward", "decode"]
    assert [t.shape for t in found] == [(2, 64, 8), (2, 64, 8), (2, 1, 8)]
    layers = {LOOP, "nn.GRU", "nn.LSTM"}
    for t in found:
        assert set(t.baselines) == layers | ({"accelerated-scan"} if t.shape[1] > 1 else set())
        assert set(t.solvers) == (
            {"sequential", "segmented", "newton"} if t.shape[1] > 1 else set()
        )
        times = (t.fused.device, t.fused.python, t.copy, *t.baselines.values(), *t.solvers.values())
        assert all(seconds > 0 for seconds in times)
        absent = {"mamba's scan": "not installed"} if t.shape[1] > 1 else {}
        assert t.skipped == absent
        assert (t.graph is None) == (t.direction == "forward+backward")
        assert t.share == pytest.approx(t.copy / t.fused.device)
        assert t.speed == pytest.approx(t.bytes / t.fused.device)


@pytest.mark.usefixtures("emulation")
def test_necessary_bytes_are_those_of_the_tensors() -> None:
    forward, both, decode = (t.bytes for t in measured("lstm", (2, 40, 8), "bfloat16"))
    values, states, params = 2 * 40 * 8, 2 * 2 * 2 * 8, len(compiled("lstm").spec.params) * 8
    assert forward == 2 * (4 + 1) * values
    assert both == 2 * ((4 + 1) + (4 + 1) + 4) * values
    assert decode == 2 * (4 + 1) * values // 40 + 4 * (states + params)


@pytest.mark.usefixtures("emulation")
@pytest.mark.parametrize("name", ["lif", "clocked", "block_elman", "attention"])
def test_cells_of_every_kind_can_be_timed(name: str) -> None:
    for t in measured(name, (2, 40, 8)):
        assert set(t.baselines) == {LOOP, "nn.GRU", "nn.LSTM"}


@pytest.mark.usefixtures("emulation")
def test_impossible_baselines_are_left_out_with_the_reason() -> None:
    forward, _, decode = measured("min_gru", (2, 40, 8), "float64")
    for t in (forward, decode):
        assert set(t.baselines) == {LOOP}
        assert t.skipped["nn.GRU"] == "compared in float32, float16 and bfloat16 only"
    assert forward.skipped["mamba's scan"] == "takes float32, float16 and bfloat16 only"
    assert "accelerated-scan" not in decode.skipped


@pytest.mark.usefixtures("emulation")
def test_a_loop_that_would_take_too_long_is_predicted_and_left_out() -> None:
    found = measured("min_gru", (2, 200, 8), budget=1e-3)
    for t in found[:2]:
        assert LOOP not in t.baselines
        assert re.fullmatch(
            r"64 steps take [\d.]+ ms, so 200 would take about [\d.]+ s", t.skipped[LOOP]
        )
    assert LOOP in found[2].baselines  # one step is quick


@pytest.mark.usefixtures("emulation")
def test_a_baseline_that_fails_is_left_out_and_the_others_are_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(kind: Any, *_: Any) -> Any:
        raise torch.OutOfMemoryError if kind is nn.GRU else RuntimeError("CUDNN_STATUS\nmore")

    monkeypatch.setattr(peers, "cudnn", fails)
    for t in cuda.measure(compiled("elman"), (2, 8, 8), HERE):
        assert t.skipped.pop("FlashRNN", "") in ("", "takes heads of 64 channels here")
        assert t.skipped == {
            "nn.GRU": "the GPU's memory is too small",
            "nn.LSTM": "CUDNN_STATUS",
        }
        assert set(t.baselines) == {LOOP}


@pytest.mark.usefixtures("emulation")
def test_a_call_that_cannot_be_recorded_is_timed_without_a_graph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def replay(*_: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(HostClock, "replay", replay)
    found = next(cuda.measure(compiled("elman"), (2, 8, 8), HERE))
    assert found.graph is None
    assert "stream is capturing" in found.skipped[cuda.GRAPH]
    assert LOOP in found.baselines


@pytest.mark.usefixtures("emulation")
def test_a_shape_beyond_the_gpus_memory_ends_the_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(workload, "random_arguments", full)
    with pytest.raises(MemoryError, match="the GPU's memory is too small"):
        next(cuda.measure(compiled("elman"), (2, 8, 8), HERE))


@pytest.mark.usefixtures("emulation")
def test_the_solver_that_auto_takes_is_held_to_one_pass_over_all_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checked: list[tuple[int, str]] = []

    def check(_: Any, __: Any, arguments: Any, ___: Any, against: str = "the loop") -> None:
        checked.append((arguments["xz"].shape[1], against))

    monkeypatch.setattr(workload, "check", check)
    found = next(cuda.measure(compiled("min_gru"), (1, 4096, 8), HERE))
    assert found.solver == "segmented"
    assert checked == [(64, "the loop"), (4096, "that of one pass over time")]


@pytest.mark.usefixtures("emulation")
def test_a_wrong_kernel_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    fused = workload.fused_loop

    def wrong(*given: Any) -> baselines.Loop:
        return lambda arguments: [y + 1 for y in fused(*given)(arguments)]

    monkeypatch.setattr(workload, "fused_loop", wrong)
    with pytest.raises(RnnccError, match="the output 'h' of the kernel differs from the plain"):
        next(cuda.measure(compiled("elman"), (2, 8, 8), HERE))


# --- the command -----------------------------------------------------------------------------


def call(*words: str) -> Result:
    return CliRunner().invoke(main, ["bench", *words], prog_name="rnncc")


def test_the_cpus_bench_takes_other_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "MOST_ROUNDS", 3)
    result = call("elman", "--shape", "2x20x8", "--dtype", "bfloat16")
    assert result.exit_code == 0
    assert result.stdout.startswith("elman, bfloat16, ")


def test_the_cpus_bench_takes_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "MOST_ROUNDS", 3)
    result = call("hmm_forward", "--shape", "2x20x8")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("hmm_forward, float32, ")


def test_without_a_gpu_its_bench_exits_with_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    result = call("elman", "--device", "cuda")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == (
        f"--device cuda: PyTorch {torch.__version__} can use no GPU here; it was built without "
        "CUDA.\nFix: rnncc doctor says what is missing, and what to install\n"
    )


def test_shapes_by_default_are_rows_of_the_table() -> None:
    assert set(command.SHAPES["cuda"]) <= {row.shape for row in ROWS}
    assert set(command.ABOUT_PEERS) <= set(peers.PEERS)


def test_the_page_of_a_gpu_has_a_row_for_each_pass_and_says_what_was_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def row(direction: str, skipped: dict[str, str], **found: Any) -> GpuTiming:
        fused = timing.Sample(2e-3, 1e-4)
        shape = (1, 1 if direction == "decode" else 64, 8)
        rest: Any = {"baselines": {}, "solvers": {}, "graph": None} | found
        return GpuTiming(
            shape,
            "float32",
            direction,
            "sequential",
            fused,
            1e-3,
            4_000_000,
            3,
            skipped=skipped,
            **rest,
        )

    slow, absent = "64 steps take 3 ms", "not installed"
    both = {"accelerated-scan": absent}
    command._print_gpu_timings(
        "gru, float32",
        [
            row("forward", both, baselines={LOOP: 0.1}, solvers={"newton": 5e-3}, graph=1e-3),
            row("forward+backward", {LOOP: slow, **both}, baselines={"nn.GRU": 4e-3}),
        ],
    )
    assert capsys.readouterr().out == (
        "gru, float32; milliseconds by the GPU's clock, medians\n"
        "\n"
        "  shape   pass              solver      rnncc  in a graph  in Python  GB/s  copy"
        "  rnncc / copy  plain loop   nn.GRU    newton\n"
        "  1x64x8  forward           sequential  2      1           0.1        2     1   "
        "  2.0           100 (50.0x)  -         5\n"
        "  1x64x8  forward+backward  sequential  2      -           0.1        2     1   "
        "  2.0           -            4 (2.0x)  -\n"
        "\n"
        "In a graph: the same kernels, launched by a CUDA graph.\n"
        "In Python: until the call has launched its kernels, and returns.\n"
        "In parentheses: the time as a multiple of rnncc's.\n"
        "nn.GRU, nn.LSTM: whole layers, as many features as channels, by cuDNN.\n"
        "accelerated-scan: not installed.\n"
        "plain loop, 1x64x8 forward+backward: 64 steps take 3 ms.\n"
    )


@pytest.mark.usefixtures("emulation")
def test_the_command_prints_and_gives_data_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "gpu", lambda: HERE)
    about = {"device": "a GPU", "torch": "2", "cuda": "13.0", "cupy": "14"}
    monkeypatch.setattr(gpu, "machine", lambda: about)
    words = ("elman", "--device", "cuda", "--shape", "2x8x8", "--dtype", "float16")
    result = call(*words)
    assert result.exit_code == 0
    assert result.stdout.startswith("elman, float16, a GPU, PyTorch 2, CUDA 13.0, CuPy 14; ")
    assert re.search(r"^  2x1x8 +decode ", result.stdout, re.MULTILINE)
    found = json.loads(call(*words, "--json").stdout)
    assert (found["dtype"], found["machine"]) == ("float16", about)
    forward, both, decode = found["results"]
    assert (forward["shape"], decode["shape"]) == ([2, 8, 8], [2, 1, 8])
    for result in (forward, both, decode):
        assert result["bytes_per_second"] == pytest.approx(
            1e3 * result["bytes"] / result["fused_ms"]
        )
        assert set(result["baselines_ms"]) == set(result["ratios"]) == {LOOP, "nn.GRU", "nn.LSTM"}
        assert result["python_ms"] > 0


def test_the_emulated_kernels_are_what_is_timed() -> None:
    arguments = workload.random_arguments(compiled("elman").spec, (2, 8, 8))
    (here,) = workload.fused_loop(compiled("elman"))(arguments)
    with emulated() as launches:
        (there,) = workload.fused_loop(compiled("elman"))(arguments)
    assert launches == ["elman_forward"]
    assert_close(there, here, torch.float32, "y")


# --- on a GPU --------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_a_gpu_is_benched(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "MOST_ROUNDS", 3)
    shape = (2, 512, 64)
    found = list(cuda.measure(compiled("min_gru"), shape, gpu.gpu(), dtype, solvers=True))
    layers = set() if dtype == "float64" else {"nn.GRU", "nn.LSTM"}
    for t in found:
        assert {LOOP, *layers} <= set(t.baselines), t.skipped
        assert all(1e-7 < s < 1 for s in (*t.fused, t.copy, *t.baselines.values()))
        assert t.direction == "forward+backward" or t.graph, t.skipped
    assert set(found[0].solvers) >= {"sequential", "segmented"}
    about = gpu.machine()
    assert about["cuda"]
    assert about["cupy"]
    assert about["device"] == torch.cuda.get_device_name()


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # of torch's own making
def test_the_loop_under_torch_compile_can_be_timed_on_a_gpu() -> None:
    pytest.importorskip("triton")
    name, shape = "min_gru", (2, 64, 64)
    forward = next(cuda.measure(compiled(name), shape, gpu.gpu(), against_compile=True, budget=1.0))
    assert "torch.compile" in forward.baselines, forward.skipped


@pytest.mark.gpu
def test_a_copy_of_much_is_as_fast_as_the_memory_and_no_faster() -> None:
    place, moved = gpu.gpu(), 2**30
    run = baselines.copier(moved, place.device)
    samples = timing.interleave_on_gpu({"copy": run}, place.clock, 1.0)["copy"]
    assert 1e11 < moved / min(sample.device for sample in samples) < 2e13
    assert min(sample.python for sample in samples) < 1e-4  # launched, not waited for
