"""What the routes work with, and who is calling. Filled in by the composition root."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

from fastapi import Depends, Request
from fastapi import Path as InPath
from fastapi.params import Depends as DependsParam
from fastapi.responses import JSONResponse

from meuse.access.sealing import Sealer
from meuse.access.tenancy import Tenancy
from meuse.api.bell import Bell
from meuse.api.ledger import LedgerClient
from meuse.billing.alerts.ports import WebhookStore
from meuse.billing.alerts.post import Allowed
from meuse.core import openai_errors
from meuse.core.errors import Code, MeuseError, not_found
from meuse.core.ids import new_id
from meuse.core.nouns import Inspected, Limit, Principal, Scope, Signature, Spent
from meuse.core.ports import (
    BatchStore,
    Blobs,
    DatasetStore,
    DeploymentStore,
    FileStore,
    JobQueue,
    JobStore,
    LimitStore,
    RegistryStore,
    UploadStore,
)
from meuse.data.hosts import Host
from meuse.deploy.reconciler import Reconciler
from meuse.jobs.kinds import JobKind

Inspect = Callable[..., Inspected]
"""(file, format, file to write, options[, progress, timeout_s]) → what is in it; the rows are in
the file to write, in the canonical form. Read in a child process. Raises `invalid_data`."""

Spending = Callable[[Iterable[Limit]], dict[str, Spent]]
"""Budgets → what their present periods hold, by id, as this host's workers have counted."""

Profile = Callable[[Path, Path, Mapping[str, Any]], None]
"""(table, file to write, {format, target, split}): the profile as JSON, made in a child process.
Raises `invalid_field`, `invalid_data`."""

InspectModel = Callable[[Path, str], Signature]
"""(file, format) → its signature, loaded and tried in a child process. Raises `invalid_data`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """The parts behind the routes."""

    tenancy: Tenancy
    datasets: DatasetStore
    blobs: Blobs
    registry: RegistryStore
    jobs: JobStore
    queue: JobQueue
    bell: Bell
    kinds: Mapping[str, JobKind]
    deployments: DeploymentStore
    limits: LimitStore
    spent: Spending
    budgets: Callable[[], Iterable[Limit]]
    """Every limit as hosts are told of it, and those of prepaid balances."""
    webhooks: WebhookStore
    webhook_hosts: Allowed
    reconciler: Reconciler
    ledger: LedgerClient
    inspect: Inspect
    inspect_model: InspectModel
    profile: Profile
    upload_store: UploadStore
    files: FileStore
    file_blobs: Blobs
    batches: BatchStore
    uploads: Path
    max_upload_bytes: int
    max_dataset_bytes: int
    max_open_uploads: int
    max_model_bytes: int
    max_file_bytes: int
    max_tenant_file_bytes: int
    max_replicas: int
    sealer: Sealer
    external_hosts: tuple[Host, ...]
    vllm_python: str
    http_url: str
    grpc_url: str


def control_of(request: Request) -> Control:
    parts: Control = request.app.state.control
    return parts


MAX_JSON = 1 << 20

ANY = "any"
"""Not a scope: what every valid key may see."""


def requires(scope: str) -> DependsParam:
    """The caller, who must hold `scope`. Every route has one of these; a test walks them."""

    def principal(request: Request) -> Principal:
        header = request.headers.get("authorization", "")
        kind, _, key = header.partition(" ")
        caller = control_of(request).tenancy.authenticate(
            key.strip() if kind.lower() == "bearer" else None
        )
        if scope != ANY and not caller.may(scope):
            raise MeuseError(
                Code.FORBIDDEN,
                f"this key lacks the scope {scope!r}",
                field="scope",
                hint=f"It has {sorted(caller.scopes)}.",
            )
        return caller

    principal.meuse_scope = scope  # type: ignore[attr-defined]
    result: DependsParam = Depends(principal)
    return result


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON's")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:40]} is too large")
    return number


async def json_body(request: Request) -> dict[str, Any]:
    """The body as a JSON object; an empty body is `{}`. Parsed on the loop, so bounded."""
    raw = b""
    async for piece in request.stream():
        raw += piece
        if len(raw) > MAX_JSON:
            raise MeuseError(
                Code.TOO_LARGE,
                f"the body has more than {MAX_JSON} bytes",
                field="body",
                hint="Data goes to /api/datasets, rows to /predict.",
            )
    if not raw:
        return {}
    try:
        body = json.loads(raw, parse_constant=_refuse_constant, parse_float=_finite)
    except ValueError as error:
        raise MeuseError(
            Code.INVALID_JSON, f"the body is not JSON: {error}", field="body"
        ) from None
    except RecursionError:
        raise MeuseError(Code.INVALID_JSON, "the body is nested too deeply", field="body") from None
    if b"\\u" in raw:
        try:
            json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise MeuseError(
                Code.INVALID_JSON, "the body has half of a surrogate pair", field="body"
            ) from None
    if not isinstance(body, dict):
        raise MeuseError(Code.INVALID_JSON, "the body is not a JSON object", field="body")
    return body


Body = Annotated[dict[str, Any], Depends(json_body)]
Parts = Annotated[Control, Depends(control_of)]
Number = Annotated[int, InPath(ge=1, lt=2**31)]
"""A version in a path, small enough for every database."""


def tenant_scope(caller: Principal, tenant: str | None) -> Scope:
    """Whose things a call is about: the caller's, or, for an administrator, anyone's."""
    if tenant is None or tenant == caller.tenant:
        return caller.scope
    if "admin" not in caller.scopes:
        raise not_found("tenant", tenant)  # whether it exists is not the caller's business
    return Scope(tenant, caller.project)


def error_response(request: Request, error: MeuseError, **more: Any) -> JSONResponse:
    """An error as HTTP carries it, under `/v1` as OpenAI does; `more` stands beside it."""
    request_id = request.headers.get("x-request-id") or new_id("req")
    if request.url.path.startswith("/v1/"):
        body = openai_errors.dress(error)
    else:
        body = {"error": {**error.to_dict(), "request_id": request_id}, **more}
    return JSONResponse(body, error.http_status, headers={"x-request-id": request_id})
