"""Weights as safetensors: enough by themselves to build the network again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec import to_builtins
from safetensors import safe_open
from safetensors.torch import load_file

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Column, Frame
from meuse.train import recipes, weights
from meuse.train.answers import Answers
from meuse.train.prepare.fit import fit


@pytest.mark.parametrize("recipe", ["mlp", "linear"])
@pytest.mark.parametrize("classes", [None, ("a", "b", "c"), (0, 1)])
def test_every_recipe_is_built_again(
    recipe: str, classes: tuple[str | int, ...] | None, tmp_path: Path
) -> None:
    """From the description alone comes a network that takes the file's tensors and answers
    exactly as the one that was saved."""
    found, task = recipes.find(recipe), "regression" if classes is None else "classification"
    config = found.configure({})
    answers = Answers(task, len(classes or "1"), 3.0, 2.0)
    network = found.builder()((5,), answers.outputs, config)
    raw = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    preparation = fit(frame := Frame.of_numbers(raw), [Column(n, "float") for n in frame.names])
    path = tmp_path / "w.safetensors"
    weights.save(network, recipe, to_builtins(config), preparation, answers, classes, path)
    with safe_open(path, framework="pt") as file:
        described = json.loads(file.metadata()[weights.KEY])
    again, signature, prepare = weights.build(described)
    again.load_state_dict(load_file(path))
    features = torch.from_numpy(prepare({"input": raw}))
    standardised = torch.from_numpy((raw - raw.mean(0)) / raw.std(0))
    torch.testing.assert_close(features, standardised, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        wanted = weights.Answering(network, answers).eval()(features)
        got = again.eval()(features)
    assert all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True))
    assert [len(o.shape) for o in signature.outputs] == [t.ndim for t in got]
    assert signature.classes == classes


def test_a_description_that_no_recipe_fits_is_refused() -> None:
    """By the field at fault; the torch engine's tests have the whole list."""
    with pytest.raises(MeuseError) as caught:
        weights.build({"recipe": "mlp", "config": {"hidden": []}})
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "config.hidden")


def test_building_loads_no_exporter() -> None:
    """A replica needs torch and ONNX Runtime for this, and nothing that writes ONNX by torch."""
    code = "import sys, meuse.train.weights; print('onnxscript' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
