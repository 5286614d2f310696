"""What steps of distillation name, in the hands of a job's child: teachers and rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from meuse.app.work import rows as served
from meuse.compress.configs.distill import Distill
from meuse.compress.pipeline import Parent
from meuse.compress.spec import CompressSpec
from meuse.compress.teachers import Given, Teacher, Version
from meuse.core.errors import MeuseError
from meuse.core.nouns import Column, Frame, Signature, Splits
from meuse.core.ports import Blobs, JobContext


def given(
    blobs: Blobs,
    context: JobContext,
    inputs: dict[str, Any],
    spec: CompressSpec,
    splits: Splits,
    parent: Parent,
) -> Given:
    """Teachers and unlabelled rows of a job. `splits` have all columns of the data: a teacher
    may take others than its student.

    Raises `invalid_data` at `steps.N.teacher` for columns that are not there, and at
    `steps.N.unlabelled` for values that the parent cannot take.
    """
    own = {**inputs["parent"], "ref": parent.ref}
    versions = inputs.get("teachers", {})
    teachers = {"": _teacher(blobs, inputs["tenant"], own, splits)}
    for name, version in versions.items():
        with _told_at(spec, "teacher", name):
            teachers[name] = _teacher(blobs, inputs["tenant"], version, splits)
    rows = {}
    for index, (name, found) in enumerate(inputs.get("unlabelled", {}).items()):
        with _told_at(spec, "unlabelled", name):
            rows[name] = _unlabelled(blobs, context, found, own, index)
    return Given(splits.task, splits.train.frame, teachers, rows)


@contextmanager
def _told_at(spec: CompressSpec, part: str, name: str) -> Iterator[None]:
    """Errors within name the first step that asks for `name` as its `part`."""
    try:
        yield
    except MeuseError as error:
        named = (
            index
            for index, step in enumerate(spec.steps)
            if isinstance(step.config, Distill)
            and name in (step.config.teachers if part == "teacher" else (step.config.unlabelled,))
        )
        error.field = f"steps.{next(named)}.{part}"
        raise


def _teacher(blobs: Blobs, tenant: str, version: dict[str, Any], splits: Splits) -> Teacher:
    taken = served.features_of(splits.features, version, [splits.target])
    weights = version["weights"]
    return Version(
        version["ref"],
        version["digest"],
        Signature.from_dict(version["signature"]),
        splits.task,
        tuple(column.name for column in taken),
        lambda: served.engine_of(blobs, tenant, version),
        None if weights is None else lambda: blobs.read(tenant, weights),
    )


def _unlabelled(
    blobs: Blobs, context: JobContext, found: dict[str, Any], own: dict[str, Any], index: int
) -> Frame:
    """All rows of a dataset, with the columns that it has."""
    folder = context.folder / f"unlabelled-{index}"
    folder.mkdir(exist_ok=True)
    path = served.copied(blobs, folder, found)
    columns = [Column(**{**c, "shape": tuple(c.get("shape", ()))}) for c in found["columns"]]
    values = served.read_columns(path, columns)
    return served.frame_of(values, columns, served.is_nullable(own))
