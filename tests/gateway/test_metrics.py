"""`GET /metrics`: real workers, real replicas, and what a client counted itself."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

import meuse
from gateway.load import Load
from gateway.rig import Rig, Worker, target, until
from meuse.gateway import metrics
from meuse.gateway.wire import inference_pb2 as pb
from meuse.gateway.wire.inference_pb2_grpc import GRPCInferenceServiceStub
from meuse.serve import stats
from meuse.serve.snapshot import Snapshot
from serve import models

BODY = {"model": "m", "input_data": [[1, 2], [3, 4]]}
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def text_of(worker: Worker, key: str, accept: str | None = None) -> str:
    headers = {"authorization": f"Bearer {key}"} | ({"accept": accept} if accept else {})
    answer = httpx.get(f"{worker.url}/metrics", headers=headers, timeout=10)
    assert answer.status_code == 200, answer.text
    kind = answer.headers["content-type"]
    assert kind.startswith(
        "application/openmetrics-text" if accept else "text/plain; version=0.0.4"
    )
    return answer.text


def scrape(worker: Worker, key: str) -> Series:
    """Every sample by its name and labels; the text's rules are checked on the way."""
    found: Series = {}
    for family in parse_text(text_of(worker, key)):
        assert family.documentation, family.name
        assert family.type in ("counter", "gauge", "histogram"), family.name
        assert family.name.startswith("meuse_")
        for sample in family.samples:
            at = (sample.name, frozenset(sample.labels.items()))
            assert at not in found, at
            assert sample.value >= 0
            found[at] = sample.value
            if family.type == "counter":
                assert sample.name.endswith("_total")
    return found


def value(series: Series, name: str, **labels: str) -> float | None:
    return series.get((name, frozenset(labels.items())))


def by(series: Series, name: str, label: str) -> dict[str, float]:
    """The values of one family, summed by one label."""
    sums: Counter[str] = Counter()
    for (sample, labels), count in series.items():
        if sample == name:
            sums[dict(labels)[label]] += count  # type: ignore[assignment]
    return dict(sums)


def platform(rig: Rig, **more: Any) -> tuple[Worker, Worker, str, str]:
    """Two workers that serve acme/m; a key for inference, an administrator's."""
    key, admin = rig.key(), rig.key("root", scopes=("admin",))
    rig.replica("r1", "m:1", models.doubled())
    rig.deploy("acme/m", target("m:1", models.doubled(), ["r1"]), **more)
    rig.publish()
    return rig.worker(slot=0), rig.worker(slot=1), key, admin


def test_every_worker_tells_the_sum_of_all(rig: Rig) -> None:
    """Whoever is asked, requests, rows and durations add up to what the client counted."""
    first, second, key, admin = platform(rig)
    for worker, count in ((first, 3), (second, 5)):
        assert {status for status, _ in Load(worker.url, key, [BODY] * count).wait()} == {200}
    for worker in (first, second):
        labels = {"deployment": "acme/m", "version": "m:1"}

        def complete(worker: Worker = worker, labels: dict[str, str] = labels) -> Series | None:
            series = scrape(worker, admin)
            done = value(series, "meuse_requests_total", code="ok", **labels)
            return series if done == 8 else None

        series = until(complete)
        assert value(series, "meuse_rows_total", **labels) == 16
        for name in ("request_duration", "queue", "compute"):
            assert value(series, f"meuse_{name}_seconds_count", **labels) == 8
            assert value(series, f"meuse_{name}_seconds_bucket", le="+Inf", **labels) == 8
        assert value(series, "meuse_replicas", **labels) == 1
        assert value(series, "meuse_requests_ongoing", deployment="acme/m") == 0
        assert value(series, "meuse_journal_records_total") == 8
        assert sum(p.stat().st_size for p in rig.journal.iterdir()) >= (
            value(series, "meuse_journal_bytes_total") or 0
        )
        assert by(series, "meuse_snapshot_number", "worker") == {"0": 1, "1": 1}
        resident = by(series, "meuse_worker_resident_bytes", "worker")
        assert resident.keys() == {"0", "1"}
        assert all(10e6 < size < 1e9 for size in resident.values())


def test_both_formats_keep_their_rules(rig: Rig) -> None:
    """OpenMetrics by Accept, else text 0.0.4; both parse, with HELP and TYPE, and agree."""
    first, _, key, admin = platform(rig)
    assert httpx.post(
        f"{first.url}/predict", json=BODY, headers={"authorization": f"Bearer {key}"}
    ).is_success
    plain = text_of(first, admin)
    names = {line.split()[2] for line in plain.splitlines() if line.startswith("# TYPE")}
    assert names == {line.split()[2] for line in plain.splitlines() if line.startswith("# HELP")}
    documented = (Path(meuse.__file__).parents[2] / "docs" / "metrics.md").read_text()
    assert [name for name in sorted(names) if f"`{name}`" not in documented] == []
    opened = text_of(first, admin, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert opened.endswith("# EOF\n")
    families = {family.name: family for family in parse_openmetrics(opened)}
    (ok,) = families["meuse_requests"].samples
    assert (ok.name, ok.value) == ("meuse_requests_total", 1.0)
    assert ok.labels == {"deployment": "acme/m", "version": "m:1", "code": "ok"}
    buckets = [
        s.value for s in families["meuse_request_duration_seconds"].samples if "le" in s.labels
    ]
    assert buckets == sorted(buckets)
    assert len(buckets) == len(stats.LATENCY_MS) + 1


def test_no_counter_falls_when_a_worker_is_killed(rig: Rig) -> None:
    """Sums stand through SIGKILL and go on with the next worker of the slot; what is lost is
    at most what was counted after the last writing."""
    first, second, key, admin = platform(rig)
    answered: list[float] = []
    ended = threading.Event()

    def load() -> None:
        headers = {"authorization": f"Bearer {key}"}
        with httpx.Client(base_url=second.url, headers=headers) as client:
            with contextlib.suppress(httpx.TransportError):
                while client.post("/predict", json=BODY).status_code == 200:
                    answered.append(time.time() * 1000)
            ended.set()

    thread = threading.Thread(target=load)
    thread.start()
    seen: list[Series] = []
    until(lambda: (seen.append(scrape(first, admin)), len(answered) > 100)[1])
    # What the killed one tells itself is on file before it is told.
    last = scrape(second, admin)
    second.process.kill()
    thread.join()
    assert ended.is_set()
    (file,) = [s for s in stats.read_all(rig.sockets) if s.slot == 1]
    seen += [last, scrape(first, admin)]
    again = rig.worker(slot=1)
    seen += [scrape(first, admin), scrape(again, admin)]
    assert httpx.post(
        f"{again.url}/predict", json=BODY, headers={"authorization": f"Bearer {key}"}
    ).is_success
    seen.append(scrape(again, admin))
    for before, after in itertools.pairwise(seen):
        for (name, labels), count in before.items():
            if name.endswith(("_total", "_count", "_bucket", "_sum")):
                assert after[name, labels] >= count, name
    total = value(seen[-1], "meuse_requests_total", deployment="acme/m", version="m:1", code="ok")
    kept = sum(at < file.at_ms for at in answered)
    assert kept + 1 <= (total or 0) <= len(answered) + 2  # + 1 at the end, + 1 cut off


def test_every_refusal_has_its_reason(rig: Rig) -> None:
    """Each way to fail is counted once under its code, before and after admission."""
    key, admin = rig.key(), rig.key("root", scopes=("admin",))
    data = rig.key(scopes=("data",))
    rig.replica("r1", "m:1", models.doubled(), poison=True)
    rig.replica("r2", "t:1", models.picky())
    rig.replica("r3", "s:1", models.slow())
    rig.deploy("acme/m", target("m:1", models.doubled(), ["r1"]))
    rig.deploy("acme/table", target("t:1", models.picky(), ["r2"]))
    rig.deploy("acme/slow", target("s:1", models.slow(), ["r3"]), timeout_ms=250)
    rig.deploy("acme/nobody", target("n:1", models.doubled(), ["r4"]), timeout_ms=100)
    rig.deploy("acme/away", target("a:1", models.doubled(), ["r5"]), timeout_ms=30_000)
    rig.deploy("acme/empty")
    rig.publish()
    worker = rig.worker(max_waiting=1)
    nobody = httpx.Client(base_url=worker.url)
    client = httpx.Client(
        base_url=worker.url, headers={"authorization": f"Bearer {key}"}, timeout=30
    )
    with nobody, client:
        nobody.post("/predict", json=BODY)
        client.post("/predict", json=BODY, headers={"authorization": f"Bearer {data}"})
        client.post("/predict", json=BODY | {"model": "unknown"})
        client.get("/v2/models/unknown")
        client.get("/v2/nothing")
        client.post("/predict", content=b"{")
        client.post("/predict", json={"input_data": [[1, 2]]})
        client.get("/predict")
        client.post("/predict", content=b" " * (1 << 20) + b"  ")
        client.get("/api/jobs")  # control is not there
        with socket.create_connection(("127.0.0.1", worker.port)) as leaving:
            head = f"POST /predict HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
            leaving.sendall(f"{head}content-length: 100\r\n\r\nx".encode())
        with grpc.insecure_channel(worker.grpc) as channel:
            stub = GRPCInferenceServiceStub(channel)
            with pytest.raises(grpc.RpcError):
                stub.ModelInfer(pb.ModelInferRequest(model_name="m"))
            tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=(1, 2))
            tensor.contents.fp32_contents.extend([1, 2])
            waits = stub.ModelInfer.future(
                pb.ModelInferRequest(model_name="away", inputs=[tensor]),
                metadata=[("authorization", f"Bearer {key}")],
            )
            until(
                lambda: value(scrape(worker, admin), "meuse_requests_ongoing",
                              deployment="acme/away") == 1
            )  # fmt: skip
            client.post("/predict", json=BODY | {"model": "away"})
            waits.cancel()

        client.post("/predict", json=BODY | {"input_data": [[1, 2, 3]]})
        client.post("/v2/models/m/versions/9/infer", json={"inputs": []})
        client.post("/predict", json=BODY | {"model": "empty"})

        client.post("/predict", json=BODY)
        client.post("/predict", json={"model": "table", "input_data": [9]})
        client.post("/predict", json={"model": "slow", "input_data": [[600]]})
        client.post("/predict", json=BODY | {"model": "nobody"})
        load = Load(worker.url, key, [BODY | {"input_data": [[1, 666]]}])
        rig.processes[0].wait(10)
        again = rig.replica("r1", "m:1", models.doubled(), poison=True, wait=False)
        again.wait(20)
        assert load.wait()[0][0] == 422

    def complete() -> Series | None:
        series = scrape(worker, admin)
        gone = value(series, "meuse_unrouted_total", reason="cancelled")
        left = by(series, "meuse_requests_total", "code").get("cancelled")
        return series if gone and left else None

    series = until(complete)
    assert by(series, "meuse_unrouted_total", "reason") == {
        "unauthenticated": 2,
        "forbidden": 1,
        "not_found": 3,
        "invalid_json": 1,
        "invalid_field": 1,
        "method_not_allowed": 1,
        "too_large": 1,
        "unavailable": 1,
        "cancelled": 1,
    }
    assert by(series, "meuse_rejected_total", "reason") == {
        "invalid_input": 1,
        "not_found": 1,
        "unavailable": 1,
        "overloaded": 1,
    }
    codes = by(series, "meuse_requests_total", "code")
    assert {code: count for code, count in codes.items() if count} == {
        "ok": 1,
        "engine_error": 1,
        "deadline_exceeded": 1,
        "unavailable": 1,
        "quarantined": 1,
        "cancelled": 1,
    }


def test_who_sees_what(rig: Rig) -> None:
    """A tenant's key sees its own deployments by bare name and nothing of the platform; an
    administrator sees all; callers are in no label."""
    first, _, key, admin = platform(rig, access=["blue"])
    blue, usage = rig.key("blue"), rig.key("blue", scopes=("usage",))
    owner = rig.key("acme", scopes=("usage",))
    rig.deploy("blue/other", target("m:1", models.doubled(), ["r1"]))
    rig.listen()
    rig.publish()
    headers = {"authorization": f"Bearer {blue}"}
    body = BODY | {"model": "acme/m"}
    assert httpx.post(f"{first.url}/predict", json=body, headers=headers).status_code == 200
    assert httpx.get(f"{first.url}/metrics").status_code == 401
    assert httpx.get(f"{first.url}/metrics", headers=headers).status_code == 403
    mine = scrape(first, owner)
    assert by(mine, "meuse_requests_total", "deployment") == {"m": 1}
    assert by(scrape(first, usage), "meuse_requests_total", "deployment") == {"other": 0}
    assert not [name for name, _ in mine if "worker" in name or "journal" in name]
    assert "meuse_unrouted_total" not in {name for name, _ in mine}
    everything = text_of(first, admin)
    assert 'deployment="acme/m"' in everything
    for secret in (key, blue, usage, admin):
        assert secret.split("_")[2] not in everything
        assert secret.split("_")[3] not in everything
    assert "blue" not in everything.replace("blue/other", "")
    for tenant in ("acme", "blue", "root"):
        assert tenant not in text_of(first, owner)


def test_what_left_is_forgotten(rig: Rig) -> None:
    """A deployment that is gone is shown for a while, then not, then it is not kept either."""
    key, admin = rig.key(), rig.key("root", scopes=("admin",))
    rig.replica("r1", "m:1", models.doubled())
    rig.deploy("acme/m", target("m:1", models.doubled(), ["r1"]))
    rig.deploy("acme/n", target("m:1", models.doubled(), ["r1"]))
    rig.publish()
    worker = rig.worker(shown_s=0.2, kept_s=0.6)
    for name in ("m", "n"):
        assert Load(worker.url, key, [BODY | {"model": name}]).wait()[0][0] == 200
    rig.listen()
    identity = models.identity(models.FLOAT, ["n", 2])
    rig.deploy("acme/n", target("m:2", identity, ["r2"]))
    deployments = {name: d for name, d in rig.state.deployments.items() if name != "acme/m"}
    rig.state = Snapshot(
        number=rig.state.number, keys=rig.state.keys, tenants=rig.state.tenants,
        deployments=deployments,
    )  # fmt: skip
    rig.publish()
    until(lambda: by(scrape(worker, admin), "meuse_requests_total", "version") == {"m:2": 0})
    until(lambda: scrape(worker, admin) and _on_file(rig.sockets) == {"acme/n": {"m:2"}})


def test_batches_shadows_and_the_cache_are_shown() -> None:
    """Summed over workers, under the deployment and version that they belong to."""
    found = stats.TargetStats(agreed=3, differed=1, shadow_failed={"internal": 2})
    for rows in (1, 7, 8, 5000):
        found.batch.add(rows, stats.BATCH_ROWS)
    route = stats.RouteStats(cache_hits=5, cache_misses=2, targets={"m:1": found})
    slots = [stats.WorkerStats(slot, 1, at_ms=1e12, routes={"acme/m": route}) for slot in (0, 1)]
    asked = metrics.Scrape(slot=0, now_ms=1e12, owner="acme", connected={})
    samples = {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in metrics.families(slots, asked)
        for sample in family.samples
    }
    assert samples["meuse_shadow_total", ("m", "m:1", "agreed")] == 6
    assert samples["meuse_shadow_total", ("m", "m:1", "differed")] == 2
    assert samples["meuse_shadow_total", ("m", "m:1", "failed")] == 4
    assert samples["meuse_shadow_total", ("m", "m:1", "dropped")] == 0
    assert samples["meuse_cache_hits_total", ("m",)] == 10
    assert samples["meuse_cache_misses_total", ("m",)] == 4
    buckets = {"1.0": 2, "4.0": 2, "8.0": 6, "4096.0": 6, "+Inf": 8}
    for le, count in buckets.items():
        assert samples["meuse_batch_rows_bucket", ("m", "m:1", le)] == count
    assert samples["meuse_batch_rows_sum", ("m", "m:1")] == 2 * 5016


def _on_file(folder: Path) -> dict[str, set[str]]:
    (worker,) = stats.read_all(folder)
    return {name: set(route.targets) for name, route in worker.routes.items()}
