"""The layer of a compiled cell, as a user of torch.nn.GRU expects it; and the generated module."""

from __future__ import annotations

import copy
import importlib.util
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rnncc import write
from rnncc.errors import LoadError
from rnncc.launch import Kernel
from rnncc.layer import CellLayer
from tests.runs import CELLS, compiled, fitting, listed
from tests.tolerances import assert_close

ROOT = Path(__file__).parents[1]


def layer_of(name: str, input_size: int = 3, hidden_size: int = 8, **options: Any) -> CellLayer:
    torch.manual_seed(0)
    return compiled(name).layer(input_size, fitting(name, hidden_size), **options)


def shared_inputs(name: str, *lead: int) -> dict[str, Tensor]:
    cell = compiled(name).stages.cell
    return {i.name: torch.rand(*lead) for i in cell.inputs if i.shared}


# --- like torch.nn.GRU -----------------------------------------------------------------------


def test_it_is_called_like_a_gru_that_is_batch_first() -> None:
    ours, theirs = layer_of("para_gru", 5, 8), nn.GRU(5, 8, batch_first=True)
    x = torch.rand(2, 7, 5)
    y, h = ours(x)
    y_of_gru, h_of_gru = theirs(x)
    assert y.shape == y_of_gru.shape == (2, 7, 8)
    assert h.shape == h_of_gru[0].shape == (2, 8)
    assert torch.equal(y[:, -1], h)


@pytest.mark.parametrize("name", CELLS)
def test_a_layer_is_its_projection_followed_by_the_recurrence(name: str) -> None:
    layer = layer_of(name)
    x, shared = torch.rand(2, 7, 3), shared_inputs(name, 2, 7)
    y, h = layer(x, **shared)
    cell = compiled(name).stages.cell
    gates = [i.name for i in cell.inputs if not i.shared]
    parts = layer.projection(x).unflatten(-1, (max(1, len(gates)), -1)).unbind(2)
    params = {p.name: getattr(layer, p.name) for p in cell.params}
    arguments = dict(zip(gates, parts, strict=False)) | shared | params
    expected_y, expected_h = compiled(name)(**arguments, return_state=True)
    for got, expected in zip(listed(y), listed(expected_y), strict=True):
        assert torch.equal(got, expected)
    for got, expected in zip(listed(h), listed(expected_h), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", CELLS)
def test_stepping_equals_the_forward(name: str, dtype: torch.dtype) -> None:
    layer = layer_of(name).to(dtype)
    x, shared = torch.rand(2, 7, 3).to(dtype), shared_inputs(name, 2, 7)
    y, h = layer(x, **shared)
    state, rows = None, []
    for t in range(7):
        row, state = layer.step(x[:, t], state, **{n: v[:, t] for n, v in shared.items()})
        rows.append(listed(row))
    for got, expected in zip(zip(*rows, strict=True), listed(y), strict=True):
        assert_close(torch.stack(got, 1), expected, dtype, f"{name} output")
    for got, expected in zip(listed(state), listed(h), strict=True):
        assert_close(got, expected, dtype, f"{name} state")


def test_a_state_goes_in_and_out_with_its_gradient() -> None:
    layer = layer_of("lstm")
    x = torch.rand(2, 9, 3)
    first, middle = layer(x[:, :4])
    second, last = layer(x[:, 4:], middle)
    whole, end = layer(x)
    assert_close(torch.cat([first, second], 1), whole, torch.float32, "y")
    for a, b in zip(last, end, strict=True):
        assert_close(a, b, torch.float32, "state")
    parts = torch.autograd.grad(second.sum(), list(layer.parameters()), retain_graph=True)
    wholes = torch.autograd.grad(whole[:, 4:].sum(), list(layer.parameters()))
    for a, b in zip(parts, wholes, strict=True):
        assert_close(a, b, torch.float32, "gradient", gradient=True)


def test_a_cell_of_several_states_and_outputs_returns_tuples_in_declared_order() -> None:
    layer = layer_of("pair")
    (energy, old), (u, v) = layer(torch.rand(2, 7, 3))
    assert energy.shape == old.shape == (2, 7, 8)
    assert_close(energy[:, -1], u * u + v * v, torch.float32, "energy")
    assert (old[:, 0] == 0).all()
    (energy, old), (_, v) = layer.step(torch.rand(2, 3), (u, v))
    assert torch.equal(old, u)
    assert energy.shape == v.shape == (2, 8)


def test_one_returned_state_may_be_changed_in_place_while_training() -> None:
    layer = layer_of("lstm")
    x = torch.randn(2, 5, 3)
    _, (c, h) = layer(x)
    h.mul_(0)
    (c.sum() + h.sum()).backward()
    changed = layer.projection.weight.grad
    assert changed is not None
    layer.projection.weight.grad = None
    layer(x)[1][0].sum().backward()
    assert torch.equal(changed, layer.projection.weight.grad)


def test_shared_inputs_go_by_name_and_broadcast_over_the_batch() -> None:
    layer = layer_of("clocked")
    x, dt = torch.rand(2, 7, 3), torch.rand(7)
    y, _ = layer(x, dt=dt)
    assert torch.equal(y, layer(x, dt=dt.expand(2, 7))[0])
    assert not torch.equal(y, layer(x, dt=dt + 1)[0])


def test_a_layer_of_a_cell_with_shared_inputs_only_still_runs() -> None:
    layer = layer_of("driven")
    y, h = layer(torch.rand(2, 7, 3), dt=torch.rand(2, 7))
    assert torch.equal(y[:, -1], h)


@pytest.mark.parametrize("lead", [(), (1,), (2, 3), (2, 1, 4)])
def test_leading_dimensions_pass_through(lead: tuple[int, ...]) -> None:
    layer = layer_of("lstm")
    x = torch.rand(*lead, 7, 3)
    y, state = layer(x)
    assert y.shape == (*lead, 7, 8)
    assert [h.shape for h in state] == [(*lead, 8)] * 2
    flat, _ = layer(x.reshape(-1, 7, 3))
    assert_close(y.reshape(-1, 7, 8), flat, torch.float32, "y")
    assert layer(x, state)[0].shape == y.shape
    row, again = layer.step(x[..., 0, :], state)
    assert row.shape == again[0].shape == (*lead, 8)


def test_params_start_as_the_cell_says() -> None:
    torch.manual_seed(0)
    layer = compiled("lru").layer(3, 4000)
    assert -6.9 <= layer.nu_log.min() < -6.8
    assert -2.35 < layer.nu_log.max() <= -2.25
    beta = compiled("lif").layer(3, 10).beta
    assert torch.equal(beta, torch.full((10,), 0.9))
    R = compiled("block_elman").layer(3, 4000).R
    assert R.shape == (1000, 4, 4)
    assert 0.49 < R.abs().max() <= 0.5
    tau = compiled("clocked").layer(3, 10).tau
    assert tau.shape == (1,)


# --- a module among modules ------------------------------------------------------------------


def test_the_state_dict_goes_round_and_is_strict_about_names() -> None:
    a, b = layer_of("clocked"), layer_of("clocked")
    assert set(a.state_dict()) == {"projection.weight", "projection.bias", "a", "tau"}
    with torch.no_grad():
        for p in a.parameters():
            p.add_(1)
    b.load_state_dict(a.state_dict())
    x, dt = torch.rand(2, 7, 3), torch.rand(2, 7)
    assert torch.equal(a(x, dt=dt)[0], b(x, dt=dt)[0])
    wrong = {f"{k}_" if k == "tau" else k: v for k, v in a.state_dict().items()}
    with pytest.raises(RuntimeError, match=r"Missing key.*tau(.|\n)*Unexpected key.*tau_"):
        b.load_state_dict(wrong)


def test_without_bias_there_is_none() -> None:
    assert set(layer_of("elman", bias=False).state_dict()) == {"projection.weight", "a"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_layer_moves_between_dtypes(dtype: torch.dtype) -> None:
    layer = layer_of("para_gru")
    x = torch.rand(2, 7, 3)
    expected, _ = layer(x)
    y, h = layer.to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    assert h.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_close(y, expected, torch.float32 if dtype == torch.float64 else dtype, "y")
    y.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == dtype for p in layer.parameters())


def test_a_layer_may_be_made_in_a_dtype_and_on_meta() -> None:
    assert layer_of("lstm", dtype=torch.float64).ri.dtype == torch.float64
    assert layer_of("lstm", device="meta").ri.is_meta


def saved_and_loaded(layer: CellLayer) -> Any:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved_and_loaded]
)
def test_a_copy_computes_the_same_with_weights_of_its_own(copied: Any) -> None:
    layer = layer_of("lstm")
    x = torch.rand(2, 7, 3)
    before, _ = layer(x)
    other = copied(layer)
    assert torch.equal(other(x)[0], before)
    with torch.no_grad():
        other.ri.add_(1)
        other.projection.weight.add_(1)
    assert not torch.equal(other(x)[0], before)
    assert torch.equal(layer(x)[0], before)


def test_a_pickled_layer_runs_in_a_process_that_never_saw_its_cell(tmp_path: Path) -> None:
    layer = layer_of("clocked")
    x, dt = torch.rand(2, 7, 3), torch.rand(2, 7)
    y, _ = layer(x, dt=dt)
    torch.save((layer, x, dt, y.detach()), tmp_path / "layer.pt")
    code = (
        "import torch; layer, x, dt, y = torch.load('layer.pt', weights_only=False); "
        "assert torch.equal(layer(x, dt=dt)[0], y)"
    )
    python(code, tmp_path)


def test_training_and_evaluation_compute_the_same() -> None:
    layer = layer_of("lstm")
    x = torch.rand(2, 40, 3)
    trained, _ = layer.train()(x)
    evaluated, _ = layer.eval()(x)
    with torch.no_grad():
        bare, _ = layer(x)
    assert torch.equal(trained, evaluated)
    assert torch.equal(trained, bare)


def test_its_repr_names_the_cell_and_the_sizes() -> None:
    assert "CellLayer(\n  para_gru, 3, 8\n" in repr(layer_of("para_gru"))


class Stack(nn.Module):
    """Two layers and a head that say whether the first token came again at the end."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 16)
        self.first = compiled(name).layer(16, 16)
        self.second = compiled(name).layer(16, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        y, _ = self.first(self.embed(tokens))
        y, _ = self.second(y)
        logits: Tensor = self.head(y[:, -1])
        return logits


@pytest.mark.parametrize("name", ["para_gru", "lstm", "slstm", "block_elman", "min_gru"])
def test_stacked_layers_learn_to_recall_the_first_token(name: str) -> None:
    torch.manual_seed(1)
    model = Stack(name)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        tokens = torch.randint(4, (64, 6))
        loss = nn.functional.cross_entropy(model(tokens), tokens[:, 0])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[:5]) / 5 > 1.2  # log 4 = 1.39: it knows nothing
    assert sum(losses[-5:]) / 5 < 0.5 * sum(losses[:5]) / 5


# --- the generated module --------------------------------------------------------------------


def generated(name: str, folder: Path) -> ModuleType:
    write.write(compiled(name).files, folder / name)
    spec = importlib.util.spec_from_file_location(name, folder / name / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["para_gru", "slstm", "pair"])
def test_a_generated_module_computes_what_the_compiled_cell_does(name: str, tmp_path: Path) -> None:
    module = generated(name, tmp_path)
    class_name, function_name = module.__all__
    assert function_name == name
    cell = compiled(name).stages.cell
    arguments = {i.name: torch.rand(2, 7, 8) for i in cell.inputs}
    arguments |= {p.name: torch.rand(8) for p in cell.params}
    function = getattr(module, name)
    by_name = function(**arguments, return_state=True)
    by_place = function(*arguments.values(), return_state=True)
    expected = compiled(name)(**arguments, return_state=True)
    for part in range(2):
        for a, b, e in zip(
            listed(by_name[part]), listed(by_place[part]), listed(expected[part]), strict=True
        ):
            assert torch.equal(a, e)
            assert torch.equal(b, e)
    ours, theirs = getattr(module, class_name)(3, 8), layer_of(name)
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(2, 7, 3)
    for a, e in zip(listed(ours(x)[0]), listed(theirs(x)[0]), strict=True):
        assert torch.equal(a, e)
    start = tuple(torch.rand(2, 8) for _ in cell.states)
    h0 = start if len(start) > 1 else start[0]
    for a, e in zip(
        listed(function(**arguments, h0=h0)),
        listed(compiled(name)(**arguments, h0=h0)),
        strict=True,
    ):
        assert torch.equal(a, e)


IN_A_FRESH_PROCESS = """
import sys, torch
from made.para_gru import ParaGRU, para_gru
layer = ParaGRU(input_size=3, hidden_size=8)
y, h = layer(torch.rand(2, 7, 3))
y.sum().backward()
assert layer.az.grad.any()
heavy = [name for name in ("sympy", "jinja2", "cupy", "triton") if name in sys.modules]
assert not heavy, heavy
"""


def python(code: str, folder: Path, **environment: str) -> None:
    path = os.pathsep.join([str(ROOT), str(folder)])
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


def test_a_generated_module_needs_neither_the_compiler_of_cells_nor_sympy(tmp_path: Path) -> None:
    write.write(compiled("para_gru").files, tmp_path / "made" / "para_gru")
    python(IN_A_FRESH_PROCESS, tmp_path)


def test_with_a_warm_cache_no_cpp_compiler_is_needed(tmp_path: Path) -> None:
    write.write(compiled("para_gru").files, tmp_path / "made" / "para_gru")
    python(IN_A_FRESH_PROCESS, tmp_path)  # warms it
    python(IN_A_FRESH_PROCESS, tmp_path, PATH="")


def test_a_generated_module_imports_without_building(tmp_path: Path) -> None:
    write.write(compiled("para_gru").files, tmp_path / "made" / "para_gru")
    cache = tmp_path / "cache"
    python("import made.para_gru", tmp_path, PATH="", RNNCC_CACHE_DIR=str(cache))
    assert not cache.exists()


def test_a_generated_folder_that_lacks_a_file_says_how_to_mend_it(tmp_path: Path) -> None:
    folder = tmp_path / "para_gru"
    write.write(compiled("para_gru").files, folder)
    (folder / "kernel.cpp").unlink()
    with pytest.raises(LoadError, match=r"can't be read(.|\n)*Fix: write it again with rnncc"):
        Kernel.read(folder)


def test_a_generated_folder_of_another_version_says_how_to_mend_it(tmp_path: Path) -> None:
    folder = tmp_path / "para_gru"
    write.write(compiled("para_gru").files, folder)
    (folder / "cell.json").write_text('{"name": "para_gru", "novelty": 1}')
    with pytest.raises(LoadError, match=r"can't be read(.|\n)*Fix: write it again with rnncc"):
        Kernel.read(folder)
