"""One trained classifier and one regressor for all compression tests."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from helpers_jobs import RecordedJob
from helpers_tables import diabetes, digits
from meuse.compress.artifact import Artifact
from meuse.compress.pipeline import Parent
from meuse.core.nouns import Splits
from meuse.evaluate.metrics import for_task
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
