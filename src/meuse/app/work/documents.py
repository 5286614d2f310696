"""What a training leaves beside its files: how good the version is, and what its card tells.

Measured on the exported file, as it will be served.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.app.work import rows as served
from meuse.core.nouns import Examples, Frame, Signature, Splits
from meuse.evaluate.answers import outputs_of
from meuse.evaluate.judge import judge, rows_of
from meuse.evaluate.record import Evaluation
from meuse.evaluate.seen import limits_of
from meuse.jobs.effort import Spent
from meuse.registry import card

MAX_LIMITS = 1000
"""Most columns whose ranges a card keeps."""


def evaluation_of(
    files: Mapping[Path, str],
    signature: Signature,
    splits: Splits,
    inputs: dict[str, Any],
    slices: Sequence[str] = (),
    quantile: float | None = None,
) -> Evaluation:
    """The version on the test split, by the engine that serves the first of its files.

    Raises `invalid_field` (`slices`) for a column that is no feature.
    """
    from meuse.serve import engines

    model, format = next(iter(files.items()))
    engine = engines.load(format, model.read_bytes(), threads=1)
    version = {"ref": "the version", "signature": signature.to_dict()}
    test: Examples = splits.test
    begun = time.perf_counter()
    answer, _ = served.run(engine, version, test.frame)
    seconds = time.perf_counter() - begun
    digest = inputs.get("dataset_digest", inputs["digest"])
    positions = splits.positions[2]
    judged = judge(
        outputs_of(answer, signature, splits.task), test.y, splits.task,
        rows_of(inputs["data"], digest, "test", splits.target, positions),
        classes=splits.classes,
        columns=columns_of(test.frame),
        slices_by=slices,
        quantile=quantile,
        engine=format,
        seconds=seconds,
    )  # fmt: skip
    return judged.evaluation


def columns_of(frame: Frame) -> dict[str, NDArray[Any]]:
    """The columns by name: numbers and texts; pictures have no ranges and no slices."""
    numbers = {name: frame.numbers[:, i] for i, name in enumerate(frame.numeric)}
    return {**numbers, **frame.texts}


def card_of(
    splits: Splits,
    inputs: dict[str, Any],
    signature: Signature,
    seed: int,
    training: dict[str, Any],
    spent: Spent | None,
    given: dict[str, str] | None = None,
) -> dict[str, Any]:
    """What the card keeps of a job that made a version. `training` says how: {recipe,
    options: {…}, and what the run tells of itself}."""
    return card.note(
        data=_data(splits, inputs, seed),
        training={**training, **(asdict(spent) if spent else {})},
        limits=_limits(splits, signature),
        given=given,
    )


def _data(splits: Splits, inputs: dict[str, Any], seed: int) -> dict[str, Any]:
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    return {
        "name": inputs["data"],
        "digest": inputs.get("dataset_digest", inputs["digest"]),
        "rows": sum(map(len, parts.values())),
        "target": splits.target,
        "columns": [
            {"name": c.name, "kind": c.kind, "missing": c.missing} for c in splits.features
        ],
        "features": [c.name for c in splits.features],
        "split": getattr(splits, "spec", None) or {"by": "ratio", "seed": seed},
        "split_rows": {name: len(part) for name, part in parts.items()},
    }


def _limits(splits: Splits, signature: Signature) -> dict[str, Any]:
    train = columns_of(splits.train.frame)
    nullable = any(spec.nullable for spec in signature.inputs)
    missing = "filled in by the model, as in training" if nullable else "refused"
    if not any(np.isnan(v).any() for v in train.values() if v.dtype.kind == "f"):
        missing += "; training had none"
    return limits_of(dict(list(train.items())[:MAX_LIMITS]), missing)
