"""What steps of distillation name, resolved in control: teachers and unlabelled rows, by digest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import msgspec

from meuse.app.kinds.evaluate import served
from meuse.app.kinds.shared import Stores
from meuse.compress import likeness
from meuse.compress.configs.distill import DEPLOYMENT, MAX_TEACHERS, Distill
from meuse.compress.spec import CompressSpec
from meuse.core.errors import MeuseError, invalid
from meuse.core.nouns import DatasetVersion, Job, ModelVersion, Scope
from meuse.registry import references


def pinned(
    stores: Stores, scope: Scope, spec: CompressSpec, parent: ModelVersion, data: DatasetVersion
) -> CompressSpec:
    """The spec with every teacher a version (`name:3`) and unlabelled rows a dataset's version.

    Raises `not_found`, and `invalid_field` for a teacher whose outputs are not the parent's and
    for rows that lack a column; their errors name `steps.N.field`.
    """
    steps = list(spec.steps)
    for index, step in enumerate(steps):
        if isinstance(step.config, Distill):
            try:
                config = _pin(stores, scope, step.config, parent, data)
            except MeuseError as error:
                error.field = f"steps.{index}.{error.field}"
                raise
            steps[index] = replace(step, config=config)
    return replace(spec, steps=tuple(steps))


def inputs_of(stores: Stores, job: Job, spec: CompressSpec) -> dict[str, Any]:
    """What the job's child needs of a pinned spec: `teachers` and `unlabelled` by reference."""
    teachers = {name for config in _configs(spec) for name in config.teachers}
    datasets = {config.unlabelled for config in _configs(spec) if config.unlabelled is not None}
    versions = [references.resolve(stores.registry, job.scope, name) for name in sorted(teachers)]
    return {
        "teachers": {version.ref: taught_by(version) for version in versions},
        "unlabelled": {
            name: {
                **stores.data_inputs(job, name),
                "columns": [asdict(c) for c in stores.find_data(job.scope, name).columns],
            }
            for name in sorted(datasets)
        },
    }


def taught_by(version: ModelVersion) -> dict[str, Any]:
    """What a job child needs to ask a version, and to look inside of it."""
    weights = [a.digest for a in version.artifacts if a.format == "safetensors"]
    return {**served(version), "weights": weights[0] if weights else None}


def _configs(spec: CompressSpec) -> Iterator[Distill]:
    for step in spec.steps:
        if isinstance(step.config, Distill):
            yield step.config


def _pin(
    stores: Stores, scope: Scope, config: Distill, parent: ModelVersion, data: DatasetVersion
) -> Distill:
    found = [v for text in config.teachers for v in _versions(stores, scope, text)]
    versions = list({v.ref: v for v in found}.values())  # deployments may share some
    if len(versions) > MAX_TEACHERS:
        raise invalid("teacher", f"{len(versions)} teachers", f"The limit is {MAX_TEACHERS}.")
    for version in versions:
        likeness.check(version.ref, version.task, version.signature, parent.task, parent.signature)
        if config.looks_inside and not taught_by(version)["weights"]:
            raise invalid(
                "teacher",
                f"{version.ref} has no weights file: its network is not known",
                "Leave hidden and attention at 0.",
            )
    if config.looks_inside and len(versions) > 1:
        raise invalid(
            "teacher",
            f"{len(versions)} teachers have no hidden states in common",
            "Name one teacher, or leave hidden and attention at 0.",
        )
    unlabelled = None
    if config.unlabelled is not None:
        unlabelled = _unlabelled(stores, scope, config.unlabelled, parent, data)
    refs = tuple(version.ref for version in versions) or None
    return msgspec.structs.replace(config, teacher=refs, unlabelled=unlabelled)


def _versions(stores: Stores, scope: Scope, text: str) -> list[ModelVersion]:
    """The version, or those that a deployment serves now."""
    if not text.startswith(DEPLOYMENT):
        return [references.of_rows(stores.registry, scope, text, "teacher")]
    try:
        deployment = stores.deployments.get(scope, text.removeprefix(DEPLOYMENT))
    except MeuseError as error:
        error.field = "teacher"
        raise
    targets = deployment.targets
    return [references.of_rows(stores.registry, scope, t.model, "teacher") for t in targets]


def _unlabelled(
    stores: Stores, scope: Scope, text: str, parent: ModelVersion, data: DatasetVersion
) -> str:
    """The version's reference. Raises `invalid_field` for rows that are judged by, for columns
    that are not there or of another kind, and for numbers that are missing where the parent
    fills none in."""
    try:
        found = stores.find_data(scope, text, "unlabelled")
    except MeuseError as error:
        error.field = "unlabelled"
        raise
    if found.digest == data.digest:
        raise invalid(
            "unlabelled",
            f"{found.ref} is the data itself: the rows that the result is judged on are in it",
            "Name a dataset of other rows.",
        )
    have = {column.name: column for column in found.columns}
    fills = any(spec.nullable for spec in parent.signature.inputs)
    features = parent.card.get("data", {}).get("features")
    for column in data.columns:
        wanted = features is None or column.name in features
        if column.name == parent.lineage.target or not wanted:
            continue
        other = have.get(column.name)
        both = other is not None and other.numeric and column.numeric
        if other is None or (other.kind != column.kind and not both):
            told = "has no" if other is None else f"has {other.kind} in the"
            raise invalid(
                "unlabelled",
                f"{found.ref} {told} column {column.name!r}, which the model takes",
                "Its columns have the names and kinds of the data's; more do not matter.",
            )
        if other.numeric and other.missing and not fills:
            raise invalid(
                "unlabelled",
                f"{found.ref} lacks {other.missing:,} values of the column {column.name!r}",
                "Fill in or drop such rows; this model does not.",
            )
    return found.ref
