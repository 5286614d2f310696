"""One trained classifier, one regressor and a classifier of texts for all compression tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from helpers_jobs import RecordedJob
from helpers_tables import diabetes, digits
from meuse.compress.artifact import Artifact
from meuse.compress.pipeline import Parent
from meuse.core.nouns import Splits
from meuse.evaluate.metrics import for_task
from meuse.train import export, recipes
from meuse.train.answers import Answers
from meuse.train.prepare.steps import Preparation, Tokens
from meuse.train.run import TrainResult, fit
from meuse.train.spec import TrainSpec


@dataclass(frozen=True)
class Trained:
    splits: Splits
    result: TrainResult

    @property
    def model(self) -> bytes:
        return self.result.model_path.read_bytes()

    @property
    def parent(self) -> Parent:
        """As a compress job is given it."""
        weights = next(p for p, format in self.result.files.items() if format == "safetensors")
        return Parent(
            "digits:1",
            Artifact("onnx", self.model),
            self.result.signature,
            weights.read_bytes(),
            {"options": {"epochs": 10}},
        )


def _train(folder_factory: pytest.TempPathFactory, task: str) -> Trained:
    folder = folder_factory.mktemp(task)
    splits = digits(folder) if task == "classification" else diabetes(folder)
    spec = TrainSpec.from_dict({"model_name": "m", "data": "d", "epochs": 10})
    return Trained(splits, fit(RecordedJob(folder), splits, spec, for_task(task)))


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return _train(tmp_path_factory, "classification")


@pytest.fixture(scope="session")
def regressor(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return _train(tmp_path_factory, "regression")


@pytest.fixture(scope="session")
def texts() -> tuple[Artifact, dict[str, np.ndarray]]:
    """An untrained text classifier: a table of 512 x 64, and rows of bytes as engines take them."""
    words = [f"word{n}" for n in range(510)]
    random = np.random.default_rng(0)
    rows = np.empty(64, object)
    rows[:] = [" ".join(random.choice(words, 8)).encode() for _ in range(64)]
    recipe = recipes.find("text-classifier")
    config = recipe.configure({"vocabulary": 512, "width": 64, "depth": 1, "dropout": 0})
    torch.manual_seed(0)
    network = recipe.builder()((12,), 4, config)
    preparation = Preparation((("text", "string"),), tokens=Tokens("text", tuple(words), 12, True))
    ids = np.ones((2, 12), np.int64)
    proto = export.network_graph(network, ids)
    whole = export.assemble(preparation, proto, Answers("classification", 4))
    return Artifact("onnx", whole.SerializeToString()), {"text": rows}
