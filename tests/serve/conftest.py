"""Trained models, made once, as the platform's training leaves them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from helpers_jobs import RecordedJob
from helpers_tables import diabetes, digits
from meuse.core.nouns import Splits
from meuse.evaluate.metrics import for_task
from meuse.train.run import fit
from meuse.train.spec import TrainSpec


@dataclass(frozen=True, slots=True)
class Trained:
    """The two artifacts of one version, and real rows."""

    onnx: bytes
    safetensors: bytes
    splits: Splits


def _train(folder: Path, splits: Splits) -> Trained:
    spec = TrainSpec.from_dict({"model_name": "m", "data": "d", "epochs": 2})
    done = fit(RecordedJob(folder / "job"), splits, spec, for_task(splits.task))
    onnx, safetensors = (path.read_bytes() for path in done.files)
    return Trained(onnx, safetensors, splits)


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("digits")
    return _train(folder, digits(folder, 0))


@pytest.fixture(scope="session")
def regressor(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("diabetes")
    return _train(folder, diabetes(folder, 0))
