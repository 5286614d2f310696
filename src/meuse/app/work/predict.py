"""A predict job: a version over a dataset, part by part, into a CSV file of answers.

A part is on disk before the next begins: a child that was killed goes on behind it.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from meuse.app.work import rows as served
from meuse.app.work.spending import Budgets
from meuse.core.clock import now_ms
from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.nouns import Column, Signature
from meuse.core.ports import Blobs, JobContext, Paused
from meuse.jobs.parts import Parts

REPORT_S = 0.5
MAX_NAME = 200
"""A class with a longer name gives its column its number."""

Table = list[tuple[str, list[str]]]
"""Columns of text by name, in order."""


def work(blobs: Blobs, context: JobContext, job: dict[str, Any]) -> dict[str, Any]:
    spec, inputs = job["spec"], job["inputs"]
    version, tenant = inputs["version"], inputs["tenant"]
    path = served.copied(blobs, context.folder, inputs)
    columns = [Column(**{**c, "shape": tuple(c.get("shape", ()))}) for c in inputs["columns"]]
    features = served.features_of(columns, version, spec["keep"])
    wanted = {c.name for c in features} | set(spec["keep"])
    values = served.read_columns(path, [c for c in columns if c.name in wanted])
    frame = served.frame_of(values, features, served.is_nullable(version))
    kept = {name: values[name] for name in spec["keep"]}
    engine = served.engine_of(blobs, tenant, version)
    output = context.folder / "checkpoint-output.csv"
    begun, at_start = time.monotonic(), 0
    with (
        Budgets(inputs["budgets"]) as budgets,
        Parts(output, context.folder / "checkpoint-parts.jsonl") as parts,
    ):
        at_start = sum(part["rows"] for part in parts.done)
        if at_start:
            context.log(f"going on after row {at_start} of {len(frame)}")
        reported = 0.0
        budgets.settle(0, len(frame) - at_start)
        for start in range(at_start, len(frame), spec["batch_rows"]):
            rows = slice(start, start + spec["batch_rows"])
            answer, spent_us = served.run(engine, version, frame.take(rows))
            table = [(name, _texts(column[rows])) for name, column in kept.items()]
            table += _answers(answer, version, spec["probabilities"])
            data = _csv(table, header=start == 0)
            done = min(start + spec["batch_rows"], len(frame))
            parts.append(data, rows=done - start, compute_us=spent_us)
            budgets.settle(done - start, len(frame) - done, compute_ms=-(-spent_us // 1000))
            if context.paused():
                raise Paused
            if time.monotonic() - reported > REPORT_S:
                reported = time.monotonic()
                _report(context, done, len(frame), (done - at_start) / (reported - begun))
        done_parts = parts.done
    rows = sum(part["rows"] for part in done_parts)
    if rows != len(frame):
        raise MeuseError(Code.INTERNAL, f"{rows} rows were answered, not {len(frame)}")
    rate = (rows - at_start) / max(time.monotonic() - begun, 1e-9)
    context.log(f"answered {rows} rows in {len(done_parts)} parts, {rate:,.0f} rows/s")
    compute_us = sum(part["compute_us"] for part in done_parts)
    return {
        "output": _kept(blobs, tenant, output, rows),
        "rows_per_s": rate,
        "usage": {
            "ts": now_ms(),
            "plan_version": inputs["plan_version"],
            "quantities": {"rows": rows, "compute_ms": -(-compute_us // 1000)},
        },
    }


def _report(context: JobContext, done: int, rows: int, rate: float) -> None:
    context.progress(0.99 * done / rows, rate=rate)
    context.metrics({"rows": float(done), "rows_per_s": rate})


def _kept(blobs: Blobs, tenant: str, output: Path, rows: int) -> dict[str, Any]:
    """The answers in the blobs, described as any upload is."""
    from meuse.data.tables import inspect

    found, columns = inspect(output, "csv")
    assert found == rows, f"the file has {found} rows, not {rows}"
    with output.open("rb") as file:
        digest, size = blobs.put(tenant, file)
    return {
        "digest": digest,
        "bytes": size,
        "rows": rows,
        "format": "csv",
        "columns": [asdict(column) | {"shape": []} for column in columns],
    }


def _answers(
    answer: dict[str, NDArray[Any]], version: dict[str, Any], probabilities: bool
) -> Table:
    """`prediction` and, of a classifier, `probability_<class>`; the outputs of a version that
    was uploaded stand under their own names."""
    signature = Signature.from_dict(version["signature"])
    task, classes = version["task"], signature.classes
    if task == "regression":
        return [("prediction", _texts(answer["value"]))]
    if task == "multilabel" and classes is not None:
        given = answer["labels"].astype(bool)
        texts = [
            "|".join(str(c) for c, on in zip(classes, row, strict=True) if on) for row in given
        ]
        return [("prediction", texts), *_spread(answer["probabilities"], classes, probabilities)]
    if task == "classification" and classes is not None:
        texts = [str(classes[index]) for index in answer["label"].tolist()]
        return [("prediction", texts), *_spread(answer["probabilities"], classes, probabilities)]
    table: Table = []
    for index, output in enumerate(signature.outputs):
        found = answer[output.name]
        if index == 0 and classes is not None:
            table.append(("prediction", [str(classes[i]) for i in found.tolist()]))
            continue
        flat = found.reshape(len(found), -1)
        names = (
            [output.name]
            if found.ndim == 1
            else [f"{output.name}_{i}" for i in range(flat.shape[1])]
        )
        table += [(name, _texts(flat[:, i])) for i, name in enumerate(names)]
    return table


def _spread(found: NDArray[Any], classes: Sequence[str | int], wanted: bool) -> Table:
    if not wanted:
        return []
    names = [str(c) if len(str(c)) <= MAX_NAME else str(i) for i, c in enumerate(classes)]
    return [(f"probability_{name}", _texts(found[:, i])) for i, name in enumerate(names)]


def _texts(values: NDArray[Any]) -> list[str]:
    """Cells: the shortest text that reads back as the same number; missing is empty."""
    if values.dtype.kind == "f":
        texts: list[str] = values.astype("U32").tolist()
        return ["" if text == "nan" else text.removesuffix(".0") for text in texts]
    if values.dtype.kind == "O":
        return [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in values]
    return [str(value) for value in values.tolist()]


def _csv(table: Table, *, header: bool) -> bytes:
    names = [name for name, _ in table]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise invalid("keep", f"the result would have two columns {twice!r}", "Do not keep it.")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(names)
    # A line of one empty cell would read as no line.
    writer.writerows(zip(*(cells for _, cells in table), strict=True))
    return text.getvalue().encode()
