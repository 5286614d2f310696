"""Small trained models as graphs, and what methods are given of their data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from helpers_arrays import digit_images
from helpers_graphs import run
from helpers_jobs import RecordedJob
from meuse.compress.artifact import Artifact
from meuse.compress.material import Material
from meuse.evaluate.metrics import classification
from meuse.train import export, loop, recipes
from meuse.train.answers import Answers
from meuse.train.prepare.steps import Image, Preparation


@dataclass(frozen=True)
class Made:
    """A network, its graph, and its data."""

    network: torch.nn.Module
    artifact: Artifact
    material: Material

    def answers(self, artifact: Artifact, rows: int | None = None) -> list[np.ndarray]:
        given = {n: v[:rows] for n, v in self.material.validation_rows.items()}
        return run(artifact, given)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A small residual network on digits of 16 x 16 pixels."""
    train, validation = digit_images()
    recipe = recipes.find("cnn")
    torch.manual_seed(0)
    network = recipe.builder()((16, 16, 1), 10, recipe.configure({"widths": [8, 16]}))
    options = recipe.options({"epochs": 4, "learning_rate": 0.1})
    job = RecordedJob(tmp_path_factory.mktemp("images"))
    loop.run(job, network, train, validation, "classification", options, classification, "x")
    preparation = Preparation((("image", "image"),), image=Image("image", 16, 16, 1))
    answers = Answers("classification", 10)
    whole = export.assemble(preparation, export.network_graph(network, train.x[:2]), answers)
    material = Material(
        job=job,
        rows={"image": train.x[:256]},
        validation_rows={"image": validation.x},
        validation_y=validation.y,
        task="classification",
        metric=classification,
        seed=0,
        digest="images",
        train=train,
        validation=validation,
        outputs=10,
        preparation=preparation,
        answers=answers,
        loop=options,
    )
    return Made(network, Artifact("onnx", whole.SerializeToString()), material)
