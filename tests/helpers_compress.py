"""Trained networks and what methods of compression are given, without a platform."""

from __future__ import annotations

import copy
import dataclasses
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

import helpers_arrays
from helpers_jobs import RecordedJob
from meuse.compress.material import Material
from meuse.core.ports import Paused
from meuse.evaluate.metrics import for_task
from meuse.train import loop, recipes
from meuse.train.answers import Answers
from meuse.train.prepare.steps import Image, Numbers, Preparation, Tokens


def built(recipe: str, shape: tuple[int, ...], outputs: int = 10, **config: Any) -> nn.Module:
    """An untrained network."""
    torch.manual_seed(0)
    found = recipes.find(recipe)
    network: nn.Module = found.builder()(shape, outputs, found.configure(config))
    return network


def material_of(
    folder: Path, parts: helpers_arrays.Parts, recipe: str = "mlp", **options: Any
) -> Material:
    """What methods get for a classifier of digits; raw rows are features here."""
    train, validation = parts
    task = "classification"
    return Material(
        job=RecordedJob(folder),
        train=train,
        validation=validation,
        rows={"features": train.x[:1024]},
        validation_rows={"features": validation.x},
        validation_y=validation.y,
        task=task,
        outputs=10,
        preparation=_as_it_is(train.x),
        answers=Answers(task, 10),
        loop=recipes.find(recipe).options(options),
        metric=for_task(task),
        seed=0,
        digest="parent",
    )


def _as_it_is(x: np.ndarray) -> Preparation:
    """Raw rows are features: images uint8, or columns of a table."""
    if x.ndim == 4:
        return Preparation((("image", "image"),), image=Image("image", *x.shape[1:]))
    if x.dtype == np.int64:
        tokens = Tokens("text", ("word",), x.shape[1], lowercase=False)
        return Preparation((("text", "string"),), tokens=tokens)
    names = tuple(f"p{i}" for i in range(x.shape[1]))
    zeros, ones = (0.0,) * len(names), (1.0,) * len(names)
    numbers = Numbers(names, None, None, None, None, zeros, ones)
    return Preparation(tuple((name, "number") for name in names), numbers)


@functools.cache
def _trained(recipe: str, images: bool, epochs: int, config: tuple[Any, ...]) -> nn.Module:
    train, validation = helpers_arrays.digit_images() if images else helpers_arrays.digits()
    network = built(recipe, train.x.shape[1:], **dict(config))
    options = recipes.find(recipe).options({"epochs": epochs})
    with tempfile.TemporaryDirectory() as folder:
        loop.run(
            RecordedJob(Path(folder)), network, train, validation, "classification", options,
            for_task("classification"), "base",
        )  # fmt: skip
    return network


def digits_network(
    folder: Path, recipe: str, *, epochs: int, **config: Any
) -> tuple[nn.Module, Material]:
    """A trained classifier of the digits and its material; every caller gets a copy."""
    images = recipe != "mlp"
    parts = helpers_arrays.digit_images() if images else helpers_arrays.digits()
    network = copy.deepcopy(_trained(recipe, images, epochs, tuple(config.items())))
    return network, material_of(folder, parts, recipe)


def resumed(
    material: Material, folder: Path, at: str, method: Callable[[Material], nn.Module]
) -> tuple[RecordedJob, nn.Module]:
    """The job and what `method` gives when its job is paused after the first update of the
    training that logs a line which starts with `at`, and started again."""
    job = RecordedJob(folder)
    often = msgspec.structs.replace(material.loop, checkpoint_seconds=0.0)
    broken = dataclasses.replace(material, job=job, loop=often)
    log = job.log

    def listen(message: str, level: str = "info") -> None:
        job.is_paused = job.is_paused or message.startswith(at)
        log(message, level)

    job.log = listen  # type: ignore[method-assign]
    with pytest.raises(Paused):
        method(broken)
    job.log = log  # type: ignore[method-assign]
    job.is_paused = False
    return job, method(broken)


def state(network: nn.Module) -> dict[str, np.ndarray]:
    """All tensors, copied."""
    return {name: value.numpy().copy() for name, value in network.state_dict().items()}


def same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> bool:
    """Whether two states are equal to the bit."""
    return set(found) == set(wanted) and all(
        np.array_equal(found[name], wanted[name]) for name in wanted
    )
