"""Models that another server runs: register one by its URL."""

from __future__ import annotations

import hashlib
import io
from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from meuse.api.context import Body, Parts, requires
from meuse.api.models import describe
from meuse.core.errors import Code, MeuseError
from meuse.core.ids import check_name
from meuse.core.nouns import Artifact, Lineage, NewVersion, Principal
from meuse.data import hosts
from meuse.registry import external

router = APIRouter(prefix="/api/models", tags=["models"])
Caller = Annotated[Principal, requires("models")]


@router.post("/{name}/external", status_code=201)
def register(parts: Parts, caller: Caller, name: str, body: Body) -> JSONResponse:
    """A version of `name` that any OpenAI-compatible server answers for: {url: its base URL,
    upstream_model, context: tokens, api_key?, tokens_per_byte?, template_tokens?}. The operator
    lists the hosts that may be named (`external_hosts`). The key is kept encrypted and shown to
    nobody; another one makes another version."""
    check_name(name)
    wanted, key = external.parse(body)
    try:
        hosts.check(wanted.url, parts.external_hosts)
    except MeuseError as error:
        if error.code is not Code.FORBIDDEN:
            raise
        raise MeuseError(
            Code.FORBIDDEN, "this platform does not call servers at that host", field="url",
            hint="Ask the operator to add it to external_hosts.",
        ) from None  # fmt: skip
    document = wanted.document()
    tenant = caller.scope.tenant
    digest, size = parts.blobs.put(tenant, io.BytesIO(document))
    artifacts = [Artifact("manifest.json", external.FORMAT, digest, size)]
    if key:
        sealed = parts.sealer.seal(key, wanted.url)
        digest, size = parts.blobs.put(tenant, io.BytesIO(sealed))
        artifacts.append(Artifact("key.sealed", external.SEALED, digest, size))
    version = parts.registry.add_version(
        caller.scope,
        NewVersion(
            model=name,
            task=external.TASK,
            artifacts=tuple(artifacts),
            signature=external.SIGNATURE,
            metrics={},
            lineage=Lineage(
                job=_job(caller, name, digest),
                dataset="",
                dataset_digest="",
                code_digest=hashlib.sha256(document).hexdigest(),
                seed=0,
                target="",
            ),
            report=wanted.report(has_key=bool(key)),
        ),
    )
    return JSONResponse(describe(version), 201)


def _job(caller: Principal, name: str, digest: str) -> str:
    """The same server without a key is one version, however often it is registered."""
    parts = "\0".join((caller.project, name, digest))
    return "external-" + hashlib.sha256(parts.encode()).hexdigest()[:32]
