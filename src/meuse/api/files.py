"""Files for jobs to come: code for a custom recipe, a model to import by a spec."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool

from meuse.api.context import Control, Parts, requires
from meuse.api.uploads import save
from meuse.core.nouns import Principal

router = APIRouter(prefix="/api/files", tags=["files"])
Caller = Annotated[Principal, requires("train")]


@router.post("", status_code=201)
async def upload(request: Request, parts: Parts, caller: Caller) -> dict[str, Any]:
    """Keep the body as a file of the caller's tenant: {digest, bytes}. Nothing reads it until
    a job names its digest (`config.code` of the recipe custom, `source.upload` of an import).
    """
    parts.uploads.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=parts.uploads, prefix="upload-") as file:
        path = Path(file.name)
        await save(request.stream(), path, parts.max_model_bytes, "max_model_bytes")
        digest, size = await run_in_threadpool(_keep, parts, caller, path)
    return {"digest": digest, "bytes": size}


def _keep(parts: Control, caller: Principal, path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        return parts.blobs.put(caller.tenant, file)
