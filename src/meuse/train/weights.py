"""Weights as safetensors, and the network that they belong to.

The file's metadata says how to build the network and how raw rows reach it: recipe, config,
preparation, classes. So it is enough by itself to serve, and holds no code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file
from torch import Tensor, nn

from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.fields import choice, known, real
from meuse.core.nouns import Signature
from meuse.train import recipes, surgery
from meuse.train.answers import Answers
from meuse.train.encoder import Encoder
from meuse.train.prepare.apply import Preparer
from meuse.train.prepare.graph import inputs_of as inputs_of_model
from meuse.train.prepare.steps import Preparation
from meuse.train.signature import outputs_for

KEY = "meuse.model"
MAX_CLASSES = 1_000_000
_ALWAYS = ("recipe", "config", "preparation", "task", "classes", "target")
TASKS = ("classification", "multilabel", "regression")

Prepare = Callable[[dict[str, NDArray[Any]]], NDArray[Any]]


class Answering(nn.Module):
    """A network whose scores are read as callers get them (`train.answers`)."""

    def __init__(self, network: nn.Module, answers: Answers) -> None:
        super().__init__()
        self.network = network
        self.answers = answers

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        scores = self.network(features)
        if self.answers.task == "regression":
            return (scores.squeeze(1) * self.answers.std + self.answers.mean,)
        if self.answers.task == "multilabel":
            return (scores > 0).long(), scores.sigmoid()
        return scores.argmax(dim=1), scores.softmax(dim=1)


def save(
    network: nn.Module,
    recipe: str,
    config: Mapping[str, Any],
    preparation: Preparation,
    answers: Answers,
    classes: tuple[str | int, ...] | None,
    path: Path,
    encoder: Encoder | None = None,
) -> Path:
    """Write all tensors of `network`, and what `build` needs to know: what was done to its
    shapes since it was built (`train.surgery`) too."""
    described: dict[str, Any] = {
        "recipe": recipe,
        "config": dict(config),
        "preparation": preparation.to_dict(),
        "task": answers.task,
        "classes": None if classes is None else list(classes),
        "target": [answers.mean, answers.std],
    }
    if edits := surgery.edits_of(network):
        described["edits"] = edits
    if encoder is not None:
        described["encoder"] = msgspec.to_builtins(encoder.architecture)
    tensors = {name: t.contiguous() for name, t in network.state_dict().items()}
    tensors = {f"network.{name}": tensor for name, tensor in tensors.items()}
    save_file(tensors, path, {KEY: json.dumps(described)})
    return path


@dataclass(frozen=True, slots=True)
class Described:
    """A network, and how raw rows reach it and its scores are read. Its weights are unset until
    they are loaded."""

    network: nn.Module
    recipe: str
    config: Mapping[str, Any]
    preparation: Preparation
    answers: Answers
    classes: tuple[str | int, ...] | None
    encoder: Encoder | None = None

    @property
    def signature(self) -> Signature:
        outputs = outputs_for(self.answers.task, self.answers.outputs)
        return Signature(inputs_of_model(self.preparation), outputs, self.classes)


def build(described: Mapping[str, Any]) -> tuple[nn.Module, Signature, Prepare]:
    """What `save` described: the network, its weights unset; its signature; its preparation.

    The network takes features and gives what the signature's outputs say. Raises
    `invalid_field` for a description that no recipe fits.
    """
    found = describe(described)
    with torch.device("cpu"):
        preparer = Preparer(found.preparation)
    return Answering(found.network, found.answers), found.signature, preparer.run


def describe(described: Mapping[str, Any]) -> Described:
    """What `save` described. Raises `invalid_field` for a description that no recipe fits."""
    known(described, (*_ALWAYS, "encoder", "edits"))
    recipe = recipes.find(described.get("recipe"))
    config = recipe.configure(described.get("config"))
    task = choice("task", described.get("task"), TASKS)
    classes = _classes(described.get("classes"), task)
    try:
        preparation = Preparation.from_dict(described.get("preparation") or {})
    except msgspec.ValidationError as error:
        raise invalid("preparation", f"not a preparation: {error}") from None
    mean, std = _target(described.get("target"))
    answers = Answers(task, 1 if classes is None else len(classes), mean, std)
    given = _given(described, recipe.needs_for(config))
    network = recipe.builder()(preparation.shape, answers.outputs, config, **given)
    surgery.apply(network, described.get("edits") or [])
    told = described.get("config") or {}
    return Described(
        network, recipe.name, told, preparation, answers, classes, given.get("encoder")
    )


def load(model: bytes) -> Described:
    """The network of a file that `save` wrote, with its weights. Raises `invalid_data`."""
    with torch.device("meta"):
        found = describe(description(model))
    tensors = load_tensors(model)
    own = {name.removeprefix("network."): tensor.clone() for name, tensor in tensors.items()}
    try:
        found.network.load_state_dict(own, assign=True)
    except RuntimeError as error:
        raise MeuseError(
            Code.INVALID_DATA, f"the weights do not fit their recipe: {error}", field="model"
        ) from None
    return found


def description(model: bytes) -> dict[str, Any]:
    """What the header of a file of ours says of it. Raises `invalid_data`."""
    size = int.from_bytes(model[:8], "little")
    try:
        found = json.loads(json.loads(model[8 : 8 + size])["__metadata__"][KEY])
    except (ValueError, KeyError, TypeError):
        found = None
    if not isinstance(found, dict):
        raise MeuseError(Code.INVALID_DATA, "not a file of weights", field="model")
    return found


def _given(described: Mapping[str, Any], needs: tuple[str, ...]) -> dict[str, Any]:
    if "encoder" not in needs:
        return {}
    try:
        return {"encoder": Encoder.of(described.get("encoder"))}
    except msgspec.ValidationError as error:
        raise invalid("encoder", f"not an encoder's architecture: {error}") from None


def _target(given: Any) -> tuple[float, float]:
    if not isinstance(given, list) or len(given) != 2:
        raise invalid("target", "target is a list of a mean and a deviation")
    mean, std = (real("target", value, "Use a number.") for value in given)
    return mean, std


def _classes(given: Any, task: str) -> tuple[str | int, ...] | None:
    if task == "regression" and given is None:
        return None
    if (
        not isinstance(given, list)
        or not 1 + (task != "multilabel") <= len(given) <= MAX_CLASSES
        or not all(type(label) in (str, int) for label in given)
    ):
        raise invalid("classes", "classes is a list of at least two labels, or null")
    return tuple(given)
