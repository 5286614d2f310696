"""Which columns a fitted scikit-learn estimator takes, which are texts, and likely values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from meuse.convert.inside.model import Array, Column, numbers, refuse

Samples = Callable[[np.random.Generator, int], Array]
MAX_WORDS = 12
MAX_COLUMNS = 100_000


def columns_of(estimator: Any, kinds: dict[str, str]) -> list[Column]:
    """In the order that it was fitted with. `kinds` (name → number | text) win over what is
    found out. Raises `invalid_data` when neither names nor their number are known."""
    names = getattr(estimator, "feature_names_in_", None)
    count = getattr(estimator, "n_features_in_", None)
    if names is None and count is None and _is_vectorizer(_first(estimator)):
        return [Column("text", True, _texts(_first(estimator)))]
    if names is None and kinds:
        names = list(kinds)
    if names is None:
        if count is None:
            raise refuse(
                "the estimator does not say how many features it takes",
                'Name them: columns={"age": "number", …}.',
            )
        names = [f"f{index}" for index in range(int(count))]
    names = [str(name) for name in names]
    if len(names) > MAX_COLUMNS or (count is not None and len(names) != count):
        raise refuse(f"{len(names)} names of columns for {count} features")
    if unknown := sorted(set(kinds) - set(names)):
        raise refuse(f"the estimator has no column {unknown[0]!r}")
    found: dict[str, tuple[bool, Samples]] = {}
    _look(estimator, names, found)
    columns = []
    for name in names:
        is_text, samples = found.get(name, (False, numbers))
        if name in kinds and (kinds[name] == "text") != is_text:
            is_text = kinds[name] == "text"
            samples = _choose(["a", "b", ""]) if is_text else numbers
        columns.append(Column(name, is_text, samples))
    return columns


def _look(part: Any, names: Sequence[str], found: dict[str, tuple[bool, Samples]]) -> None:
    """What `part`, which is given the columns `names`, betrays of them."""
    if hasattr(part, "transformers_"):  # ColumnTransformer
        for _, inner, selected in part.transformers_:
            _look(inner, _selected(names, selected), found)
        return
    for _, step in getattr(part, "transformer_list", ()):  # FeatureUnion
        _look(step, names, found)
    for _, step in getattr(part, "steps", ()):  # Pipeline
        _look(step, names, found)
        if not _keeps_columns(step):
            return
    if _is_vectorizer(part):
        found.update({name: (True, _texts(part)) for name in names})
        return
    for name, *known in _fitted(part, names, "categories_"):
        values = [value for value in known[0].tolist() if not _is_missing(value)]
        found[name] = (known[0].dtype.kind in "OUS", _choose(values))
    for name, mean, scale in _fitted(part, names, "mean_", "scale_"):
        found.setdefault(name, (False, _around(float(mean), float(scale))))
    for name, value in _fitted(part, names, "statistics_"):
        if isinstance(value, str):
            found.setdefault(name, (True, _choose([value])))


def _fitted(part: Any, names: Sequence[str], *attributes: str) -> list[tuple[Any, ...]]:
    """(name, value of each attribute) by column, if `part` has them for each column."""
    values = [getattr(part, attribute, None) for attribute in attributes]
    if any(value is None or len(value) != len(names) for value in values):
        return []
    return list(zip(names, *values, strict=True))


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _selected(names: Sequence[str], selected: Any) -> list[str]:
    if isinstance(selected, str):
        return [selected]
    if isinstance(selected, int):
        return [names[selected]]
    if isinstance(selected, slice):
        return list(names[selected])
    chosen = list(selected)
    if chosen and isinstance(chosen[0], bool | np.bool_):
        return [name for name, is_in in zip(names, chosen, strict=True) if is_in]
    return [one if isinstance(one, str) else names[int(one)] for one in chosen]


def _keeps_columns(step: Any) -> bool:
    return type(step).__name__ in (
        "SimpleImputer",
        "StandardScaler",
        "MinMaxScaler",
        "RobustScaler",
    )


def _first(estimator: Any) -> Any:
    steps = getattr(estimator, "steps", None)
    return _first(steps[0][1]) if steps else estimator


def _is_vectorizer(part: Any) -> bool:
    return hasattr(part, "build_analyzer")


def _texts(vectorizer: Any) -> Samples:
    words = sorted(getattr(vectorizer, "vocabulary_", {})) or ["some", "words", "of", "any", "kind"]

    def samples(rng: np.random.Generator, count: int) -> Array:
        rows = []
        for _ in range(count):
            chosen = [words[i] for i in rng.integers(0, len(words), rng.integers(1, MAX_WORDS))]
            rows.append(" ".join([*chosen, "unheard"]) + rng.choice(["", ".", "!", ", a b"]))
        return np.array(rows)

    return samples


def _choose(values: list[Any]) -> Samples:
    def samples(rng: np.random.Generator, count: int) -> Array:
        if not values:
            return numbers(rng, count)
        chosen = [values[i] for i in rng.integers(0, len(values), count)]
        if all(isinstance(value, str) for value in values):
            return np.array(chosen)
        return np.array(chosen, np.float32)

    return samples


def _around(mean: float, scale: float) -> Samples:
    def samples(rng: np.random.Generator, count: int) -> Array:
        return (mean + scale * rng.normal(size=count) * 2).astype(np.float32)

    return samples
