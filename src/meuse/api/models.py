"""Models and versions."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from meuse.api.context import Control, Number, Parts, requires
from meuse.api.jobs import submit
from meuse.api.uploads import content_type, save
from meuse.convert.spec import FORMATS
from meuse.core.clock import to_rfc3339
from meuse.core.errors import Code, MeuseError, invalid, not_found
from meuse.core.ids import check_name
from meuse.core.nouns import (
    CUSTOM,
    Artifact,
    Job,
    Lineage,
    ModelVersion,
    NewVersion,
    Principal,
    Signature,
)
from meuse.registry.external import SEALED

router = APIRouter(prefix="/api/models", tags=["models"])
Caller = Annotated[Principal, requires("models")]

_BY_TYPE = {
    "application/onnx": "onnx",
    "application/octet-stream": "onnx",
    "application/zip": "openvino",
    "": "onnx",
}
_NAMES = {
    "onnx": "model.onnx",
    "openvino": "model.zip",
    "safetensors": "model.safetensors",
    "packed": "model.packed",
}


def describe(version: ModelVersion) -> dict[str, Any]:
    body = asdict(version)
    del body["created_ms"], body["card"]  # the card has a page of its own
    return body | {"ref": version.ref, "created": to_rfc3339(version.created_ms)}


@router.get("")
def listing(parts: Parts, caller: Caller) -> dict[str, Any]:
    items = []
    for name in parts.registry.models(caller.scope):
        versions = parts.registry.versions(caller.scope, name)
        items.append(
            {
                "name": name,
                "latest": versions[-1].version,
                "versions": len(versions),
                "aliases": parts.registry.aliases(caller.scope, name),
            }
        )
    return {"items": items}


@router.get("/{name}")
def model(parts: Parts, caller: Caller, name: str) -> dict[str, Any]:
    versions = parts.registry.versions(caller.scope, name)
    if not versions:
        raise not_found("model", name)
    return {
        "name": name,
        "versions": [describe(version) for version in versions],
        "aliases": parts.registry.aliases(caller.scope, name),
    }


@router.post(
    "/{name}/versions",
    status_code=201,
    openapi_extra={"requestBody": {"content": {kind: {} for kind in _BY_TYPE if kind}}},
)
async def upload(
    request: Request,
    parts: Parts,
    caller: Caller,
    name: str,
    format: str | None = None,
    classes: Annotated[list[str] | None, Query()] = None,
) -> JSONResponse:
    """Bring a model: a single ONNX file, a zip of the .xml and .bin of an OpenVINO IR,
    safetensors with the recipe in their metadata, or a packed file (docs/packed.md).

    Formats that need conversion (`format=sklearn`, `lightgbm`, `mlflow`, `keras`,
    `huggingface`, `tensorflow`) answer 202 with an import job: {job_id, status, model_name}.

    `classes` (once per label, in the order of the indices) when the first output holds class
    indices. 201 with the new version; the same file under the same name again gives 200 and
    the version that has it.
    """
    check_name(name)
    parts.uploads.mkdir(parents=True, exist_ok=True)
    kind = _format(format, content_type(request.headers.get("content-type")))
    with tempfile.NamedTemporaryFile(dir=parts.uploads, prefix="upload-") as file:
        path = Path(file.name)
        await save(request.stream(), path, parts.max_model_bytes, "max_model_bytes")
        if kind in FORMATS:
            job = await run_in_threadpool(_convert, parts, caller, name, kind, path, classes)
            answer = {"job_id": job.id, "status": job.status, "model_name": name}
            return JSONResponse(answer, 202)
        version, new = await run_in_threadpool(_keep, parts, caller, name, kind, path, classes)
    return JSONResponse(describe(version), 201 if new else 200)


def _format(given: str | None, kind: str) -> str:
    if given is None:
        if kind not in _BY_TYPE:
            raise MeuseError(
                Code.UNSUPPORTED_MEDIA_TYPE,
                f"{kind} is not a format of models",
                field="Content-Type",
                hint="Send application/onnx, or name it: ?format=onnx.",
            )
        return _BY_TYPE[kind]
    if given not in _NAMES and given not in FORMATS:
        known = ", ".join([*_NAMES, *FORMATS])
        raise invalid("format", f"{given!r} is not a format to upload", f"Use one of: {known}.")
    return given


def _convert(
    parts: Control,
    caller: Principal,
    name: str,
    format: str,
    path: Path,
    classes: list[str] | None,
) -> Job:
    """Keep the file, and make the job that reads it in a sandbox."""
    with path.open("rb") as file:
        digest, _ = parts.blobs.put(caller.tenant, file)
    spec = {"model_name": name, "format": format, "source": {"upload": digest}}
    return submit(parts, caller, "import", {**spec, "classes": classes or None})


def _keep(
    parts: Control,
    caller: Principal,
    name: str,
    format: str,
    path: Path,
    classes: list[str] | None,
) -> tuple[ModelVersion, bool]:
    """Register the file as a version, unless it is one: (version, whether it is new)."""
    signature = _labelled(parts.inspect_model(path, format), classes)
    with path.open("rb") as file:
        digest, size = parts.blobs.put(caller.tenant, file)
    artifact = Artifact(_NAMES[format], format, digest, size)
    for version in parts.registry.versions(caller.scope, name):
        if artifact in version.artifacts and version.signature == signature:
            return version, False
    # Two uploads of one file at once are one version, as two runs of one job are.
    parts_of_id = [caller.project, name, digest, json.dumps(signature.to_dict())]
    job = "upload-" + hashlib.sha256("\0".join(parts_of_id).encode()).hexdigest()[:32]
    lineage = Lineage(job, dataset="", dataset_digest="", code_digest="", seed=0, target="")
    new = NewVersion(name, CUSTOM, (artifact,), signature, {}, lineage)
    return parts.registry.add_version(caller.scope, new), True


def _labelled(signature: Signature, classes: list[str] | None) -> Signature:
    if not classes:
        return signature
    output = signature.outputs[0]
    if len(output.shape) != 1 or "INT" not in output.datatype:
        raise invalid(
            "classes",
            f"the first output, {output.name!r}, is {output.datatype} {list(output.shape)}",
            "Labels need class indices: integers, one per row.",
        )
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise invalid("classes", "labels are at least two, and differ")
    return replace(signature, classes=tuple(classes))


@router.get("/{name}/versions/{version}")
def one(parts: Parts, caller: Caller, name: str, version: Number) -> dict[str, Any]:
    return describe(parts.registry.get_version(caller.scope, name, version))


@router.get("/{name}/versions/{version}/artifacts/{artifact}")
def download(parts: Parts, caller: Caller, name: str, version: Number, artifact: str) -> Response:
    """The bytes of an artifact, verified against its digest."""
    for item in parts.registry.get_version(caller.scope, name, version).artifacts:
        if item.name == artifact and item.format != SEALED:
            data = parts.blobs.read(caller.tenant, item.digest)
            return Response(data, media_type="application/octet-stream")
    raise not_found("artifact", artifact)
