"""Every route of the data plane and every gRPC method: what works leaves a record, the rest none.

Each is in one of two tables, with what its record says or the reason why there is none. A route
that is in neither fails here before it can be shipped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
import pytest

from gateway.openai.conftest import stand_in, text_target
from gateway.rig import Rig, Worker, target, until
from gateway.upstream.conftest import SEALING, Upstream, remote_target
from meuse.access import keys
from meuse.core.nouns import METERS
from meuse.gateway.paths import ROUTES
from meuse.gateway.rpc import METHODS
from meuse.gateway.rpcservice import SERVICE
from meuse.gateway.wire import health_pb2, reflection_pb2
from meuse.gateway.wire import inference_pb2 as pb
from meuse.meter.record import UsageRecord
from serve import models

TENSORS = {"requests", "rows", "compute_ms"}
TEXTS = {"requests", "prompt_tokens", "completion_tokens"}
ROWS = [[1, 2], [3, 4]]
_TENSOR = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": ROWS}
_CHAT = {"model": "chat", "messages": [{"role": "user", "content": "say 2"}]}


@dataclass(frozen=True)
class Works:
    """`asked`: bodies, each of which is sent, with how many records it leaves. `meters`: what
    each of these has at least, and `exact` what some of them come to."""

    protocol: str
    asked: tuple[tuple[dict[str, Any], int], ...]
    meters: set[str]
    exact: dict[str, int] = field(default_factory=dict)


HTTP_WORKS = {
    "POST /predict": Works(
        "predict", (({"model": "m", "input_data": ROWS}, 1),), TENSORS, {"rows": 2, "requests": 1}
    ),
    "POST /predictions/{deployment}": Works(
        "predict", (({"input_data": ROWS}, 1), (ROWS, 1)), TENSORS, {"rows": 2, "requests": 1}  # type: ignore[arg-type]
    ),
    "POST /v2/models/{model}/infer": Works(
        "oip-rest", (({"inputs": [_TENSOR]}, 1),), TENSORS, {"rows": 2, "requests": 1}
    ),
    "POST /v2/models/{model}/versions/{version}/infer": Works(
        "oip-rest", (({"inputs": [_TENSOR]}, 1),), TENSORS, {"rows": 2, "requests": 1}
    ),
    "POST /v1/chat/completions": Works(
        "openai-chat",
        (
            (_CHAT, 1), ({**_CHAT, "stream": True}, 1),
            ({**_CHAT, "model": "far"}, 1), ({**_CHAT, "model": "far", "stream": True}, 1),
        ),
        TEXTS, {"completion_tokens": 2, "requests": 1},
    ),
    "POST /v1/completions": Works(
        "openai-completions",
        (
            ({"model": "chat", "prompt": "say 2"}, 1),
            ({"model": "chat", "prompt": "say 2", "stream": True}, 1),
            ({"model": "chat", "prompt": ["say 2", "say 2"]}, 2),
            ({"model": "far", "prompt": "say 2"}, 1),
        ),
        TEXTS, {"completion_tokens": 2, "requests": 1},
    ),
    "POST /v1/embeddings": Works(
        "openai-embeddings", (({"model": "words", "input": ["dog", "cat"]}, 1),), TENSORS,
        {"rows": 2, "requests": 1},
    ),
}  # fmt: skip

_LOOKS = "it looks at what this worker knows; no model runs"
_WAKES = "replicas start or end: their time is metered as replica time, not the request"
HTTP_FREE = {
    "GET /v2/models/{model}/versions/{version}/ready": _LOOKS,
    "GET /v2/models/{model}/ready": _LOOKS,
    "GET /v2/models/stats": _LOOKS,
    "GET /v2/models/{model}/versions/{version}/stats": _LOOKS,
    "GET /v2/models/{model}/stats": _LOOKS,
    "GET /v2/models/{model}/versions/{version}": _LOOKS,
    "GET /v2/models/{model}": _LOOKS,
    "POST /v2/repository/index": _LOOKS,
    "POST /v2/repository/models/{model}/load": _WAKES,
    "POST /v2/repository/models/{model}/unload": _WAKES,
    "GET /v1/models": _LOOKS,
    "GET /v1/models/{model}": _LOOKS,
    "GET /metrics": _LOOKS,
    "GET /v2": _LOOKS,
    "GET /v2/health/live": _LOOKS,
    "GET /v2/health/ready": _LOOKS,
    "GET /health/live": _LOOKS,
    "GET /health/ready": _LOOKS,
}
RPC_WORKS = {"ModelInfer": 1, "ModelStreamInfer": 2}
RPC_FREE = {
    "ServerLive": _LOOKS, "ServerReady": _LOOKS, "ServerMetadata": _LOOKS, "ModelReady": _LOOKS,
    "ModelMetadata": _LOOKS, "ModelStatistics": _LOOKS, "RepositoryIndex": _LOOKS,
    "RepositoryModelLoad": _WAKES, "RepositoryModelUnload": _WAKES, "Check": _LOOKS,
    "Watch": _LOOKS, "ServerReflectionInfo": _LOOKS,
}  # fmt: skip


class Plane:
    """A worker before one model of each sort: tensors, vectors, texts, and another server's."""

    def __init__(self, rig: Rig, upstream: Upstream) -> None:
        self.rig = rig
        self.key = rig.key("acme", scopes=("infer", "deploy", "usage"))
        rig.replica("r1", "m:1", models.doubled(), wait=False)
        rig.replica("r2", "words:1", models.embedder(), wait=False)
        stand_in(rig, "c1", "smol:1")
        rig.deploy("acme/m", target("m:1", models.doubled(), ["r1"]))
        rig.deploy("acme/words", target("words:1", models.embedder(), ["r2"]))
        rig.deploy("acme/chat", text_target("smol:1", ["c1"]))
        rig.deploy("acme/far", remote_target(f"http://127.0.0.1:{upstream.port}/v1"))
        rig.publish()
        self.worker: Worker = rig.worker(
            external_hosts=f"http://127.0.0.1:{upstream.port}@ipv4", sealing_key=SEALING.hex()
        )
        headers = {"authorization": f"Bearer {self.key}"}
        self.http = httpx.Client(
            base_url=self.worker.url, headers=headers, timeout=60, trust_env=False
        )

    def made_by(self, act: Callable[[], object], count: int) -> list[UsageRecord]:
        """The final records that an act leaves, once there are as many as are expected."""
        before = len(self._finals())
        act()
        until(lambda: len(self._finals()) >= before + count, 10)
        return self._finals()[before:]

    def _finals(self) -> list[UsageRecord]:
        return [record for record in self.rig.records() if record.final]


@pytest.fixture(scope="module")
def plane() -> Iterator[Plane]:
    rig = Rig()
    upstream = Upstream(rig.home)
    try:
        plane = Plane(rig, upstream)
        yield plane
        plane.http.close()
    finally:
        upstream.close()
        rig.close()


def test_every_route_and_method_is_classed() -> None:
    """Each works or is free, not both, and nothing else is in the tables."""
    routes = {f"{route.method} {route.pattern}" for route in ROUTES}
    assert HTTP_WORKS.keys() | HTTP_FREE.keys() == routes
    assert not HTTP_WORKS.keys() & HTTP_FREE.keys()
    methods = {path.rpartition("/")[2] for path in METHODS}
    assert RPC_WORKS.keys() | RPC_FREE.keys() == methods
    assert not RPC_WORKS.keys() & RPC_FREE.keys()


def path_of(pattern: str) -> str:
    model = "chat" if pattern.startswith("/v1/") else "m"
    for name, value in (("{model}", model), ("{deployment}", "m"), ("{version}", "1")):
        pattern = pattern.replace(name, value)
    return pattern


@pytest.mark.parametrize("in_pieces", [False, True], ids=["whole", "in pieces"])
@pytest.mark.parametrize("name", HTTP_WORKS)
def test_what_works_leaves_a_record(plane: Plane, name: str, in_pieces: bool) -> None:
    """One for each answer, with its meters, whether the request goes the short way (it is read
    whole) or the long one (it comes in pieces)."""
    method, pattern = name.split(" ")
    works = HTTP_WORKS[name]
    for body, count in works.asked:

        def ask(body: Any = body) -> None:
            sent = json.dumps(body).encode()
            content = iter([sent[:9], sent[9:]]) if in_pieces else sent
            answer = plane.http.request(method, path_of(pattern), content=content)
            assert answer.status_code == 200, answer.text

        records = plane.made_by(ask, count)
        assert len(records) == count
        for record in records:
            assert works.meters <= record.quantities.keys() <= set(METERS)
            assert works.exact.items() <= record.quantities.items()
            assert (record.protocol, record.status, record.tenant, record.key) == (
                works.protocol, "ok", "acme", keys.key_id(plane.key),
            )  # fmt: skip


def test_what_is_free_leaves_none(plane: Plane) -> None:
    """Whatever it answers: a call that works, made afterwards, has the only new record."""

    def walk() -> None:
        for name in HTTP_FREE:
            method, pattern = name.split(" ")
            status = plane.http.request(method, path_of(pattern)).status_code
            # Unloading is control's, which is not here; what is to be loaded runs already.
            assert status == (503 if pattern.endswith("/unload") else 200), (name, status)
        answer = plane.http.post("/predict", json={"model": "m", "input_data": ROWS})
        assert answer.status_code == 200

    (record,) = plane.made_by(walk, 1)
    assert record.protocol == "predict"


def _asked(method: str) -> list[Any]:
    """What a gRPC method is sent."""
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[2, 2])
    tensor.contents.fp32_contents.extend([1, 2, 3, 4])
    infer = pb.ModelInferRequest(model_name="m", inputs=[tensor])
    by_method: dict[str, list[Any]] = {
        "ModelInfer": [infer],
        "ModelStreamInfer": [infer, infer],
        "ModelReady": [pb.ModelReadyRequest(name="m")],
        "ModelMetadata": [pb.ModelMetadataRequest(name="m")],
        "ModelStatistics": [pb.ModelStatisticsRequest(name="m")],
        "RepositoryModelLoad": [pb.RepositoryModelLoadRequest(model_name="m")],
        "RepositoryModelUnload": [pb.RepositoryModelUnloadRequest(model_name="m")],
        "Check": [health_pb2.HealthCheckRequest()],
        "Watch": [health_pb2.HealthCheckRequest()],
        "ServerReflectionInfo": [
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE)
        ],
    }
    return by_method.get(method, [b""])


def _call(plane: Plane, channel: grpc.Channel, path: str) -> int:
    """How many messages a method answered with; of `Watch`, which never ends, the first."""
    method = path.rpartition("/")[2]
    sent = [m if isinstance(m, bytes) else m.SerializeToString() for m in _asked(method)]
    call = channel.stream_stream(path)  # the same on the wire as a unary call
    answers = call(iter(sent), metadata=[("authorization", f"Bearer {plane.key}")], timeout=20)
    if method == "Watch":
        assert next(answers) is not None
        answers.cancel()
        return 1
    try:
        return len(list(answers))
    except grpc.RpcError:
        assert method in ("RepositoryModelLoad", "RepositoryModelUnload"), method
        return 0


@pytest.mark.parametrize("path", [p for p in METHODS if p.rpartition("/")[2] in RPC_WORKS])
def test_what_works_by_grpc_leaves_a_record(plane: Plane, path: str) -> None:
    """One for each answer, in a stream too."""
    count = RPC_WORKS[path.rpartition("/")[2]]
    with grpc.insecure_channel(plane.worker.grpc) as channel:
        records = plane.made_by(lambda: _call(plane, channel, path), count)
    assert len(records) == count
    for record in records:
        assert record.quantities.keys() == TENSORS
        assert (record.quantities["requests"], record.quantities["rows"]) == (1, 2)
        assert (record.protocol, record.status) == ("oip-grpc", "ok")
        assert record.key == keys.key_id(plane.key)


def test_what_is_free_by_grpc_leaves_none(plane: Plane) -> None:
    def walk() -> None:
        with grpc.insecure_channel(plane.worker.grpc) as channel:
            for path in METHODS:
                if path.rpartition("/")[2] in RPC_FREE:
                    _call(plane, channel, path)
            _call(plane, channel, f"/{SERVICE}/ModelInfer")

    (record,) = plane.made_by(walk, 1)
    assert record.protocol == "oip-grpc"
