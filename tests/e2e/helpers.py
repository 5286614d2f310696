"""What end-to-end tests share: waiting, checking refusals, tables of data as bytes."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from meuse.gateway.wire import inference_pb2 as wire
from meuse.gateway.wire import inference_pb2_grpc as wire_grpc

CSV = {"content-type": "text/csv"}
NPZ = {"content-type": "application/x-npz"}
JSON = dict[str, Any]


OPENAI_WORDS = {
    "unauthenticated": "invalid_api_key",
    "forbidden": "insufficient_permissions",
}


def refused(response: Any, status: int, code: str, field: str | None) -> JSON:
    """Check an error's status, code and field (httpx or requests); the error object.

    Open Inference routes have room for one text, which names the field; OpenAI's have words of
    their own.
    """
    body = response.json()
    assert response.status_code == status, body
    if isinstance(body["error"], str):
        assert field is None or f"(field: {field})" in body["error"], body
        return {"message": body["error"]}
    error: JSON = body["error"]
    if "type" in error:
        assert (error["code"], error["param"]) == (OPENAI_WORDS.get(code, code), field), body
        assert error["message"]
        assert response.headers["x-request-id"]
        return error
    assert (error["code"], error["field"]) == (code, field), body
    assert error["message"]
    assert error["request_id"] == response.headers["x-request-id"]
    return error


def refused_rpc(call: Callable[[], Any], status: grpc.StatusCode, code: str, field: str) -> str:
    """Check a gRPC call's status, and code and field in its trailing metadata; its text."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    trailer = dict(error.trailing_metadata() or ())
    assert error.code() is status, error
    assert (trailer["meuse-code"], trailer.get("meuse-field")) == (code, field), error.details()
    text: str = error.details()
    return text


def until(check: Callable[[], Any], what: str, timeout_s: float = 60.0) -> Any:
    """Poll until `check` gives something true; that."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.05)


def get(client: httpx.Client, path: str, **params: Any) -> Any:
    response = client.get(path, params=params)
    assert response.status_code == 200, response.text
    return response.json()


def ended(client: httpx.Client, job_id: str, timeout_s: float = 60.0) -> JSON:
    """The job once it has ended, in whatever way."""

    def look() -> JSON | None:
        job: JSON = get(client, f"/api/jobs/{job_id}")
        return job if job["status"] in ("succeeded", "failed", "cancelled") else None

    job: JSON = until(look, f"job {job_id} ends", timeout_s)
    return job


def succeeded(client: httpx.Client, job_id: str, timeout_s: float = 60.0) -> JSON:
    """The result of a job that must succeed."""
    job = ended(client, job_id, timeout_s)
    assert job["status"] == "succeeded", job["error"]
    result: JSON = job["result"]
    return result


def ready(client: httpx.Client, name: str) -> JSON:
    """The deployment once its latest generation serves."""

    def look() -> JSON | None:
        state: JSON = get(client, f"/api/deployments/{name}")
        assert state["status"] != "failed", state["error"]
        current = state["observed_generation"] == state["generation"]
        return state if state["status"] == "ready" and current else None

    state: JSON = until(look, f"deployment {name} is ready", 60.0)
    return state


def start(client: httpx.Client, kind: str, **spec: Any) -> str:
    """The id of a new job."""
    response = client.post("/api/jobs", json={"kind": kind, "spec": spec})
    assert response.status_code == 202, response.text
    job_id: str = response.json()["id"]
    return job_id


def upload(client: httpx.Client, name: str, content: bytes, headers: dict[str, str] = CSV) -> JSON:
    """A new dataset version (or the one that has these bytes)."""
    response = client.post("/api/datasets", params={"name": name}, content=content, headers=headers)
    assert response.status_code in (200, 201), response.text
    made: JSON = response.json()
    return made


def csv_bytes(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def npz_bytes(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def tensor(rows: Sequence[Sequence[float]], **changes: Any) -> JSON:
    """An Open Inference input of FP32 rows."""
    flat = [value for row in rows for value in row]
    shape = [len(rows), len(rows[0])]
    return {"name": "input", "shape": shape, "datatype": "FP32", "data": flat, **changes}


def rpc_infer(address: str, key: str | None, request: wire.ModelInferRequest) -> Any:
    """One gRPC call on a channel of its own."""
    return rpc(address, key, "ModelInfer", request)


def rpc(address: str, key: str | None, method: str, request: Any) -> Any:
    metadata = [] if key is None else [("authorization", f"Bearer {key}")]
    with grpc.insecure_channel(address) as channel:
        stub = wire_grpc.GRPCInferenceServiceStub(channel)
        return getattr(stub, method)(request, metadata=metadata, timeout=10.0)


def rpc_request(model: str, rows: Sequence[Sequence[float]]) -> wire.ModelInferRequest:
    request = wire.ModelInferRequest(model_name=model)
    given = request.inputs.add(name="input", datatype="FP32", shape=[len(rows), len(rows[0])])
    given.contents.fp32_contents.extend(value for row in rows for value in row)
    return request
