"""Adapters on a deployment of a language model: which fit its versions, and what they need.

An adapter fits the version that it was trained on and all that were made of that one: it changes
layers, and those keep their names and sizes through compression. Versions never change, so what
fits once fits for ever. Reads the registry; runs nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import replace

from meuse.core.errors import MeuseError, invalid
from meuse.core.nouns import ADAPTER, Adapter, Deployment, EngineOptions, ModelVersion, Scope
from meuse.core.ports import RegistryStore
from meuse.registry import references

MAX_HELD = 8
"""Adapters in a replica's memory where the deployment does not say."""
COPIES = 4
"""Of each, in memory: the file, its tensors as the engine lays them out, and what the heap keeps of
reading it. Measured on a busy machine: 3 to 5 (benchmarks/llm_adapters.py)."""
_NEEDS = ("adapters need OpenVINO's IR", "adapters in vllm need a safetensors checkpoint")
_MERGE = "Fine-tune with merge, and deploy the merged version."


def is_adapter(version: ModelVersion) -> bool:
    told = version.report.get("generation")
    return isinstance(told, dict) and told.get("layout") == ADAPTER


def ancestry(store: RegistryStore, scope: Scope, version: ModelVersion) -> Iterator[str]:
    """What it is called, and what all that it was made of are."""
    seen: set[str] = set()
    ref: str | None = version.ref
    while ref and ref not in seen:
        seen.add(ref)
        yield ref
        try:
            ref = references.resolve(store, scope, ref).lineage.parent
        except MeuseError:
            return


def fits(store: RegistryStore, scope: Scope, adapter: ModelVersion, base: ModelVersion) -> bool:
    return adapter.report["generation"]["base"] in ancestry(store, scope, base)


def digests(store: RegistryStore, spec: Deployment, base: ModelVersion) -> dict[str, str]:
    """Of the documents of its adapters that this version of it can have, by name."""
    found = {}
    for adapter in spec.adapters:
        version = references.resolve(store, spec.scope, adapter.model)
        if fits(store, spec.scope, version, base):
            found[adapter.name] = version.artifacts[0].digest
    return found


def pinned(
    store: RegistryStore, wanted: Deployment, bases: Sequence[ModelVersion]
) -> tuple[Deployment, list[ModelVersion]]:
    """The spec with each adapter's version as it is now and the layers that this one changes, and
    these versions.

    Raises `not_found` or `invalid_field` that names the adapter at fault.
    """
    found: list[ModelVersion] = []
    named: list[Adapter] = []
    for adapter in wanted.adapters:
        field = f"adapters.{adapter.name}"
        version = references.resolve(store, wanted.scope, adapter.model, field)
        _check(store, wanted.scope, version, bases, field, wanted.engine.name)
        found.append(version)
        layers = tuple(sorted(version.report["generation"].get("targets", ())))
        named.append(replace(adapter, model=version.ref, layers=layers))
    return replace(wanted, adapters=tuple(named)), found


def held(adapters: Sequence[ModelVersion], options: EngineOptions) -> int:
    """The bytes that a replica needs for the largest that it may hold together."""
    sizes = [version.report["generation"]["weight_bytes"] for version in adapters]
    total: int = sum(heapq.nlargest(options.max_adapters or MAX_HELD, sizes))
    return COPIES * total


def _check(
    store: RegistryStore,
    scope: Scope,
    version: ModelVersion,
    bases: Sequence[ModelVersion],
    field: str,
    engine: str | None,
) -> None:
    if not is_adapter(version):
        raise invalid(field, f"{version.ref} is no adapter", "Name a version of that layout.")
    told = version.report["generation"]
    if told.get("dora"):
        raise invalid(field, f"{version.ref} is a DoRA, which the engine does not apply", _MERGE)
    for base in bases:
        layout = base.report.get("generation", {}).get("layout")
        if layout != ("hf" if engine == "vllm" else "ir"):
            raise invalid(
                field,
                f"{_NEEDS[engine == 'vllm']}, and {base.ref} is {layout or 'no language model'}",
                "Pull or merge one."
                if engine == "vllm"
                else f"Compress it to IR (meuse compress {base.ref}), and deploy the result.",
            )
        if not fits(store, scope, version, base):
            raise invalid(
                field,
                f"{version.ref} was trained on {told['base']}, of which {base.ref} was not made",
                "Deploy that version, or one compressed from it.",
            )
