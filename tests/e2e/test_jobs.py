"""Jobs live: events, logs, pause, resume, retry, and their place in the queue."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e.conftest import Digits, Platform
from e2e.helpers import JSON, csv_bytes, ended, get, refused, start, succeeded, until, upload
from meuse.client import Client

MEUSE = Path(sys.executable).with_name("meuse")
SPEC = {
    "data": "jobs4-digits",
    "epochs": 60,
    "batch_size": 4,
    "config": {"hidden": [64], "dropout": 0.1},
    "seed": 4,
}
ENDLESS = {"data": "jobs4-digits", "epochs": 10_000, "batch_size": 1, "learning_rate": 1e-5}


@pytest.fixture(scope="module", autouse=True)
def data(admin: httpx.Client, digits: Digits) -> JSON:
    header = [*(f"p{i}" for i in range(64)), "digit"]
    some = zip(digits.rows[:600], digits.labels[:600], strict=True)
    return upload(admin, "jobs4-digits", csv_bytes(header, [[*row, y] for row, y in some]))


def running(client: httpx.Client, job_id: str) -> JSON:
    """The job once its first epochs are done."""

    def look() -> JSON | None:
        job: JSON = get(client, f"/api/jobs/{job_id}")
        return job if job["progress"] > 0 else None

    job: JSON = until(look, "it trains")
    return job


def ask(client: httpx.Client, job_id: str, verb: str) -> JSON:
    response = client.post(f"/api/jobs/{job_id}/{verb}")
    assert response.status_code == 202, response.text
    answer: JSON = response.json()
    return answer


def paused(client: httpx.Client, job_id: str) -> JSON:
    def look() -> JSON | None:
        job: JSON = get(client, f"/api/jobs/{job_id}")
        assert job["error"] is None
        assert job["status"] != "succeeded", "it was done before it heard of the pause"
        return job if job["status"] == "paused" else None

    job: JSON = until(look, "it is paused")
    return job


def events(lines: Iterator[str]) -> Iterator[tuple[int, str, Any]]:
    number, kind = 0, ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "id":
            number = int(value)
        elif name == "event":
            kind = value
        elif name == "data":
            yield number, kind, json.loads(value)


@pytest.mark.slow
def test_a_paused_job_ends_with_the_weights_of_one_that_was_not(admin: httpx.Client) -> None:
    """Paused in the middle and resumed, the job leaves byte for byte the same artifacts."""
    job_id = start(admin, "train", model_name="jobs4-paused", **SPEC)
    running(admin, job_id)
    assert ask(admin, job_id, "pause")["status"] in ("running", "paused")
    job = paused(admin, job_id)
    assert 0 < job["progress"] < 1
    assert (job["attempt"], job["eta_s"], job["ended"]) == (1, None, None)
    assert ask(admin, job_id, "pause")["status"] == "paused"
    refused(admin.post(f"/api/jobs/{job_id}/retry"), 409, "conflict", "job_id")
    again = ask(admin, job_id, "resume")
    assert (again["attempt"], again["status"] in ("queued", "running")) == (2, True)
    assert ask(admin, job_id, "resume")["attempt"] == 2
    assert succeeded(admin, job_id)["model"] == "jobs4-paused:1"
    assert "going on after epoch" in admin.get(f"/api/jobs/{job_id}/log").text

    succeeded(admin, start(admin, "train", model_name="jobs4-straight", **SPEC))
    made = [
        get(admin, f"/api/models/{name}/versions/1") for name in ("jobs4-paused", "jobs4-straight")
    ]
    assert made[0]["artifacts"] == made[1]["artifacts"]
    assert made[0]["metrics"] == made[1]["metrics"]


def test_events_are_taken_up_where_they_were_left(admin: httpx.Client) -> None:
    """`Last-Event-ID` continues a story; after its end it answers 204; progress has a pace."""
    job_id = start(admin, "train", model_name="jobs4-events", **SPEC)
    path, seen = f"/api/jobs/{job_id}/events", []
    with admin.stream("GET", path) as response:
        for event in events(response.iter_lines()):
            seen.append(event)
            if event[1] == "progress":
                break
    last = {"last-event-id": str(seen[-1][0])}
    with admin.stream("GET", path, headers=last) as response:
        assert response.headers["cache-control"] == "no-store"
        seen += events(response.iter_lines())
    assert [number for number, _, _ in seen] == list(range(1, len(seen) + 1))
    told = [data for _, kind, data in seen if kind == "progress"]
    assert any(0 <= data["eta_s"] < 60 for data in told if "eta_s" in data)
    epochs = [data["epoch"] for _, kind, data in seen if kind == "metrics" and "epoch" in data]
    assert epochs == list(range(1, SPEC["epochs"] + 1))
    done = admin.get(path, headers={"last-event-id": str(seen[-1][0])})
    assert (done.status_code, done.content) == (204, b"")
    bad = admin.get(path, headers={"last-event-id": "first"})
    refused(bad, 400, "invalid_field", "last-event-id")


def test_a_log_is_text(admin: httpx.Client) -> None:
    """The log of a job, whole, its last lines, and as a file."""
    job_id = start(admin, "train", model_name="jobs4-log", **{**SPEC, "epochs": 3})
    ended(admin, job_id)
    whole = admin.get(f"/api/jobs/{job_id}/log")
    assert whole.headers["content-type"] == "text/plain; charset=utf-8"
    lines = whole.text.splitlines(keepends=True)
    assert sum("epoch " in line for line in lines) >= 3
    assert admin.get(f"/api/jobs/{job_id}/log?tail=2").text == "".join(lines[-2:])
    saved = admin.get(f"/api/jobs/{job_id}/log?download=true")
    assert saved.headers["content-disposition"] == f'attachment; filename="{job_id}.log"'
    refused(admin.get(f"/api/jobs/{job_id}/log?tail=-1"), 400, "invalid_field", "tail")


def test_what_waits_knows_its_place(admin: httpx.Client, platform: Platform) -> None:
    """Priorities order a tenant's own jobs, places say so, and tenants take turns; what waits
    can be paused, and resumed into its place."""
    blockers = [start(admin, "train", model_name=f"jobs4-b{n}", **ENDLESS) for n in range(2)]
    for job_id in blockers:
        running(admin, job_id)
    waiting: dict[str, str] = {}
    for priority in ("low", "normal", "high"):
        spec = {"model_name": f"jobs4-{priority}", **ENDLESS}
        body = {"kind": "train", "spec": spec, "priority": priority}
        answer = admin.post("/api/jobs", json=body)
        assert answer.status_code == 202, answer.text
        waiting[priority] = answer.json()["id"]
        assert answer.json()["priority"] == priority
        assert answer.json()["memory_bytes"] > 400 << 20

    def places() -> list[int | None]:
        return [get(admin, f"/api/jobs/{job_id}")["queue_position"] for job_id in waiting.values()]

    assert places() == [3, 2, 1]
    assert ask(admin, waiting["high"], "pause")["status"] == "paused"
    assert places() == [2, 1, None]
    assert ask(admin, waiting["high"], "resume")["status"] == "queued"
    assert places() == [3, 2, 1]
    listed = {job["id"]: job for job in get(admin, "/api/jobs")["items"]}
    assert listed[waiting["low"]]["queue_position"] == 3
    body = {"kind": "train", "spec": {"model_name": "x", **ENDLESS}, "priority": "urgent"}
    refused(admin.post("/api/jobs", json=body), 400, "invalid_field", "priority")
    for job_id in [*waiting.values(), *blockers]:
        ask(admin, job_id, "cancel")
        assert ended(admin, job_id)["status"] == "cancelled"


@pytest.mark.slow
def test_a_failed_job_is_retried_as_the_next_attempt(
    admin: httpx.Client, platform: Platform
) -> None:
    """A job that diverged fails again the same way, as attempt 2, and its story goes on; a key
    that may not deploy cannot retry what deploys."""
    spec = {**SPEC, "model_name": "jobs4-wild", "optimizer": "gd", "learning_rate": 1000}
    job_id = start(admin, "train", deploy=True, **spec)
    assert ended(admin, job_id)["error"]["field"] == "learning_rate"
    trainer = platform.client(platform.key("train"))
    refused(trainer.post(f"/api/jobs/{job_id}/retry"), 403, "forbidden", "deploy")
    assert ask(admin, job_id, "retry")["attempt"] == 2
    job = ended(admin, job_id)
    assert (job["status"], job["attempt"]) == ("failed", 2)
    with admin.stream("GET", f"/api/jobs/{job_id}/events") as response:
        story = [data["status"] for _, kind, data in events(response.iter_lines())
                 if kind == "status"]  # fmt: skip
    assert story == ["running", "failed", "queued", "running", "failed"]
    refused(admin.post(f"/api/jobs/{job_id}/resume"), 409, "conflict", "job_id")
    refused(admin.post(f"/api/jobs/{job_id}/pause"), 409, "conflict", "job_id")


def test_the_command_line_and_the_client(admin: httpx.Client, platform: Platform) -> None:
    """`meuse jobs` pauses, resumes, follows and prints the log, as the client's methods do."""

    def meuse(*words: str) -> str:
        env = {k: v for k, v in os.environ.items() if not k.startswith("MEUSE_")}
        env |= {"MEUSE_URL": platform.url, "MEUSE_KEY": platform.admin_key}
        done = subprocess.run(
            [str(MEUSE), *words], env=env, capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    with Client(platform.url, platform.admin_key) as client:
        # One that cannot end before a busy machine has started the command line.
        endless = client.start("train", {"model_name": "jobs4-cli-long", **ENDLESS}, "high")["id"]
        running(admin, endless)
        assert "pause asked for" in meuse("jobs", endless, "--pause")
        paused(admin, endless)
        assert "paused" in meuse("jobs")
        said = json.loads(meuse("jobs", endless, "--resume", "--json"))
        assert (said["attempt"], said["priority"]) == (2, "high")
        client.cancel(endless)
        job = client.start("train", {"model_name": "jobs4-cli", **SPEC, "epochs": 5})
        out = meuse("jobs", job["id"], "--follow")
        assert out.startswith(f"{job['id']} succeeded")
        assert "test_accuracy" in out
        assert meuse("jobs", job["id"], "--log", "--tail", "1") == client.log(job["id"], tail=1)
        all_of_it = list(client.events(job["id"]))
        assert list(client.events(job["id"], after=5)) == all_of_it[5:]
