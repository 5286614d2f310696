"""Boosted trees on real data: they learn, they repeat, and their graph says the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm
import msgspec
import numpy as np
import onnxruntime
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.model_selection import train_test_split

from meuse.core.errors import MeuseError
from meuse.train.gbdt import Boosted, Gbdt, TrainArrays, fit
from meuse.train.trees import float32_thresholds, scores_graph


class Job:
    """A job context that keeps what it hears."""

    def __init__(self) -> None:
        self.fractions: list[float] = []
        self.figures: list[dict[str, float]] = []
        self.lines: list[str] = []
        self.folder = self.checkpoint = Path("unused")

    def progress(self, fraction: float) -> None:
        self.fractions.append(fraction)

    def metrics(self, figures: dict[str, float], **labels: Any) -> None:
        self.figures.append({**figures, **labels})

    def log(self, message: str, level: str = "info") -> None:
        self.lines.append(message)


def arrays(x: Any, y: Any, task: str, outputs: int) -> TrainArrays:
    x = np.asarray(x, np.float32)
    a, b, c, d = train_test_split(x, y, test_size=0.25, random_state=0)
    return TrainArrays(a, c, b, d, task, outputs)


CANCER = arrays(*load_breast_cancer(return_X_y=True), "classification", 2)
WINE = arrays(*load_wine(return_X_y=True), "classification", 3)
_X, _Y = load_diabetes(return_X_y=True)
DIABETES = arrays(_X, ((_Y - _Y.mean()) / _Y.std()).astype(np.float32), "regression", 1)
_LABELS = np.stack([_Y > 140, _X[:, 2] > 0, _X[:, 0] > 0.01], axis=1).astype(np.float32)
LABELS = arrays(_X, _LABELS, "multilabel", 3)


def scores(model: Boosted, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.graph().SerializeToString())
    return session.run(["scores"], {"features": x})[0]


@pytest.mark.parametrize(
    ("data", "config"),
    [
        (CANCER, Gbdt(trees=80)),
        (CANCER, Gbdt(trees=40, class_weights="balanced", row_share=0.7, feature_share=0.5)),
        (WINE, Gbdt(trees=60)),
        (DIABETES, Gbdt(trees=60)),
        (DIABETES, Gbdt(trees=60, loss="l1")),
        (DIABETES, Gbdt(trees=60, loss="quantile", quantile=0.9)),
        (LABELS, Gbdt(trees=30)),
    ],
    ids=["binary", "balanced", "multiclass", "l2", "l1", "quantile", "multilabel"],
)
def test_it_learns_repeats_and_exports(data: TrainArrays, config: Gbdt) -> None:
    model = fit(Job(), data, config)
    assert fit(Job(), data, config).texts == model.texts
    x = data.validation_x
    wanted = model.predict(x)
    assert wanted.shape == (len(x), data.outputs)
    assert np.abs(scores(model, x) - wanted).max() < 1e-5
    if data.task == "classification":
        assert (wanted.argmax(axis=1) == data.validation_y).mean() > 0.9
    elif data.task == "multilabel":
        assert ((wanted > 0) == data.validation_y).mean() > 0.75
    elif config.loss == "quantile":
        assert 0.75 < (data.validation_y <= wanted[:, 0]).mean() < 0.97
    else:
        assert ((wanted[:, 0] - data.validation_y) ** 2).mean() < 0.8 * data.validation_y.var()


def test_it_stops_early_and_reports() -> None:
    job = Job()
    model = fit(job, CANCER, Gbdt(trees=2000, rate=0.3, patience=10))
    assert model.figures["trees"] < 1000
    trees = lightgbm.Booster(model_str=model.texts[0]).num_trees()
    assert trees == model.figures["trees"]
    assert job.fractions == sorted(job.fractions)
    assert all("validation_binary_logloss" in figures for figures in job.figures)
    assert "at most 2000 trees" in job.lines[0]


def test_data_that_say_nothing_are_refused() -> None:
    constant = TrainArrays(
        np.ones((60, 2), np.float32), np.arange(60) % 2, np.ones((20, 2), np.float32),
        np.arange(20) % 2, "classification", 2,
    )  # fmt: skip
    with pytest.raises(MeuseError, match="anything to split by"):
        fit(Job(), constant, Gbdt(trees=5))


def test_splits_go_the_same_way_in_float32() -> None:
    """Rows on every threshold and on its two neighbours among float32."""
    model = fit(Job(), DIABETES, Gbdt(trees=20))
    text = model.texts[0]
    booster = lightgbm.Booster(model_str=text)
    rows = [DIABETES.x[:1]]
    for tree in booster.dump_model()["tree_info"]:
        stack = [tree["tree_structure"]]
        while stack:
            node = stack.pop()
            if "threshold" not in node:
                continue
            near = np.float32(node["threshold"])
            beside = [np.nextafter(near, np.float32(way)) for way in (9, -9)]
            for value in (near, *beside):
                row = DIABETES.x[:1].copy()
                row[0, node["split_feature"]] = value
                rows.append(row)
            stack += [node["left_child"], node["right_child"]]
    x = np.concatenate(rows)
    assert len(x) > 500
    assert np.abs(scores(model, x) - model.predict(x)).max() < 1e-5
    lowered = lightgbm.Booster(model_str=float32_thresholds(text))
    assert np.array_equal(lowered.predict(x.astype(float)), booster.predict(x.astype(float)))
    assert scores_graph(text).graph.output[0].name == "scores"


def test_the_config_has_a_schema() -> None:
    described = msgspec.json.schema(Gbdt)["$defs"]["Gbdt"]["properties"]
    assert described["leaves"]["description"] == "leaves of a tree"
    with pytest.raises(msgspec.ValidationError, match="loss"):
        msgspec.convert({"loss": "cubic"}, Gbdt)
