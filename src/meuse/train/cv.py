"""Cross-validation: how well a recipe does on rows it has not seen, and how much that varies.

The preparation is fitted anew on each fold's training rows. The model itself is then trained
on the normal split, as without folds: what is registered does not depend on `cv`, and its test
rows stand in no fold. Knows no dataset file, no registry and no metric of its own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from meuse.core.errors import MeuseError
from meuse.core.nouns import Splits
from meuse.core.ports import JobContext, Metric
from meuse.train.digest import source_digest
from meuse.train.folds import folds_of, pool_of, split_by
from meuse.train.parts import Part, keep, kept, outcome_of
from meuse.train.run import TrainResult, figures_of, fit, learn
from meuse.train.spec import TrainSpec


def fit_with_folds(
    job: JobContext,
    splits: Splits,
    spec: TrainSpec,
    metric: Metric,
    given: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[TrainResult, dict[str, Any]]:
    """`fit`, after `spec.cv` folds if there are any: (result, report).

    Metrics gain `cv_<figure>`, the mean over the folds, and `cv_<figure>_deviation`, the sample
    standard deviation. A fold that is finished is not repeated when the job goes on.
    """
    if spec.cv is None:
        return fit(job, splits, spec, metric, given), {}
    report = cross_validate(job, splits, spec, metric, given)
    done = spec.cv / (spec.cv + 1)
    final = Final(job, "final", done, 1 - done, {})
    result = fit(final, splits, spec, metric, given)
    figures = summary(report["folds"])
    job.metrics(figures)
    metrics = {**result.metrics, **figures}
    return dataclasses.replace(result, metrics=metrics), {"cv": report}


class Final(Part):
    """The training itself: its checkpoint and lines are the job's own."""

    @property
    def checkpoint(self) -> Path:
        return self.job.checkpoint

    def log(self, message: str, level: str = "info") -> None:
        self.job.log(message, level)


def cross_validate(
    job: JobContext,
    splits: Splits,
    spec: TrainSpec,
    metric: Metric,
    given: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Train and judge every fold: {by, folds: [{fold, rows, figures, best_epoch, …}], mean,
    deviation}. Raises what a training raises, and says in which fold."""
    assert spec.cv is not None
    pool = pool_of(splits)
    share = len(splits.validation) / (len(splits.validation) + len(splits.train))
    found: list[dict[str, Any]] = []
    folds = folds_of(pool, spec.cv, share, spec.seed)
    for number, fold in enumerate(folds, 1):
        part = Part(
            job, f"fold-{number}", (number - 1) / (spec.cv + 1), 1 / (spec.cv + 1), {"fold": number}
        )
        of_fold = split_by(splits, fold)
        digest = _digest(spec, of_fold)
        path = outcome_of(job.folder, part.name)
        body = kept(path, digest)
        if body is None:
            body = {"fold": number, **_judged(part, of_fold, spec, metric, given)}
            keep(path, digest, body)
        part.checkpoint.unlink(missing_ok=True)
        told = ", ".join(f"{name} {value:.4f}" for name, value in body["figures"].items())
        job.log(f"fold {number}/{spec.cv}: {told}")
        job.metrics({f"fold_{n}": v for n, v in body["figures"].items()}, fold=number)
        found.append(body)
    return {"by": pool.how, "folds": found, **spread([body["figures"] for body in found])}


def spread(figures: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and sample standard deviation (n - 1) of each figure, over at least two mappings."""
    columns = {name: [row[name] for row in figures] for name in figures[0]}
    return {
        "mean": {name: statistics.fmean(values) for name, values in columns.items()},
        "deviation": {name: statistics.stdev(values) for name, values in columns.items()},
    }


def summary(folds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The spread as flat metrics of a version."""
    both = spread([fold["figures"] for fold in folds])
    means = {f"cv_{name}": value for name, value in both["mean"].items()}
    return means | {f"cv_{name}_deviation": value for name, value in both["deviation"].items()}


def _judged(
    part: Part, splits: Splits, spec: TrainSpec, metric: Metric, given: Mapping[str, Any]
) -> dict[str, Any]:
    began = time.monotonic()
    try:
        learned = learn(part, splits, spec, metric, given)
        figures = figures_of(learned.fitted, learned.prepared, splits, spec, metric)
    except MeuseError as error:
        raise MeuseError(
            error.code, f"{part.name}: {error.message}", field=error.field, hint=error.hint
        ) from error
    return {
        "rows": {
            "train": len(splits.train),
            "validation": len(splits.validation),
            "held_out": len(splits.test),
        },
        "figures": {
            name.removeprefix("test_"): value
            for name, value in figures.items()
            if name.startswith("test_")
        },
        "best_epoch": learned.best_epoch,
        "epochs": learned.epochs,
        "seconds": round(time.monotonic() - began, 3),
    }


def _digest(spec: TrainSpec, splits: Splits) -> str:
    """Names a fold: the spec, the code, and the rows and targets of its parts."""
    digest = hashlib.sha256(json.dumps(spec.to_dict(), sort_keys=True).encode())
    digest.update(source_digest(Path(__file__).parent).encode())
    for part in (splits.train, splits.validation, splits.test):
        digest.update(np.ascontiguousarray(part.frame.numbers).data)
        digest.update(np.ascontiguousarray(part.y).data)
    return digest.hexdigest()
