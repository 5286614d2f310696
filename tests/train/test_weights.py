"""Weights as safetensors: enough by themselves to build the network again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from meuse.core.errors import Code, MeuseError
from meuse.train import weights
from meuse.train.recipes import RECIPES, Standardised, served
from meuse.train.spec import RECIPES as NAMES
from meuse.train.spec import check_config


@pytest.mark.parametrize("recipe", NAMES)
@pytest.mark.parametrize("classes", [None, ("a", "b", "c"), (0, 1)])
def test_every_recipe_is_built_again(
    recipe: str, classes: tuple[str | int, ...] | None, tmp_path: Path
) -> None:
    """From the description alone comes a network that takes the file's tensors and answers
    exactly as the one that was saved."""
    config = check_config(recipe, {})
    scale = (torch.tensor(3.0), torch.tensor(2.0)) if classes is None else None
    body = RECIPES[recipe](5, len(classes or "1"), config)
    model = Standardised(body, torch.arange(5.0), torch.full((5,), 2.0), scale).eval()
    path = weights.save(model, recipe, config, classes, tmp_path / "w.safetensors")
    said = {"recipe": recipe, "config": config, "features": 5}
    network, signature = weights.build(said | {"classes": list(classes) if classes else None})
    network.load_state_dict(load_file(path))
    rows = torch.randn(4, 5)
    with torch.no_grad():
        wanted, got = served(model)(rows), network.eval()(rows)
    if classes is None:
        wanted, got = (wanted,), (got,)
    assert all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True))
    assert [len(o.shape) for o in signature.outputs] == [t.ndim for t in got]
    assert signature.classes == classes


def test_a_description_that_no_recipe_fits_is_refused() -> None:
    """By the field at fault; the torch engine's tests have the whole list."""
    with pytest.raises(MeuseError) as caught:
        weights.build({"recipe": "mlp", "config": {"hidden": []}, "features": 5, "classes": None})
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "config.hidden")


def test_building_loads_no_exporter() -> None:
    """A replica needs torch for this, and neither onnx nor ONNX Runtime."""
    code = (
        "import sys, meuse.train.weights; print(sorted({'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
