"""The life of a worker: start, snapshots, control's absence, the end."""

from __future__ import annotations

import os
import time

import grpc
import httpx
import pytest

from gateway.load import Load
from gateway.rig import Rig, Worker, target, until
from meuse.meter import segments
from meuse.serve.snapshot import Snapshot
from serve import models

BODY = {"model": "m", "input_data": [[1, 2]]}


def predict(worker: Worker, key: str, body: object = BODY) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{worker.url}/predict", json=body, headers=headers, timeout=10)


def simple(rig: Rig) -> tuple[Worker, str]:
    key = rig.key()
    rig.replica("r1", "m:1", models.doubled())
    rig.deploy("acme/m", target("m:1", models.doubled(), ["r1"]))
    rig.publish()
    return rig.worker(), key


def test_it_serves_without_control_and_ledger(rig: Rig) -> None:
    """A worker that starts alone loads the file; only `/api` is away."""
    worker, key = simple(rig)
    assert predict(worker, key).json()["output_data"] == [[2.0, 4.0]]
    answer = httpx.get(f"{worker.url}/api/jobs", headers={"x-request-id": "mine"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["field"]) == (503, "unavailable", None)
    assert error["request_id"] == "mine"


def test_it_acknowledges_snapshots(rig: Rig) -> None:
    """After the acknowledgement a revoked key fails, a new one and a new deployment work."""
    worker, key = simple(rig)
    control = rig.listen()
    assert control.hellos[0] == {
        "slot": 0, "epoch": control.hellos[0]["epoch"], "pid": worker.process.pid, "loaded": 1,
    }  # fmt: skip
    assert predict(worker, key).status_code == 200  # verified, and remembered
    rig.state = Snapshot(
        number=rig.state.number, tenants=rig.state.tenants, deployments=rig.state.deployments
    )
    fresh = rig.key()
    rig.replica("r2", "n:1", models.scores())
    rig.deploy("acme/n", target("n:1", models.scores(), ["r2"]))
    assert rig.publish() == 2
    revoked = predict(worker, key)
    assert (revoked.status_code, revoked.json()["error"]["code"]) == (401, "unauthenticated")
    assert predict(worker, fresh).status_code == 200
    new = predict(worker, fresh, {"model": "n", "input_data": [[0.5] * 64]})
    assert (new.status_code, new.json()["model"]) == (200, "n:1")
    # A deployment that is gone is gone, and control that comes back hears what is loaded.
    control.close()
    deployments = {k: v for k, v in rig.state.deployments.items() if k != "acme/n"}
    rig.state = Snapshot(
        number=2, keys=rig.state.keys, tenants=rig.state.tenants, deployments=deployments
    )
    assert rig.listen().hellos[0]["loaded"] == 2
    rig.publish()
    gone = predict(worker, fresh, {"model": "n", "input_data": [[0.5] * 64]})
    assert (gone.status_code, gone.json()["error"]["field"]) == (404, "model")


def test_access_follows_the_snapshot(rig: Rig) -> None:
    """Access that is given and taken again takes effect at the acknowledgement."""
    worker, key = simple(rig)
    control = rig.listen()
    other = rig.key("blue")
    body = {"model": "acme/m", "input_data": [[1, 2]]}
    seen = []
    for access in ((), ("blue",), (), ("*",)):
        rig.deploy("acme/m", target("m:1", models.doubled(), ["r1"]), access=access)
        rig.publish()
        seen.append(predict(worker, other, body).status_code)
    assert seen == [404, 200, 404, 200]
    assert len(control.hellos) == 1
    assert predict(worker, key).status_code == 200


def test_it_starts_before_anything_is_published(rig: Rig) -> None:
    """Alive but not ready without a snapshot, or with one that cannot be read."""
    rig.snapshot_file.parent.mkdir()
    rig.snapshot_file.write_bytes(b"\xffnoise")
    worker = rig.worker()
    assert (worker.status("/health/live"), worker.status("/health/ready")) == (200, 503)
    assert worker.status("/v2/health/ready") == 503
    rig.listen()
    rig.publish()
    assert worker.status("/health/ready") == 200


def test_a_worker_whose_part_failed_ends(rig: Rig, capfd: pytest.CaptureFixture[str]) -> None:
    """What no retry expects ends the worker, drained and with a status that says so."""
    worker, key = simple(rig)
    control = rig.listen()
    assert predict(worker, key).status_code == 200
    # Too deep for the decoder: a RecursionError in the task that follows control.
    control.workers[0].write(b'{"x":' + b"[" * 20_000 + b"]" * 20_000 + b"}\n")
    control.workers[0].flush()
    assert worker.process.wait(5) == 1
    log = capfd.readouterr().err
    assert "a part of the worker ended: snapshots" in log
    assert "RecursionError" in log
    assert [r.status for r in rig.records()] == ["ok"]
    assert all(segments.is_released(path) for path in segments.list_segments(rig.journal))


def test_sigterm_finishes_what_is_in_flight(rig: Rig) -> None:
    """The answer arrives, the record is there, the journal is released, the status is 0."""
    key = rig.key()
    rig.replica("r1", "m:1", models.slow())
    rig.deploy("acme/m", target("m:1", models.slow(), ["r1"]))
    rig.publish()
    worker = rig.worker()
    load = Load(worker.url, key, [{"model": "m", "input_data": [[400]]}])
    until(lambda: rig.started("r1"))
    begun = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - begun < 8
    assert load.wait()[0][0] == 200
    assert [r.status for r in rig.records()] == ["ok"]
    assert all(segments.is_released(path) for path in segments.list_segments(rig.journal))


def test_it_ends_with_its_parent(rig: Rig) -> None:
    """The end of the lifeline ends the worker within two seconds, whatever is in flight."""
    key = rig.key()
    rig.deploy("acme/m", target("m:1", models.slow(), ["r1"]))  # no replica: it would wait
    rig.publish()
    worker = rig.worker()
    load = Load(worker.url, key, [{"model": "m", "input_data": [[1]]}])
    time.sleep(0.2)
    os.close(rig.life_write)
    begun = time.monotonic()
    worker.process.wait(5)
    assert time.monotonic() - begun < 3
    load.wait()


def test_workers_share_ports(rig: Rig) -> None:
    """A second worker binds the same gRPC port; both serve, with journals of their own."""
    worker, key = simple(rig)
    second = rig.worker(slot=1, grpc_address=worker.grpc)
    assert predict(worker, key).status_code == 200
    assert predict(second, key).status_code == 200
    assert len(segments.list_segments(rig.journal)) == 2
    assert len(rig.records()) == 2
    with grpc.insecure_channel(worker.grpc) as channel:
        grpc.channel_ready_future(channel).result(5)


@pytest.mark.parametrize("count", [1, 3])
def test_load_spreads_over_replicas(rig: Rig, count: int) -> None:
    """Every replica of a target gets work."""
    names = [f"r{i}" for i in range(count)]
    for name in names:
        rig.replica(name, "m:1", models.slow())
    key = rig.key()
    rig.deploy("acme/m", target("m:1", models.slow(), names))
    rig.publish()
    worker = rig.worker()
    load = Load(worker.url, key, [{"model": "m", "input_data": [[20]]}] * 12)
    assert [status for status, _ in load.wait()] == [200] * 12
    assert all(rig.started(name) for name in names)
