"""Gradient-boosted trees by LightGBM: a recipe with a training of its own.

Deterministic: the same arrays, config and number of threads give the same model, byte for
byte. A killed job starts from its first tree, which gives that same model; continued training
does not, for LightGBM begins its random streams anew and adds up the scores in another order.

Knows arrays and the job; knows no dataset, no preparation.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from meuse.core.errors import Code, MeuseError
from meuse.core.ports import JobContext
from meuse.train.arrays import TrainArrays
from meuse.train.recipes.trees import Gbdt
from meuse.train.trees import ML_OPSET, OPSET, scores_graph

_REPORT_S = 0.2
_SMALL = 2_000_000
"""Cells below which more threads cost more than they bring."""


@dataclass(frozen=True, slots=True)
class Boosted:
    """`texts` are LightGBM's models: one, or one per label. Scores [n, outputs] are logits or
    values; of two classes the first one's logit is 0."""

    texts: tuple[str, ...]
    task: str
    outputs: int
    figures: dict[str, float]

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        import lightgbm

        x = np.asarray(features, np.float64)
        raw = [
            np.asarray(lightgbm.Booster(model_str=text).predict(x, raw_score=True))
            for text in self.texts
        ]
        scores = np.stack(raw, axis=1) if raw[0].ndim == 1 else raw[0]
        if self._is_binary:
            scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
        return scores.astype(np.float32)

    def graph(self) -> onnx.ModelProto:
        """`features` → `scores`."""
        if self._is_binary:
            return _with_zero(scores_graph(self.texts[0]))
        return _joined([scores_graph(text) for text in self.texts])

    def save(self, path: Path) -> Path:
        """LightGBM's own text, models one after the other."""
        path.write_text("\n".join(self.texts))
        return path

    @property
    def _is_binary(self) -> bool:
        return self.task == "classification" and self.outputs == 2


def fit(job: JobContext, arrays: TrainArrays, config: Gbdt) -> Boosted:
    """Train; the iteration that is best on the validation rows is kept.

    Raises `invalid_data` (field `data`) when no tree finds anything to split.
    """
    threads = threads_for(arrays)
    job.log(
        f"gbdt with at most {config.trees} trees of {config.leaves} leaves on {threads} threads; "
        f"{len(arrays.x)} rows to train on, {len(arrays.validation_x)} to validate"
    )
    parts = arrays.outputs if arrays.task == "multilabel" else 1
    texts, figures = [], {}
    for part in range(parts):
        y, validation_y = arrays.y, arrays.validation_y
        if arrays.task == "multilabel":
            y, validation_y = y[:, part].copy(), validation_y[:, part].copy()
        report = _Report(job, config.trees, part, parts)
        text, found = _boost(arrays, y, validation_y, config, threads, report)
        texts.append(text)
        figures.update(found if parts == 1 else {f"{k}_{part}": v for k, v in found.items()})
    return Boosted(tuple(texts), arrays.task, arrays.outputs, figures)


def threads_for(arrays: TrainArrays) -> int:
    """One for small data; never more than the machine has, or OMP_NUM_THREADS allows."""
    if arrays.x.size < _SMALL:
        return 1
    allowed = int(os.environ.get("OMP_NUM_THREADS") or 0)
    return allowed or len(os.sched_getaffinity(0))


def _boost(
    arrays: TrainArrays,
    y: NDArray[Any],
    validation_y: NDArray[Any],
    config: Gbdt,
    threads: int,
    report: Callable[[Any], None],
) -> tuple[str, dict[str, float]]:
    """(model text, {trees, validation loss})."""
    import lightgbm

    settings = _settings(arrays, config, threads)
    weights = _weights(y, config) if arrays.task != "regression" else None
    x = np.ascontiguousarray(arrays.x, np.float32)
    train = lightgbm.Dataset(x, np.asarray(y, np.float32), weight=weights, params=settings)
    valid = lightgbm.Dataset(
        np.ascontiguousarray(arrays.validation_x, np.float32),
        np.asarray(validation_y, np.float32),
        reference=train,
    )
    callbacks: list[Any] = [report]
    if config.patience:
        callbacks.append(lightgbm.early_stopping(config.patience, verbose=False))
    booster = lightgbm.train(
        settings, train, config.trees, valid_sets=[valid], valid_names=["validation"],
        callbacks=callbacks,
    )  # fmt: skip
    if booster.num_trees() == 0 or not _splits(booster):
        raise MeuseError(
            Code.INVALID_DATA,
            "no tree finds anything to split by: no feature says anything of the target",
            field="data",
            hint=f"Or there are too few rows for leaves of {config.leaf_rows}: lower leaf_rows.",
        )
    best = booster.best_iteration or booster.current_iteration()
    found = {"trees": float(best)}
    for losses in booster.best_score.get("validation", {}).items():
        found[f"validation_{losses[0]}"] = float(losses[1])
    return booster.model_to_string(num_iteration=best), found


def _splits(booster: Any) -> bool:
    return bool(np.asarray(booster.feature_importance()).any())


def _settings(arrays: TrainArrays, config: Gbdt, threads: int) -> dict[str, Any]:
    losses = {"l2": "regression", "l1": "regression_l1"}
    objective = losses.get(config.loss, config.loss)
    if arrays.task == "multilabel" or (arrays.task == "classification" and arrays.outputs == 2):
        objective = "binary"
    elif arrays.task == "classification":
        objective = "multiclass"
    settings: dict[str, Any] = {
        "objective": objective,
        "learning_rate": config.rate,
        "num_leaves": config.leaves,
        "max_depth": config.depth or -1,
        "min_data_in_leaf": config.leaf_rows,
        "bagging_fraction": config.row_share,
        "bagging_freq": 1 if config.row_share < 1 else 0,
        "feature_fraction": config.feature_share,
        "lambda_l1": config.l1,
        "lambda_l2": config.l2,
        "max_bin": config.bins,
        "seed": config.seed,
        "num_threads": threads,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    if objective == "multiclass":
        settings["num_class"] = arrays.outputs
    if objective == "quantile":
        settings["alpha"] = config.quantile
    return settings


def _weights(y: NDArray[Any], config: Gbdt) -> NDArray[np.float32] | None:
    if config.class_weights == "none":
        return None
    values, where, counts = np.unique(y, return_inverse=True, return_counts=True)
    each = len(y) / (len(values) * counts)
    weights: NDArray[np.float32] = each[where].astype(np.float32)
    return weights


class _Report:
    """LightGBM's callback: progress and the validation's losses, a few times a second."""

    order = 20
    before_iteration = False

    def __init__(self, job: JobContext, trees: int, part: int, parts: int) -> None:
        self._job, self._trees, self._part, self._parts = job, trees, part, parts
        self._told = 0.0

    def __call__(self, env: Any) -> None:
        done = env.iteration + 1
        if time.monotonic() - self._told < _REPORT_S and done < self._trees:
            return
        self._told = time.monotonic()
        self._job.progress((self._part + done / self._trees) / self._parts)
        results = env.evaluation_result_list
        figures = {f"validation_{name}": float(value) for _, name, value, *_ in results}
        self._job.metrics(figures, epoch=done)


def _with_zero(scores: onnx.ModelProto) -> onnx.ModelProto:
    """[n, 1] scores s → [n, 2]: (0, s), whose softmax is (1 - sigmoid(s), sigmoid(s))."""
    graph = scores.graph
    graph.node[0].output[0] = "second"
    graph.node.append(helper.make_node("Sub", ["second", "second"], ["first"]))
    graph.node.append(helper.make_node("Concat", ["first", "second"], ["scores"], axis=1))
    graph.output[0].CopyFrom(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 2]))
    return scores


def _joined(models: list[onnx.ModelProto]) -> onnx.ModelProto:
    """Scores of several models of the same features, side by side."""
    if len(models) == 1:
        return models[0]
    nodes, names = [], []
    for index, model in enumerate(models):
        node = model.graph.node[0]
        node.output[0] = f"scores_{index}"
        names.append(f"scores_{index}")
        nodes.append(node)
    nodes.append(helper.make_node("Concat", names, ["scores"], axis=1))
    output = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", len(models)])
    graph = helper.make_graph(nodes, "trees", models[0].graph.input, [output])
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
