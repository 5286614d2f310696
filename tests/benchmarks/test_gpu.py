"""benchmarks/gpu/vllm.py: where there is no GPU it says so; what it measures, with a stand-in"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fake_vllm

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "vllm.py"


def loaded() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_vllm", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu_it_stops(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--python", "x", "--checkpoint", "y"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "PATH": str(tmp_path)},  # no nvidia-smi, whatever the machine has
    )  # fmt: skip
    assert done.returncode == 1
    assert "there is no GPU here" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_it_makes_of_the_rounds() -> None:
    script = loaded()
    runs = [
        {"side": side, "streams": 4, "tokens_per_s": rate, "first_s": 0.01}
        for rates in ((90.0, 100.0), (110.0, 100.0), (190.0, 200.0))
        for side, rate in zip(("meuse", "vllm"), rates, strict=True)
    ]
    row = script.summary(4, 16, runs)
    assert row["ratio"] == pytest.approx(0.95)
    assert row["meuse"] == {"tokens_per_s": 110.0, "first_ms": 10.0}
    figures = {"rows": [row], "gpus": ["G"], "vllm": "1", "checkpoint": "c", "tokens": 9,
               "rounds": 3, "limits": "on"}  # fmt: skip
    assert "| 4 | 100 | 110 | 0.950 |" in script.page(
        {"figures": figures, "date": "d", "commit": "c"}
    )


@pytest.mark.slow
def test_both_sides_are_asked(tmp_path: Path) -> None:
    """The whole way, a stand-in in vLLM's place."""
    pytest.importorskip("transformers")
    from helpers_llama import checkpoint

    script = loaded()
    options = script.parsed(
        ["--python", str(fake_vllm.interpreter(tmp_path)),
         "--checkpoint", str(checkpoint(tmp_path / "small")),
         "--streams", "1", "4", "--rounds", "1", "--tokens", "8"]
    )  # fmt: skip
    folder = tmp_path / "run"
    folder.mkdir()
    found = script.measure(folder, options, lambda count, turn: ["pace 1 8"] * count)
    assert [row["streams"] for row in found["rows"]] == [1, 4]
    assert all(row["meuse"]["tokens_per_s"] > 0 for row in found["rows"])
