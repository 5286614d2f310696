"""Evaluate jobs of language models: versions pinned, the file looked up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from meuse.app import estimates
from meuse.app.kinds.shared import Stores
from meuse.core.errors import MeuseError, invalid
from meuse.core.nouns import ADAPTER, GENERATION, Job, ModelVersion, Scope, StoredFile
from meuse.core.ports import FileStore
from meuse.deploy.generation import CHECKPOINT
from meuse.evaluate.language.spec import LanguageSpec
from meuse.registry import external, references

OUTPUT = "batch_output"
"""The purpose of files that nobody judges by."""
ONLY = frozenset({"model", "metrics", "window", "stride", "max_tokens", "stop"})
"""What jobs on rows do not take."""


def check(stores: Stores, files: FileStore, scope: Scope, spec: dict[str, Any]) -> dict[str, Any]:
    """The spec, complete. Raises `invalid_field` and `not_found`."""
    asked = LanguageSpec.from_dict(spec)
    versions = [_model(stores, scope, text, f"models[{i}]") for i, text in enumerate(asked.models)]
    refs = tuple(version.ref for version in versions)
    if len(set(refs)) < len(refs):
        raise invalid("models", f"two of {', '.join(asked.models)} are the same version")
    contexts = [version.report["generation"]["context"] for version in versions]
    if asked.window is not None and asked.window > min(contexts):
        raise invalid(
            "window",
            f"a window of {asked.window} tokens is more than the models see",
            f"At most {min(contexts)}.",
        )
    if asked.stride is not None and asked.window is not None and asked.stride >= asked.window:
        raise invalid("stride", f"a stride of {asked.stride} does not fit", "Less than the window.")
    for version in versions:
        _base(stores, scope, version)
    find_file(files, scope, asked.data)
    return replace(asked, models=refs).to_dict()


def prepare(stores: Stores, files: FileStore, job: Job) -> dict[str, Any]:
    """What the child gets beside the spec."""
    file = find_file(files, job.scope, job.spec["data"])
    versions = [_model(stores, job.scope, ref, "models") for ref in job.spec["models"]]
    return {
        "language": True,
        "tenant": job.scope.tenant,
        "data": file.id,
        "digest": file.digest,
        "versions": [_described(stores, job.scope, version) for version in versions],
    }


def estimate(stores: Stores, job: Job) -> int:
    """The memory (bytes) of the job: that of its largest version, for each is opened when the one
    before it is gone."""
    asked = LanguageSpec.from_dict(job.spec)
    versions = [_model(stores, job.scope, ref, "models") for ref in asked.models]
    bases = [_base(stores, job.scope, version) for version in versions]
    # Without a choice it depends on the lines, which nobody has read yet.
    writes = not asked.metrics or "exact_match" in asked.metrics
    return max(
        _need(version if base is None else base, asked.window, writes=writes, trained=bool(base))
        for version, base in zip(versions, bases, strict=True)
    )


def _need(version: ModelVersion, window: int | None, *, writes: bool, trained: bool) -> int:
    """`trained`: it is the base of an adapter, which transformers has whatever its layout is."""
    told = version.report["generation"]
    if trained or told["layout"] == CHECKPOINT:
        most = min(window or estimates.WINDOW, told["context"])
        return estimates.of_judging(told["parameters"], told["vocabulary"], most)
    cache = told["context"] * told["kv_bytes_per_token"] if writes else 0
    return estimates.of_judging_served(
        told["layout"], told["weight_bytes"], told["vocabulary"], cache
    )


def _described(stores: Stores, scope: Scope, version: ModelVersion) -> dict[str, Any]:
    told = version.report["generation"]
    base = _base(stores, scope, version)
    return {
        "ref": version.ref,
        "layout": told["layout"],
        "context": told["context"] if base is None else base.report["generation"]["context"],
        # Of an adapter: the files by name, of others the document that names them.
        "manifest": version.artifacts[0].digest,
        "base": None if base is None else _described(stores, scope, base),
    }


def _base(stores: Stores, scope: Scope, version: ModelVersion) -> ModelVersion | None:
    """What an adapter stands on."""
    told = version.report["generation"]
    if told["layout"] != ADAPTER:
        return None
    return _model(stores, scope, told["base"], "models")


def _model(stores: Stores, scope: Scope, text: str, field: str) -> ModelVersion:
    version = references.resolve(stores.registry, scope, text, field)
    if version.task != GENERATION:
        raise invalid(
            field,
            f"{version.ref} takes rows: it is no language model",
            "Judge it on a dataset, not on a file.",
        )
    external.check_ours(version, field)
    return version


def find_file(files: FileStore, scope: Scope, file_id: str) -> StoredFile:
    try:
        found = files.get(scope, file_id)
    except MeuseError as error:
        error.field = "data"
        raise
    if found.purpose == OUTPUT:
        raise invalid(
            "data", f"{file_id} is the output of a batch", "Upload the lines to judge by."
        )
    return found
