"""Keras models of texts: the preparation cuts them by the embedding's own vocabulary."""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from helpers_jobs import RecordedJob
from helpers_keras import layer, sequential
from meuse.core.nouns import Column, Examples, Frame, Splits
from meuse.evaluate.metrics import for_task
from meuse.train.run import fit
from meuse.train.spec import TrainSpec

if find_spec("keras") is None:
    pytest.skip("Keras is not installed", allow_module_level=True)


def lines() -> Splits:
    """Lines of the sources of two libraries, told apart."""
    texts, labels = [], []
    for label, package in enumerate(("numpy", "torch")):
        source = files(package).joinpath("__init__.py").read_text().split("\n")
        chosen = [line.strip() for line in source if len(line.split()) > 2][:150]
        texts += chosen
        labels += [label] * len(chosen)
    order = np.random.default_rng(0).permutation(len(texts))
    column = np.array(texts, object)[order]
    y = np.array(labels)[order]

    def part(start: int, end: int) -> Examples:
        rows = slice(start, end)
        none = np.zeros((end - start, 0), np.float32)
        frame = Frame(("line",), (), none, {"line": column[rows]})
        return Examples(frame, y[rows])

    cut, end = len(texts) * 2 // 3, len(texts)
    middle = (cut + end) // 2
    return Splits(
        part(0, cut), part(cut, middle), part(middle, end),
        features=(Column("line", "string"),), target="library", task="classification",
        classes=("numpy", "torch"),
    )  # fmt: skip


def test_texts_are_embedded(tmp_path: Path) -> None:
    """One sigmoid unit for two classes; the model that is exported takes the text itself."""
    model = sequential(
        layer("Embedding", input_dim=300, output_dim=16),
        layer("Conv1D", filters=16, kernel_size=3, activation="relu"),
        layer("GlobalMaxPooling1D"),
        layer("Dense", units=1, activation="sigmoid"),
    )
    spec = TrainSpec.from_dict({
        "model_name": "m", "data": "d", "recipe": "keras", "config": {"model": model},
        "epochs": 12, "learning_rate": 0.01, "batch_size": 16,
        "prepare": {"text": {"length": 24}},
    })  # fmt: skip
    splits = lines()
    result = fit(RecordedJob(tmp_path), splits, spec, for_task("classification"))
    assert result.metrics["test_accuracy"] >= 0.7
    session = onnxruntime.InferenceSession(result.model_path.read_bytes())
    (label,) = session.run(["label"], {"line": splits.test.frame.texts["line"]})
    assert (label == splits.test.y).mean() == pytest.approx(result.metrics["test_accuracy"])
