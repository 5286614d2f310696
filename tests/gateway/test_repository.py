"""Statistics, the repository index, load and unload: over REST and gRPC, the same."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import pytest

from gateway.rig import Rig, target, until
from meuse.gateway.wire import inference_pb2 as pb
from meuse.gateway.wire.inference_pb2_grpc import GRPCInferenceServiceStub
from serve import models

if TYPE_CHECKING:
    from gateway.conftest import Platform

ZERO = {"count": 0, "ns": 0}


def auth(key: str) -> Any:
    return (("authorization", f"Bearer {key}"),)


def stats(platform: Platform, path: str) -> Any:
    answer = platform.http.get(f"/v2/models{path}/stats")
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == ["model_stats"]
    return answer.json()["model_stats"]


def test_statistics_count_rows_and_requests(platform: Platform) -> None:
    """Rows, requests, times and failures by version, in Triton's shape."""
    before = {s["version"]: s for s in stats(platform, "/table")}["1"]
    for rows in (1, 2, 3):
        body = {"input_data": [1] * rows}
        assert platform.http.post("/predictions/table", json=body).status_code == 200
    assert platform.http.post("/predictions/table", json=[99]).status_code == 500
    assert platform.http.post("/predictions/table", json=["x"]).status_code == 400
    (after,) = stats(platform, "/table/versions/1")
    assert (after["name"], after["version"]) == ("table", "1")
    assert after["inference_count"] - before["inference_count"] == 6
    assert after["execution_count"] - before["execution_count"] == 3
    assert after["last_inference"] > 1_700_000_000_000
    spent = after["inference_stats"]
    old = before["inference_stats"]
    assert spent["success"]["count"] - old["success"]["count"] == 3
    # What was refused before it was admitted is no failure of the model.
    assert spent["fail"]["count"] - old["fail"]["count"] == 1
    assert spent["success"]["ns"] > old["success"]["ns"]
    assert spent["compute_infer"]["count"] - old["compute_infer"]["count"] == 4
    assert spent["compute_input"] == spent["cache_hit"] == ZERO
    with grpc.insecure_channel(platform.worker.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        given = pb.ModelStatisticsRequest(name="table", version="1")
        (same,) = stub.ModelStatistics(given, metadata=auth(platform.key)).model_stats
        assert same.inference_count == after["inference_count"]
        assert same.inference_stats.success.ns == spent["success"]["ns"]


def test_statistics_of_several(platform: Platform) -> None:
    """Every version of a deployment; every deployment that may be called, under its name."""
    assert [s["version"] for s in stats(platform, "/double")] == ["2", "3"]
    assert [s["name"] for s in stats(platform, "/blue/shared")] == ["blue/shared"]
    assert stats(platform, "/empty") == []
    names = {s["name"] for s in stats(platform, "")}
    assert {"digits", "double", "blue/shared"} <= names
    assert "blue/private" not in names
    assert platform.http.get("/v2/models/double/versions/9/stats").status_code == 404
    with grpc.insecure_channel(platform.worker.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        got = stub.ModelStatistics(pb.ModelStatisticsRequest(), metadata=auth(platform.key))
        assert {s.name for s in got.model_stats} == names


def test_the_index_lists_what_may_be_called(platform: Platform) -> None:
    """Own names first, shared ones in full, each with its state and the reason."""
    answer = platform.http.post("/v2/repository/index")
    index = {(one["name"], one["version"]): one for one in answer.json()}
    assert index["double", "3"] == {
        "name": "double", "version": "3", "state": "READY", "reason": "",
    }  # fmt: skip
    assert index["empty", ""]["state"] == "UNAVAILABLE"
    assert index["empty", ""]["reason"] == "no version is ready"
    assert ("blue/shared", "1") in index
    assert not any("private" in name for name, _ in index)
    ready = platform.http.post("/v2/repository/index", json={"ready": True}).json()
    assert {one["name"] for one in ready} == {name for name, _ in index} - {"empty"}
    with grpc.insecure_channel(platform.worker.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        got = stub.RepositoryIndex(pb.RepositoryIndexRequest(), metadata=auth(platform.key))
        assert {(m.name, m.version) for m in got.models} == set(index)
    for body in (b"[]", b'{"ready": 1}', b"{"):
        refused = platform.http.post("/v2/repository/index", content=body)
        assert refused.status_code == 400


def test_loading_what_is_up(platform: Platform) -> None:
    """200 at once; parameters and others' models are refused. Unloading is control's to do:
    while it is away, 503."""
    url = "/v2/repository/models"
    for body in (b"", b"{}", b'{"parameters": {}}'):
        answer = platform.http.post(f"{url}/digits/load", content=body)
        assert (answer.status_code, answer.content) == (200, b"{}")
    for path, body, status, field in (
        ("digits/load", {"parameters": {"config": "{}"}}, 400, "parameters"),
        ("digits/unload", {"parameters": {"unload_dependents": True}}, 503, None),
        ("acme/digits/unload", {}, 503, None),
        ("blue/shared/load", {}, 403, "model"),
        ("blue/shared/unload", {}, 403, "model"),
        ("blue/private/load", {}, 404, "model"),
        ("nothing/unload", {}, 404, "model"),
    ):
        answer = platform.http.post(f"{url}/{path}", json=body)
        assert answer.status_code == status, (path, answer.text)
        assert field is None or f"(field: {field})" in answer.json()["error"]
    with grpc.insecure_channel(platform.worker.grpc) as channel:
        stub = GRPCInferenceServiceStub(channel)
        load, unload = pb.RepositoryModelLoadRequest, pb.RepositoryModelUnloadRequest
        assert stub.RepositoryModelLoad(load(model_name="digits"), metadata=auth(platform.key))
        with pytest.raises(grpc.RpcError) as caught:
            stub.RepositoryModelUnload(unload(model_name="digits"), metadata=auth(platform.key))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        given = load(model_name="digits")
        given.parameters["file:1/model.onnx"].bytes_param = b"x"
        with pytest.raises(grpc.RpcError) as caught:
            stub.RepositoryModelLoad(given, metadata=auth(platform.key))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_loading_waits_for_a_replica(rig: Rig) -> None:
    """It is answered once the replica is there, and with 503 when none comes in time."""
    key = rig.key("acme", scopes=("infer", "deploy"))
    rig.deploy("acme/double", timeout_ms=30_000)
    rig.deploy("acme/never", target("double:1", models.doubled(), ["x"]), timeout_ms=200)
    rig.publish()
    worker = rig.worker()
    rig.listen()
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=worker.url, headers=headers, timeout=60) as client:
        answer = client.post("/v2/repository/models/never/load")
        assert (answer.status_code, "(field: model)" in answer.text) == (503, True)
        index = client.post("/v2/repository/index").json()
        assert {one["state"] for one in index} == {"UNAVAILABLE"}
        seen: list[int] = []

        def load() -> None:
            seen.append(client.post("/v2/repository/models/double/load").status_code)

        waiting = threading.Thread(target=load)
        waiting.start()
        rig.replica("r", "double:1", models.doubled())
        assert seen == []
        # The routes have changed since it began to wait.
        entry = target("double:1", models.doubled(), ["r"])
        rig.deploy("acme/double", entry, timeout_ms=30_000)
        rig.publish()
        until(lambda: seen == [200])
        waiting.join()
        states = {m["name"]: m["state"] for m in client.post("/v2/repository/index").json()}
        assert states == {"double": "READY", "never": "UNAVAILABLE"}
