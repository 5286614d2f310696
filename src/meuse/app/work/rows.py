"""Rows for versions to answer: a dataset's columns as a model takes them, and the answers.

Knows how a version's inputs follow from columns; shared by evaluate and predict.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Column, Frame, Signature
from meuse.core.ports import Blobs, Engine
from meuse.train.signature import inputs_of

BLOCK_ROWS = 1024
"""Rows that an engine gets at once."""
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def engine_of(blobs: Blobs, tenant: str, version: dict[str, Any]) -> Engine:
    """The engine that would serve the version, in this process."""
    from meuse.serve import engines

    model = blobs.read(tenant, version["digest"])
    return engines.load(version["format"], model, threads=1)


def copied(blobs: Blobs, folder: Path, inputs: dict[str, Any]) -> Path:
    """The dataset's canonical table in the job's folder; once, however often the child starts."""
    from meuse.data.ingest import ingest

    path = folder / "data"
    if not path.exists():
        fresh = folder / "data.new"
        blobs.copy_to(inputs["tenant"], inputs["digest"], fresh)
        if inputs["format"] != "table":  # kept before there was one
            upload = fresh.replace(folder / "data.upload")
            ingest(upload, inputs["format"], fresh)
            upload.unlink()
        fresh.replace(path)
    return path


def read_columns(path: Path, columns: Sequence[Column]) -> dict[str, NDArray[Any]]:
    """These columns of all rows: int64 or float64 (NaN: missing), texts as objects ("");
    images uint8 [n, height, width, channels]."""
    from meuse.data.canonical import open_table
    from meuse.data.tables import column, read_frame

    table = open_table(path)
    images = [c for c in columns if c.kind == "image"]
    pictures = read_frame(table, images).images if images else {}
    plain = {c.name: column(table, c.name) for c in columns if c.kind != "image"}
    return {**plain, **pictures}


def frame_of(values: dict[str, NDArray[Any]], columns: Sequence[Column], nullable: bool) -> Frame:
    """The rows of these columns. Raises `invalid_data` for a number that float32 cannot hold
    and, unless the version fills them in, for one that is missing."""
    numeric = [c for c in columns if c.numeric]
    rows = len(next(iter(values.values())))
    numbers = np.empty((rows, len(numeric)), np.float32)
    for index, column in enumerate(numeric):
        wide = values[column.name].astype(np.float64)
        good = np.abs(wide) <= _FLOAT32_MAX  # false for NaN and infinity too
        if nullable:
            good |= np.isnan(wide)
        if not good.all():
            row = int(np.argmin(good))
            what = "missing" if np.isnan(wide[row]) else f"{wide[row]:g}, too large for float32"
            raise MeuseError(
                Code.INVALID_DATA,
                f"the column {column.name!r} has a value that is {what}, first in row {row + 1}",
                field=f"columns.{column.name}",
                hint="Fill in or drop such rows; this version does not.",
            )
        numbers[:, index] = wide
    texts = {c.name: values[c.name] for c in columns if c.kind == "string"}
    images = {c.name: values[c.name] for c in columns if c.kind == "image"}
    names, named = tuple(c.name for c in columns), tuple(c.name for c in numeric)
    return Frame(names, named, numbers, texts, images)


def is_nullable(version: dict[str, Any]) -> bool:
    """Whether the version fills in missing numbers itself."""
    return any(spec.get("nullable", False) for spec in version["signature"]["inputs"])


def split_positions(path: Path, made: dict[str, Any]) -> tuple[NDArray[np.int64], ...]:
    """Row numbers of train, validation and test as a training has split them."""
    from meuse.data.split_spec import SplitSpec
    from meuse.data.splits import load_splits

    split = SplitSpec.from_dict(made["split"]) if made["split"] else None
    splits = load_splits(
        path,
        "table",
        target=made["target"],
        task=made["task"],
        seed=made["seed"],
        split=split,
        raw=True,
    )
    return splits.positions


def features_of(
    columns: Sequence[Column], version: dict[str, Any], leave_out: Sequence[str]
) -> list[Column]:
    """The columns that a version takes, in its order. Raises `invalid_data` (field `data`).

    Inputs of their own are found by name; one matrix takes the features it was trained on,
    where they are known, else all numeric columns but the target, with or without `leave_out`
    (what is kept beside the answers), whichever are as many.
    """
    by_name = {column.name: column for column in columns}
    specs = Signature.from_dict(version["signature"]).inputs
    matrix = len(specs) == 1 and len(specs[0].shape) == 2 and specs[0].datatype == "FP32"
    if not matrix:
        return [_named(by_name, spec.name, version) for spec in specs]
    names = version.get("features")
    if names and len(names) == specs[0].shape[1]:
        return [_named(by_name, name, version) for name in names]
    numeric = [c for c in columns if c.numeric and c.name != version["target"]]
    fewer = [c for c in numeric if c.name not in leave_out]
    for found in (numeric, fewer):
        if specs[0].shape[1] in (-1, len(found)):
            return found
    raise MeuseError(
        Code.INVALID_DATA,
        f"{version['ref']} takes {specs[0].shape[1]} features, the data has {len(numeric)}",
        field="data",
        hint="Use the dataset that the model was trained on, or one like it.",
    )


def _named(by_name: dict[str, Column], name: str, version: dict[str, Any]) -> Column:
    if name not in by_name:
        raise MeuseError(
            Code.INVALID_DATA,
            f"{version['ref']} takes a column {name!r}, which the data does not have",
            field="data",
            hint=f"It has: {', '.join(list(by_name)[:50])}.",
        )
    return by_name[name]


def run(
    engine: Engine, version: dict[str, Any], frame: Frame
) -> tuple[dict[str, NDArray[Any]], int]:
    """(outputs of these rows, microseconds in the engine), in blocks of `BLOCK_ROWS`."""
    parts: list[dict[str, NDArray[Any]]] = []
    spent = 0
    for start in range(0, len(frame), BLOCK_ROWS):
        inputs = _inputs(frame.take(slice(start, start + BLOCK_ROWS)), version)
        begun = time.perf_counter_ns()
        try:
            answer = engine.run(inputs)
        except MeuseError:
            raise
        except Exception as error:  # engines' errors share no base class
            raise MeuseError(
                Code.ENGINE_ERROR,
                f"{version['ref']} failed on the rows from {start}: {str(error)[:300]}",
                field="data",
            ) from None
        spent += time.perf_counter_ns() - begun
        parts.append(answer)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return joined, spent // 1000


def _inputs(frame: Frame, version: dict[str, Any]) -> dict[str, NDArray[Any]]:
    signature = Signature.from_dict(version["signature"])
    first = signature.inputs[0]
    if len(signature.inputs) == 1 and len(first.shape) == 2 and first.datatype == "FP32":
        return {first.name: frame.numbers}  # uploaded versions call it what they like
    return inputs_of(frame, signature)
