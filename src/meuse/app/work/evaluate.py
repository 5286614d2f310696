"""An evaluate job: versions judged side by side on the same rows, as they would be served."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.app.work import rows as served
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Column, Signature
from meuse.core.ports import Blobs, JobContext
from meuse.evaluate.answers import outputs_of, targets_of
from meuse.evaluate.judge import Judged, judge, rows_of
from meuse.evaluate.record import Rows
from meuse.evaluate.side_by_side import side_by_side
from meuse.evaluate.spec import EvaluateSpec

_SPLITS = ("train", "validation", "test")


def work(blobs: Blobs, context: JobContext, job: dict[str, Any], *, files: Blobs) -> dict[str, Any]:
    if "language" in job["inputs"]:
        from meuse.app.work import judging

        return judging.work(blobs, files, context, job)
    spec, inputs = EvaluateSpec.from_dict(job["spec"]), job["inputs"]
    assert spec.target is not None
    assert spec.task is not None
    path = served.copied(blobs, context.folder, inputs)
    columns = [Column(**{**c, "shape": tuple(c.get("shape", ()))}) for c in inputs["columns"]]
    versions = inputs["versions"]
    taken = {v["ref"]: served.features_of(columns, v, [spec.target]) for v in versions}
    wanted = {c.name for features in taken.values() for c in features}
    wanted |= {spec.target, *spec.slices}
    values = served.read_columns(path, [c for c in columns if c.name in wanted])
    split, positions = _choose(context, path, inputs, spec, len(values[spec.target]))
    values = {name: column[positions] for name, column in values.items()}
    labels = values[spec.target]
    _check_labels(labels, spec.target)
    rows = rows_of(
        inputs["data"], inputs["dataset_digest"], split, spec.target,
        len(positions) if split == "all" else positions,
    )  # fmt: skip
    context.log(f"judging {len(versions)} versions on {rows.rows} rows, split {split}")
    judged: dict[str, Judged] = {}
    for index, version in enumerate(versions):
        found = _judge(blobs, inputs["tenant"], version, taken[version["ref"]], values, spec, rows)
        judged[version["ref"]] = found
        figures = found.evaluation.figures
        context.metrics(figures, model=version["ref"])
        context.progress((index + 1) / len(versions))
    return side_by_side(judged, rows)


def _judge(
    blobs: Blobs,
    tenant: str,
    version: dict[str, Any],
    features: list[Column],
    values: dict[str, NDArray[Any]],
    spec: EvaluateSpec,
    rows: Rows,
) -> Judged:
    assert spec.target is not None
    assert spec.task is not None
    signature = Signature.from_dict(version["signature"])
    frame = served.frame_of(values, features, served.is_nullable(version))
    engine = served.engine_of(blobs, tenant, version)
    begun = time.perf_counter()
    answer, _ = served.run(engine, version, frame)
    seconds = time.perf_counter() - begun
    outputs = outputs_of(answer, signature, spec.task)
    width = outputs.shape[1] if outputs.ndim == 2 else 1
    y, classes = targets_of(values[spec.target], spec.task, signature.classes, width, spec.target)
    return judge(
        outputs, y, spec.task, rows,
        classes=classes or None,
        columns={name: values[name] for name in spec.slices},
        slices_by=spec.slices,
        quantile=spec.quantile,
        engine=version["format"],
        seconds=seconds,
        seed=spec.seed,
    )  # fmt: skip


def _choose(
    context: JobContext, path: Any, inputs: dict[str, Any], spec: EvaluateSpec, count: int
) -> tuple[str, NDArray[np.int64]]:
    """(name of the split, its row numbers): the same rows for every version.

    A version must not be judged on what it, or one that it was made from, has seen: of a named
    split those rows count that are in it for every training on this data.
    """
    made = {
        (t["seed"], t["target"], t["task"], str(t["split"])): t
        for version in inputs["versions"]
        for t in version["trained_on"]
        if t["digest"] == inputs["dataset_digest"]
    }
    split = spec.split or ("test" if made else "all")
    if split == "all":
        if made:
            context.log("these rows include those that versions were trained on", "warning")
        return split, np.arange(count)
    own: dict[str, Any] = {"seed": 0, "target": spec.target, "task": spec.task, "split": {}}
    found: NDArray[np.int64] | None = None
    largest = 0
    for training in list(made.values()) or [own]:
        part = served.split_positions(path, training)[_SPLITS.index(split)]
        largest = max(largest, len(part))
        found = part if found is None else np.intersect1d(found, part)
    assert found is not None
    if len(found) == 0:
        raise MeuseError(
            Code.INVALID_DATA,
            f"no row of {inputs['data']} is in the {split} split of every version",
            field="models",
            hint="They were trained with other seeds: judge them one by one, or on other data.",
        )
    if len(found) < largest:
        context.log(
            f"{len(found)} rows are in the {split} split of every version (of {largest}); they "
            "were trained with different splits",
            "warning",
        )
    return split, np.sort(found)


def _check_labels(labels: NDArray[Any], target: str) -> None:
    if labels.dtype.kind == "O":
        good = np.asarray(labels != "", bool)
    else:
        good = np.isfinite(labels.astype(np.float64))
    if not good.all():
        raise MeuseError(
            Code.INVALID_DATA,
            f"the target {target!r} is missing in {int((~good).sum())} of {len(good)} rows",
            field="target",
            hint="Fill it in, or drop these rows.",
        )
