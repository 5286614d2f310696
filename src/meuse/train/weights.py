"""Weights as safetensors, and the network that they belong to.

The file's metadata says how to build the network: recipe, config, features, classes. So it
is enough by itself to serve, standardisation and class indices included, and holds no code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from meuse.core.errors import invalid
from meuse.core.fields import choice, integer, known
from meuse.core.nouns import Signature
from meuse.train import spec
from meuse.train.recipes import RECIPES, Standardised, served, signature_of

KEY = "meuse.model"
MAX_FEATURES = 10_000_000
MAX_CLASSES = 1_000_000


def save(
    model: Standardised,
    recipe: str,
    config: Mapping[str, Any],
    classes: tuple[str | int, ...] | None,
    path: Path,
) -> Path:
    """Write all tensors of `model`, and what `build` needs to know."""
    described = {
        "recipe": recipe,
        "config": dict(config),
        "features": int(model.mean.shape[0]),
        "classes": None if classes is None else list(classes),
    }
    tensors = {name: t.contiguous() for name, t in served(model).state_dict().items()}
    save_file(tensors, path, {KEY: json.dumps(described)})
    return path


def build(described: Mapping[str, Any]) -> tuple[nn.Module, Signature]:
    """The network that `save` described, its weights unset, and its signature.

    A classifier gives (label INT64 [n], probabilities FP32 [n, k]) for rows FP32 [n, f], a
    regressor value FP32 [n], as the ONNX export does. Raises `invalid_field` for a
    description that no recipe fits.
    """
    known(described, ("recipe", "config", "features", "classes"))
    recipe = choice("recipe", described.get("recipe"), spec.RECIPES)
    config = spec.check_config(recipe, described.get("config"))
    features = integer("features", described.get("features"), 1, MAX_FEATURES)
    classes = _classes(described.get("classes"))
    body = RECIPES[recipe](features, 1 if classes is None else len(classes), config)
    scale = None if classes is not None else (torch.zeros(()), torch.ones(()))
    model = Standardised(body, torch.zeros(features), torch.ones(features), scale)
    return served(model), signature_of(features, classes)


def _classes(given: Any) -> tuple[str | int, ...] | None:
    if given is None:
        return None
    if (
        not isinstance(given, list)
        or not 2 <= len(given) <= MAX_CLASSES
        or not all(type(label) in (str, int) for label in given)
    ):
        raise invalid("classes", "classes is a list of at least two labels, or null")
    return tuple(given)
