"""scikit-learn estimators, by skl2onnx. Unpickling runs whatever the file says: sandbox only."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from meuse.convert.inside import graphs
from meuse.convert.inside.columns import columns_of
from meuse.convert.inside.model import ROWS, SEED, Array, Column, Made, labels, refuse

OPSETS = {"": 18, "ai.onnx.ml": 3}
_TOKENS = r"(?u)\b\w\w+\b"


def convert(path: Path, kinds: dict[str, str]) -> Made:
    return convert_estimator(load(path), kinds)


def load(path: Path) -> Any:
    """The object in a pickle, compressed or by joblib or not."""
    import joblib
    from sklearn.exceptions import InconsistentVersionWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InconsistentVersionWarning)
        try:
            made = joblib.load(path)
        except ModuleNotFoundError as error:
            raise refuse(
                f"the pickle needs the package {error.name!r}, which is not installed here",
                "Only scikit-learn and LightGBM estimators can be imported.",
            ) from None
        except (EOFError, KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
            raise refuse(f"the pickle cannot be read: {type(error).__name__}: {error}") from None
    for warning in caught:
        print(f"warning: {str(warning.message).splitlines()[0]}")  # noqa: T201  the job's log
    return made


def convert_estimator(estimator: Any, kinds: dict[str, str]) -> Made:
    import sklearn
    from sklearn.base import BaseEstimator, is_classifier, is_regressor

    if not isinstance(estimator, BaseEstimator):
        raise refuse(
            f"the file holds a {type(estimator).__name__}, not a scikit-learn estimator",
            "Pickle the fitted estimator or pipeline itself.",
        )
    estimator = getattr(estimator, "best_estimator_", estimator)  # a search: what it found
    if not (is_classifier(estimator) or is_regressor(estimator)):
        raise refuse(f"{_name(estimator)} is neither a classifier nor a regressor")
    if hasattr(_last(estimator), "booster_"):
        from meuse.convert.inside import lightgbm

        if _last(estimator) is not estimator:
            raise refuse("a LightGBM model inside a pipeline cannot be converted")
        return lightgbm.convert_sklearn(estimator)
    columns = columns_of(estimator, kinds)
    made = _convert(estimator, columns)
    made.about.update(estimator=_name(estimator), scikit_learn=sklearn.__version__)
    return made


def _convert(estimator: Any, columns: list[Column]) -> Made:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType
    from skl2onnx.common.exceptions import MissingConverter, MissingShapeCalculator
    from sklearn.base import is_classifier

    by_name = any(column.is_text for column in columns) or _selects_by_name(estimator)
    types = (
        [(c.name, (StringTensorType if c.is_text else FloatTensorType)([None, 1])) for c in columns]
        if by_name
        else [("features", FloatTensorType([None, len(columns)]))]
    )
    is_class = is_classifier(estimator)
    gives_shares = is_class and hasattr(estimator, "predict_proba")
    options = {id(estimator): {"zipmap": False}} if gives_shares else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of one library about the other
            proto = to_onnx(
                estimator, initial_types=types, options=options | _tokens(estimator),
                target_opset=OPSETS,
            )  # fmt: skip
    except (MissingConverter, MissingShapeCalculator) as error:
        raise refuse(f"skl2onnx cannot convert it: {str(error).splitlines()[0]}") from None
    except (RuntimeError, NotImplementedError, ValueError, TypeError, NameError) as error:
        text = " ".join(str(error).split())
        text = text if len(text) < 300 else f"{text[:100]} … {text[-200:]}"
        raise refuse(f"skl2onnx cannot convert this {_name(estimator)}: {text}") from None
    sampled = _samples(columns)
    given = _frame(columns, sampled, by_name)
    outputs: dict[str, Array] = {}
    names = [output.name for output in proto.graph.output]
    classes, label = None, None
    keep: list[tuple[str, str, int | None]] = []
    if is_class:
        classes = _classes(estimator)
        found = np.asarray(estimator.predict(given))
        order = {name: index for index, name in enumerate(classes)}
        outputs["label"] = np.array([order[name] for name in labels(found)], np.int64)
        label = (names[0], classes)
        if gives_shares:
            outputs["probabilities"] = np.asarray(estimator.predict_proba(given), np.float32)
            keep = [(names[1], "probabilities", len(classes))]
    else:
        values = np.asarray(estimator.predict(given), np.float32)
        width = values.shape[1] if values.ndim == 2 and values.shape[1] > 1 else None
        outputs["value"] = values if width else values.reshape(-1)
        keep = [(names[0], "value", width)]
    proto = graphs.wrap(
        proto,
        columns=[(c.name, c.name, c.is_text) for c in columns] if by_name else None,
        matrix=None if by_name else ("features", len(columns)),
        label=label,
        keep=keep,
    )
    if not any(column.is_text for column in columns):
        sampled = {"input": np.stack([sampled[c.name] for c in columns], axis=1)}
    task = "classification" if is_class else "regression"
    return Made(proto, sampled, outputs, task, classes, {"columns": [c.name for c in columns]})


def _classes(estimator: Any) -> tuple[str | int, ...]:
    found = estimator.classes_
    if isinstance(found, list) or np.asarray(found).ndim != 1:
        raise refuse("classifiers with several targets cannot be converted")
    if np.asarray(found).dtype.kind == "f":
        raise refuse("the labels are fractional numbers", "Train it on whole numbers or texts.")
    return labels(found)


def _samples(columns: list[Column]) -> dict[str, Array]:
    rng = np.random.default_rng(SEED)
    return {column.name: column.samples(rng, ROWS) for column in columns}


def _frame(columns: list[Column], sampled: dict[str, Array], by_name: bool) -> Any:
    """What the original takes: the same float32 numbers that the converted one gets."""
    if not by_name:
        return np.stack([sampled[column.name] for column in columns], axis=1)
    if len(columns) == 1 and columns[0].name == "text":
        return sampled["text"].astype(object)
    import pandas as pd

    values = {
        name: v.astype(object if v.dtype.kind == "U" else float) for name, v in sampled.items()
    }
    return pd.DataFrame(values)


def _selects_by_name(estimator: Any) -> bool:
    return hasattr(estimator, "feature_names_in_") and any(
        type(part).__name__ == "ColumnTransformer" for part in _walk(estimator)
    )


def _tokens(estimator: Any) -> dict[int, dict[str, Any]]:
    """The default pattern of words, as RE2 writes it: letters and digits of every script."""
    return {
        id(part): {"tokenexp": r"[\p{L}\p{N}_]{2,}"}
        for part in _walk(estimator)
        if getattr(part, "token_pattern", None) == _TOKENS
        and getattr(part, "analyzer", None) == "word"
    }


def _walk(estimator: Any) -> list[Any]:
    parts = [estimator]
    for _, step in getattr(estimator, "steps", ()):
        parts += _walk(step)
    for entry in getattr(estimator, "transformers_", ()):
        parts += _walk(entry[1])
    for _, step in getattr(estimator, "transformer_list", ()):
        parts += _walk(step)
    return parts


def _last(estimator: Any) -> Any:
    steps = getattr(estimator, "steps", None)
    return _last(steps[-1][1]) if steps else estimator


def _name(estimator: Any) -> str:
    steps = getattr(estimator, "steps", None)
    if steps:
        return "Pipeline of " + ", ".join(type(step).__name__ for _, step in steps)
    return type(estimator).__name__
