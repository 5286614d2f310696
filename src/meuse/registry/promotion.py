"""Moving an alias: through its gate, or past it when that is asked for aloud.

Knows the registry's port; what a reference to data means, it is told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import GENERATION, ModelVersion, Scope
from meuse.core.ports import RegistryStore
from meuse.registry.gate import Gate, Verdict, decide, refused


def move_alias(
    store: RegistryStore,
    scope: Scope,
    model: str,
    alias: str,
    version: int,
    *,
    gate: Gate | None,
    force: bool,
    digest_of: Callable[[str], str],
) -> Verdict | None:
    """Point `alias` at `version`, unless its gate refuses. None when no gate was asked.

    `gate` None takes the one that the alias is marked with, if any. Raises `gate_refused`
    with the numbers, or with the job to run when the two were never judged alike; with
    `force` the verdict says so instead. Raises `conflict` when the alias moved meanwhile,
    and `not_found` for a version that is not there.
    """
    found = store.get_version(scope, model, version)
    kept = store.gates(scope, model).get(alias)
    if gate is None and kept is not None:
        gate = Gate.from_dict(kept)
    if gate is None:
        store.set_alias(scope, model, alias, version)
        return None
    current = store.aliases(scope, model).get(alias)
    verdict = _verdict(store, scope, found, current, gate, force, digest_of)
    if not verdict.passed:
        if not force:
            raise refused(verdict)
        verdict = replace(verdict, reason=f"forced, though {verdict.reason}")
    store.set_alias(scope, model, alias, version, was=current)
    return verdict


def _verdict(
    store: RegistryStore,
    scope: Scope,
    candidate: ModelVersion,
    current: int | None,
    gate: Gate,
    force: bool,
    digest_of: Callable[[str], str],
) -> Verdict:
    def evaluations(version: int) -> list[dict[str, object]]:
        return [kept.body for kept in store.evaluations(scope, candidate.model, version)]

    try:
        return decide(
            candidate.ref,
            None if current is None else f"{candidate.model}:{current}",
            evaluations(candidate.version),
            [] if current is None else evaluations(current),
            gate,
            None if gate.data is None else digest_of(gate.data),
            language=candidate.task == GENERATION,
        )
    except MeuseError as error:
        if not force or error.code is not Code.GATE_REFUSED:
            raise
        return Verdict(False, error.message)
