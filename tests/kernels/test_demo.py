"""The demo: every part of it works, and the model learns."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import torch

from tests.support.runs import compiled

ROOT = Path(__file__).parents[2]


def test_the_quick_demo_compiles_agrees_and_learns(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = subprocess.run(
        [
            sys.executable, str(ROOT / "examples" / "train_bytes.py"), "--quick", "--threads", "1",
            "--out", str(tmp_path / "out"), "--json", str(file),
        ],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    for line in (
        r"compiled +cells/para_gru.py",
        r"diagonal: the Jacobian over 3 channels",
        r"the emitted step +\S+/para_gru/cell.h:\d+-\d+",
        r"RNNCC_FN void para_gru_step\(",
        r"gradient of h0 +largest error",
        r"held out, before +8\.000 bits per byte",
        r"held out, after +[\d.]+ bits per byte",
        r"def ",
        r"plain loop +[\d.]+ ms, loss",
        r"ratio +[\d.]+;",
    ):
        assert re.search(line, done.stdout), f"{line}\n{done.stdout}"
    figures = json.loads(file.read_text())
    assert figures["bits_per_byte"]["after"] < figures["bits_per_byte"]["before"] - 2
    assert abs(figures["step"]["loss"]["fused"] - figures["step"]["loss"]["plain loop"]) < 1e-4
    assert (tmp_path / "out" / "para_gru" / "kernel.cpp").is_file()


def test_the_writer_draws_by_the_logits_of_the_models_steps() -> None:
    example, width = runpy.run_path(str(ROOT / "examples" / "byte_model.py")), 16
    torch.manual_seed(0)
    model = example["ByteModel"](width, 2, compiled("para_gru").layer)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    text, noise, states = b"def f(x):", torch.randn(256), None
    with torch.inference_mode():
        writer = example["Writer"](model, heat=0.5)
        for byte in text:
            x = writer.step(byte)
            logits, states = model.step(torch.tensor([byte]), states)
            found = torch.addmm(writer.bias, x, writer.weight)
            torch.testing.assert_close(found, logits / 0.5)
        drawn = writer.draw(x, noise + writer.bias.unsqueeze(0))
    assert drawn == (logits / 0.5 + noise).argmax()
    said = [
        example["write_on"](model, b"def ", 20, torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert said[0] == said[1] != said[2]
    assert [len(s) for s in said] == [24] * 3
