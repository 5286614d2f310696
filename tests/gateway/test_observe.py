"""Request logs and traces, through real workers and a real OTLP receiver."""

from __future__ import annotations

import gzip
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway.rig import Rig, Worker, target, until
from meuse.gateway.wire import inference_pb2 as pb
from meuse.gateway.wire.inference_pb2_grpc import GRPCInferenceServiceStub
from serve import models

BODY = {"model": "m", "input_data": [[1, 2], [3, 4]]}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """What OpenTelemetry collectors answer on `POST /v1/traces`."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                assert self.path == "/v1/traces"
                for found in ExportTraceServiceRequest.FromString(body).resource_spans:
                    collector.resources.append(_attributes(found.resource))
                    for scope in found.scope_spans:
                        collector.spans += scope.spans
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def _attributes(of: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in of.attributes}


def platform(rig: Rig, **more: Any) -> tuple[Worker, str]:
    key = rig.key()
    rig.replica("r1", "m:1", models.doubled())
    rig.deploy("acme/m", target("m:1", models.doubled(), ["r1"]))
    rig.publish()
    return rig.worker(**more), key


def predict(worker: Worker, key: str, body: Any = BODY, **headers: str) -> httpx.Response:
    given = {"authorization": f"Bearer {key}", **headers}
    return httpx.post(f"{worker.url}/predict", json=body, headers=given, timeout=10)


def rpc(worker: Worker, key: str, *metadata: tuple[str, str], columns: int = 2) -> Any:
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=(1, columns))
    tensor.contents.fp32_contents.extend([1] * columns)
    with grpc.insecure_channel(worker.grpc) as channel:
        return GRPCInferenceServiceStub(channel).ModelInfer(
            pb.ModelInferRequest(model_name="m", inputs=[tensor]),
            metadata=[("authorization", f"Bearer {key}"), *metadata],
            timeout=10,
        )


def test_spans_hold_what_was_measured(rig: Rig, collector: Collector) -> None:
    """A server span under the caller's, with the replica's queue and engine within its time."""
    worker, key = platform(rig, otlp_endpoint=collector.url)
    parent = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "rojo=1"}
    assert predict(worker, key, **parent, **{"x-request-id": "mine"}).status_code == 200
    assert until(lambda: len(collector.spans) == 3)
    spans = {span.name: span for span in collector.spans}
    server, queue, compute = spans["POST /predict"], spans["queue"], spans["compute"]
    assert (server.trace_id.hex(), server.parent_span_id.hex()) == (TRACE, PARENT)
    assert server.trace_state == "rojo=1"
    assert server.kind == server.SPAN_KIND_SERVER
    found = _attributes(server)
    assert found == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "url.path": "/predict",
        "url.scheme": "http",
        "meuse.request_id": "mine",
        "meuse.deployment": "acme/m",
        "meuse.version": "m:1",
        "meuse.rows": 2,
    }
    for child in (queue, compute):
        assert (child.trace_id, child.parent_span_id) == (server.trace_id, server.span_id)
        assert child.start_time_unix_nano <= child.end_time_unix_nano
    assert server.start_time_unix_nano <= queue.start_time_unix_nano
    assert queue.end_time_unix_nano == compute.start_time_unix_nano
    assert compute.end_time_unix_nano <= server.end_time_unix_nano
    (resource,) = collector.resources
    assert resource["service.name"] == "meuse"
    assert key not in str(collector.spans)


def test_grpc_calls_and_failures_have_spans(rig: Rig, collector: Collector) -> None:
    """By the conventions of their protocol, with the code of what went wrong."""
    worker, key = platform(rig, otlp_endpoint=collector.url)
    rpc(worker, key, ("traceparent", f"00-{TRACE}-{PARENT}-01"))
    with pytest.raises(grpc.RpcError):
        rpc(worker, key, columns=3)
    with pytest.raises(grpc.RpcError):
        rpc(worker, "nonsense")
    assert predict(worker, key, BODY | {"model": "unknown"}).status_code == 404
    until(lambda: len(collector.spans) == 6)
    name = "inference.GRPCInferenceService/ModelInfer"
    calls = {
        _attributes(span)["rpc.response.status_code"]: span
        for span in collector.spans
        if span.name == name
    }
    assert calls.keys() == {"OK", "INVALID_ARGUMENT", "UNAUTHENTICATED"}
    assert calls["OK"].trace_id.hex() == TRACE
    assert _attributes(calls["OK"])["rpc.method"] == name
    refused = _attributes(calls["INVALID_ARGUMENT"])
    assert (refused["error.type"], refused["meuse.deployment"]) == ("invalid_input", "acme/m")
    assert calls["INVALID_ARGUMENT"].trace_id != calls["OK"].trace_id
    (unknown,) = [span for span in collector.spans if span.name == "POST /predict"]
    assert _attributes(unknown)["http.response.status_code"] == 404


def test_the_parent_says_whether_to_record(rig: Rig, collector: Collector) -> None:
    """Else the ratio does; a malformed parent is none."""
    worker, key = platform(rig, otlp_endpoint=collector.url, trace_ratio=0.0)
    for given in (None, f"00-{TRACE}-{PARENT}-00", f"00-{'0' * 32}-{PARENT}-01"):
        headers = {} if given is None else {"traceparent": given}
        assert predict(worker, key, **headers).status_code == 200
    assert predict(worker, key, traceparent=f"00-{TRACE}-{PARENT}-01").status_code == 200
    assert worker.stop() == 0  # what waits is sent at the end
    assert len(collector.spans) == 3
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}


def test_a_dead_collector_costs_nothing(rig: Rig) -> None:
    """Neither one that is not there nor one that never answers delays requests or the end."""
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        urls = [f"http://127.0.0.1:{s.getsockname()[1]}" for s in (silent, closed)]
        first, key = platform(rig, otlp_endpoint=urls[0])
        workers = [first, rig.worker(slot=1, otlp_endpoint=urls[1])]
        end = time.monotonic() + 1.5  # longer than spans are gathered
        while time.monotonic() < end:
            assert {predict(worker, key).status_code for worker in workers} == {200}
        assert [worker.stop() for worker in workers] == [0, 0]


def test_one_line_per_request(rig: Rig, capfd: pytest.CaptureFixture[str]) -> None:
    """With ids, version, status and times, of both protocols; no key and no input."""
    worker, key = platform(rig, log_requests=True)
    answer = predict(worker, key, traceparent=f"00-{TRACE}-{PARENT}-00")
    assert answer.status_code == 200
    refused = predict(worker, key, {"model": "m", "input_data": [[123456]]})
    rpc(worker, key, ("x-request-id", "mine"))
    assert httpx.get(f"{worker.url}/health/live").is_success
    assert worker.stop() == 0
    text = capfd.readouterr().err
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    first, second, third = lines
    assert (first["trace_id"], first["status"], first["rows"]) == (TRACE, 200, 2)
    assert (first["deployment"], first["version"], first["code"]) == ("acme/m", "m:1", None)
    assert first["duration_ms"] >= first["compute_ms"] > 0
    assert (second["status"], second["code"], second["trace_id"]) == (400, "invalid_input", None)
    assert second["request_id"] == refused.headers["x-request-id"]
    assert (third["request_id"], third["status"], third["rows"]) == ("mine", "OK", 1)
    assert third["route"] == "inference.GRPCInferenceService/ModelInfer"
    assert key not in text
    assert "123456" not in text


def test_nothing_is_loaded_unless_it_is_wanted() -> None:
    """A worker loads neither OpenTelemetry nor Prometheus' client with its own code."""
    code = (
        "import sys, meuse.app.worker, meuse.gateway.worker;"
        "print([m for m in sys.modules if m.startswith(('opentelemetry', 'prometheus', 'requests'))"
        " or m == 'meuse.gateway.observe'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
