"""From what a caller asks for to a spec that can be run: its versions, adapters and draft pinned,
its defaults filled in, and refused as a whole where parts do not go together.

One way for specs that callers send and for those that jobs change by attaching an adapter.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from meuse.core.nouns import Deployment
from meuse.core.ports import RegistryStore
from meuse.deploy import adapters, generation
from meuse.deploy.spec import artifact_for
from meuse.registry import references


def completed(
    registry: RegistryStore,
    wanted: Deployment,
    said: Collection[str],
    budget: int,
    *,
    has_vllm: bool = False,
) -> Deployment:
    """`said` are the fields that the caller sent, `budget` the bytes of memory that all replicas
    may have, `has_vllm` whether the operator has set one up. Raises `not_found` and
    `invalid_field` that name the part at fault."""
    scope, pinned, versions = wanted.scope, [], []
    for i, target in enumerate(wanted.targets):
        field = "model" if "model" in said else f"targets[{i}].model"
        version = references.resolve(registry, scope, target.model, field)
        artifact_for(version, wanted.engine)
        versions.append(version)
        # An alias is followed; a bare name means the latest version now, not every later one.
        pinned.append(target if "@" in target.model else replace(target, model=version.ref))
    wanted = replace(wanted, targets=tuple(pinned))
    draft = None
    if (guess := wanted.engine.draft_model) is not None:
        draft = references.resolve(registry, scope, guess.model, "engine.draft_model")
    wanted, found = adapters.pinned(registry, wanted, versions)
    return generation.complete(wanted, said, versions, budget, found, draft, has_vllm=has_vllm)
