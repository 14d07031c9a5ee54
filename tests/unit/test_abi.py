"""ABI: one list, from which the header, the packer and the version of generated folders follow."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from rnncc.codegen import args_header
from rnncc.errors import LoadError
from rnncc.ir import abi
from rnncc.ir.abi import ABI, ARGS, ENUMS, MEMBERS, STATUS, STRUCTS, VIEW, Solver, Struct
from rnncc.ir.choices import SOLVERS, Choices
from rnncc.runtime.args import NUMBERS, Packer, _numbers, layout_of, tensors_of
from rnncc.runtime.backend import backend_of
from rnncc.runtime.call import Call, plan_call
from rnncc.runtime.kernel import Kernel
from tests.support.golden import ARGS_HEADER, GENERATED
from tests.support.runs import compiled, random_call


def test_the_header_follows_from_the_list() -> None:

    assert ARGS_HEADER.read_text(encoding="utf-8") == args_header.args_header(), "Fix: make golden"


def test_every_member_is_one_word_and_named_once() -> None:
    for listed in STRUCTS.values():
        names = [field.name for field in listed.fields]
        assert len(names) == len({*names})
    sizes = {"int64_t", "double", "Parallel", "View", *(enum.__name__ for enum in ENUMS)}
    assert {f.type for f in ARGS.fields if not f.type.endswith("*")} <= sizes


def test_the_version_changes_with_everything_that_compiled_code_depends_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert abi._version() == ABI
    first, *rest = VIEW.fields
    for changed, same in (
        (dataclasses.replace(first, meaning="other words"), True),
        (dataclasses.replace(first, type="real*"), False),
        (dataclasses.replace(first, name="other"), False),
    ):
        monkeypatch.setitem(STRUCTS, "View", Struct("View", VIEW.meaning, {"": (changed, *rest)}))
        assert (abi._version() == ABI) == same
    monkeypatch.undo()
    monkeypatch.setattr(abi, "DRIVER", abi.DRIVER + 1)
    assert abi._version() != ABI


def test_a_folder_of_another_version_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "elman"
    shutil.copytree(GENERATED / "elman", folder)
    for abi_found in ("0123456789ab", 3):
        spec = json.loads((GENERATED / "elman" / "cell.json").read_text(encoding="utf-8"))
        (folder / "cell.json").write_text(json.dumps({**spec, "abi": abi_found}), encoding="utf-8")
        message = rf"expected '{ABI}': another version of rnncc wrote it[\s\S]*Fix: regenerate it"
        with pytest.raises(LoadError, match=message):
            Kernel.read(folder)


OTHER_FIELDS = {
    "a field too many": ({"novelty": 1}, "novelty: Extra inputs are not permitted, got 1"),
    "a field of another type": ({"warps": "x"}, "warps: Input should be a valid integer, .*'x'"),
    "a field within one": ({"states": [{"start": 0.0}]}, r"states\.0\.name: Field required"),
}


@pytest.mark.parametrize(("changed", "message"), OTHER_FIELDS.values(), ids=[*OTHER_FIELDS])
def test_a_record_that_does_not_fit_is_refused_in_one_line(
    changed: dict[str, object], message: str, tmp_path: Path
) -> None:
    text = compiled("elman").files["cell.json"]
    refused(tmp_path, json.dumps(json.loads(text) | changed), message)


def test_a_record_that_is_not_json_is_refused_in_one_line(tmp_path: Path) -> None:
    refused(tmp_path, "{", "Expecting property name")
    refused(tmp_path, "[]", f"abi: got None, expected '{ABI}'")


def refused(folder: Path, record: str, message: str) -> None:
    (folder / "cell.json").write_text(record, encoding="utf-8")
    whole = rf"the generated folder \S+ can't be read: {message}.*\.\nFix: regenerate it with .*"
    with pytest.raises(LoadError) as refusal:
        Kernel.read(folder)
    assert re.fullmatch(whole, str(refusal.value))
    assert "http" not in str(refusal.value)


@pytest.mark.parametrize("name", ["elman", "block_elman", "lru"])
def test_the_driver_finds_in_a_cell_what_the_list_says(name: str) -> None:
    text = compiled(name).files["cell.h"]
    bodies = dict(re.findall(r"^struct (\w+)[^{]*\{\n(.*?)^\};", text, re.DOTALL | re.MULTILINE))
    constants = re.findall(r"static constexpr (\w+ \w+(?:\[\])?) =", bodies["Cell"])
    functions = {n: re.findall(r" void (\w+)\(", bodies[n]) for n in ("Lane", "Lanes")}
    assert {"Cell": constants, **functions} == {n: [*m] for n, m in MEMBERS.items()}


def test_solvers_have_one_numbering() -> None:
    assert [SOLVERS[solver].upper() for solver in Solver] == [solver.name for solver in Solver]


def test_the_packer_notes_each_tensor_and_leaves_the_rest_null() -> None:
    call = lru_call()
    packer, places = Packer(call, call.plan.forward), layout_of(call.kernel.spec)[0].offsets
    inputs, params = len(call.inputs), len(call.params)
    before = packer.words[:]
    dy = torch.zeros(2, 5, 4).transpose(0, 1)
    packer.views("dy", [None, dy])
    packer.pointers("h_last", [None])
    packer.space({"param_sums": 8, "shared_sums": 100, "begins": 8})
    view = places["dy"] + 4
    assert [*packer.words[view : view + 4]] == [0, *dy.stride()]
    assert sum(a != b for a, b in zip(before, packer.words, strict=True)) == 3
    prepared = packer.prepared(lambda words: None, on_host=False)
    assert len(prepared.places) == inputs + params + 1
    assert prepared.places[-1] == view
    pieces = {"param_sums": 0, "shared_sums": 64, "begins": 192}
    assert prepared.pieces == tuple((places[name], at) for name, at in pieces.items())
    assert prepared.space == 256


def test_a_little_scratch_memory_lies_behind_args() -> None:
    call, seen = lru_call(), []
    packer = Packer(call, call.plan.forward)
    packer.space({"begins": 100})
    prepared, size = packer.prepared(seen.append, on_host=True), len(packer.words)
    prepared.run(tensors_of(call))
    (words,) = seen
    assert (prepared.space, len(words)) == (0, size + 128 // 8)
    assert words[packer.layout.offsets["begins"]] == words.buffer_info()[0] + 8 * size


def test_a_run_fills_addresses_in_and_never_changes_what_was_prepared() -> None:
    call, seen = lru_call(), []
    packer = Packer(call, call.plan.forward)
    prepared = packer.prepared(seen.append, on_host=True)
    tensors, places = tensors_of(call), packer.layout.offsets
    prepared.run(tensors)
    (words,) = seen
    inputs = [words[places["x"] + 4 * k] for k in range(len(call.inputs))]
    params = [words[places["params"] + k] for k in range(len(call.params))]
    assert inputs + params == [tensor.data_ptr() for tensor in tensors]
    assert not any(prepared.words[place] for place in prepared.places)
    assert words is not prepared.words


def test_a_member_that_is_not_listed_is_not_packed() -> None:
    call = lru_call()
    with pytest.raises(KeyError):
        Packer(call, call.plan.forward).number("odd", 1)


def lru_call(**options: Any) -> Call:
    c = compiled("lru")
    arguments = random_call("lru", (2, 5, 4), torch.float32).arguments
    inputs, params = ([arguments[a.name] for a in part] for part in (c.spec.inputs, c.spec.params))
    backend = backend_of(torch.device("cpu"))
    return plan_call(backend, c.kernel, Choices(**options), inputs, False, params, None)


def test_every_call_gives_the_numbers_that_args_begins_with() -> None:
    call = lru_call(solver="segmented", segment=2, tol=0.25)
    numbers = _numbers(call, call.plan.forward)
    assert set(numbers) == {field.name for field in NUMBERS}
    layout, _ = layout_of(call.kernel.spec)
    words = Packer(call, call.plan.forward).words
    for field in NUMBERS:
        word = words[layout.offsets[field.name]]
        kind = "d" if field.type == "double" else "q"
        (found,) = struct.unpack(kind, struct.pack("q", word))
        assert found == numbers[field.name], field.name
    assert numbers["tolerance"] == 0.25


def test_status_has_as_many_numbers_as_its_struct() -> None:
    fields = [field.name for field in STATUS.fields]
    assert fields == "sweeps mismatch converged sequential_from solver segment".split()
