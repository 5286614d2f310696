"""Aliases: read, move, gate, promote, delete."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Response

from meuse.api.context import Body, Control, Parts, requires
from meuse.api.models import describe
from meuse.core.errors import Code, MeuseError, invalid, not_found
from meuse.core.fields import known
from meuse.core.ids import check_name
from meuse.core.nouns import Principal
from meuse.core.references import is_file, parse_data
from meuse.registry import references
from meuse.registry.gate import Gate
from meuse.registry.promotion import move_alias

router = APIRouter(prefix="/api/models", tags=["models"])
Caller = Annotated[Principal, requires("models")]


@router.get("/{name}/aliases/{alias}")
def alias(parts: Parts, caller: Caller, name: str, alias: str) -> dict[str, Any]:
    return describe(references.resolve(parts.registry, caller.scope, f"{name}@{alias}", "alias"))


@router.put("/{name}/aliases/{alias}")
def set_alias(parts: Parts, caller: Caller, name: str, alias: str, body: Body) -> dict[str, Any]:
    """Point an alias at a version: {version: 2}. Deployments on the alias roll to it.

    `gate: {metric?, max_drop?, data?}` refuses (422 `gate_refused`) a version that is worse
    than the one the alias names; `gated: true` keeps this gate for every later move, `false`
    takes it away; `force: true` moves all the same.
    """
    check_name(alias, "alias")
    known(body, ("version", "gate", "gated", "force"))
    gated = _flag(body, "gated", None)
    version = _version(body)
    gate = _gate(body)
    if gated is False and gate is not None:
        raise invalid("gate", "gated is false: there is no gate to keep")
    if gated is False and _has_alias(parts, caller, name, alias):
        parts.registry.set_gate(caller.scope, name, alias, None)
    answer = _move(parts, caller, name, alias, version, gate, _flag(body, "force", False))
    if gated:
        kept = gate or Gate()
        parts.registry.set_gate(caller.scope, name, alias, kept.to_dict())
        answer["gated"] = kept.to_dict()
    return answer


@router.post("/{name}/promote")
def promote(parts: Parts, caller: Caller, name: str, body: Body) -> dict[str, Any]:
    """Let a version take an alias if it is no worse: {version, alias, gate?, force?}.

    Compares the newest evaluations of both on the same rows; without `gate` the alias's own
    counts, else the task's first figure may not drop. 422 `gate_refused` with the numbers.
    """
    if not parts.registry.versions(caller.scope, name):
        raise not_found("model", name)
    known(body, ("version", "alias", "gate", "force"))
    alias = check_name(body.get("alias"), "alias")
    version = _version(body)
    gate = _gate(body)
    if gate is None and alias not in parts.registry.gates(caller.scope, name):
        gate = Gate()
    return _move(parts, caller, name, alias, version, gate, _flag(body, "force", False))


@router.delete("/{name}/aliases/{alias}", status_code=204)
def delete_alias(parts: Parts, caller: Caller, name: str, alias: str) -> Response:
    users = [
        d.name
        for d in parts.deployments.list(caller.scope)
        if any(t.model == f"{name}@{alias}" for t in d.targets)
    ]
    if users:
        raise MeuseError(
            Code.CONFLICT, f"the alias is used by deployments: {', '.join(users)}", field="alias"
        )
    parts.registry.delete_alias(caller.scope, name, alias)
    return Response(status_code=204)


def _move(
    parts: Control,
    caller: Principal,
    name: str,
    alias: str,
    version: int,
    gate: Gate | None,
    force: bool,
) -> dict[str, Any]:
    def digest_of(data: str) -> str:
        if is_file(data):
            return parts.files.get(caller.scope, data).digest
        reference = parse_data(data, "gate.data")
        return parts.datasets.get(caller.scope, reference.name, reference.version).digest

    verdict = move_alias(
        parts.registry, caller.scope, name, alias, version,
        gate=gate, force=force, digest_of=digest_of,
    )  # fmt: skip
    parts.reconciler.wake()  # workers route by version: they hear of it when the rollout is ready
    answer: dict[str, Any] = {"model": name, "alias": alias, "version": version}
    if verdict is not None:
        answer["verdict"] = verdict.to_dict()
    kept = parts.registry.gates(caller.scope, name).get(alias)
    return answer if kept is None else {**answer, "gated": kept}


def _has_alias(parts: Control, caller: Principal, name: str, alias: str) -> bool:
    return alias in parts.registry.aliases(caller.scope, name)


def _version(body: dict[str, Any]) -> int:
    version = body.get("version")
    if isinstance(version, bool) or not isinstance(version, int):
        raise invalid("version", "a version is a number", "The body is {version: <number>}.")
    if not 0 < version < 2**31:
        raise invalid("version", f"{version} is not a version")
    return version


def _gate(body: dict[str, Any]) -> Gate | None:
    return None if body.get("gate") is None else Gate.from_dict(body["gate"])


def _flag(body: dict[str, Any], name: str, default: Any) -> Any:
    value = body.get(name, default)
    if value is not None and not isinstance(value, bool):
        raise invalid(name, f"{value!r} is not true or false")
    return value
