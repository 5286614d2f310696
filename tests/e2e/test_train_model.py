"""`/train_model`, the shortest way to a model, and the jobs behind it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests

from e2e.conftest import Digits, Platform
from e2e.helpers import JSON, csv_bytes, ended, get, ready, refused, until, upload

SMALL = {"data": "pebbles", "epochs": "1", "recipe": "linear"}
ENDLESS = {"data": "pebbles", "epochs": 10_000, "batch_size": 1, "learning_rate": 1e-5}
CANCEL_S = 2.0


@pytest.fixture(scope="module")
def http(platform: Platform) -> Iterator[requests.Session]:
    """requests, with the administrator's key."""
    with requests.Session() as session:
        session.trust_env = False
        session.headers["Authorization"] = f"Bearer {platform.admin_key}"
        yield session


@pytest.fixture(scope="module", autouse=True)
def pebbles(admin: httpx.Client, digits: Digits) -> JSON:
    """A few rows of digits: training on them costs nothing."""
    header = [*(f"p{i}" for i in range(64)), "digit"]
    some = zip(digits.rows[:200], digits.labels[:200], strict=True)
    return upload(admin, "pebbles", csv_bytes(header, [[*row, label] for row, label in some]))


@pytest.fixture(scope="module")
def plain_job(platform: Platform, http: requests.Session, pebbles: JSON) -> JSON:
    """A job made as a plain user makes it, once it has ended."""
    params = {"model_name": "plain", "optimizer": "Adam", "learning_rate": "0.01", **SMALL}
    response = http.post(platform.url + "/train_model", params=params)
    assert response.status_code == 202, response.text
    answer = response.json()
    assert answer.keys() == {"job_id", "status", "model_name"}
    assert (answer["model_name"], answer["status"]) == ("plain", "queued")

    def look() -> JSON | None:
        job: JSON = http.get(f"{platform.url}/api/jobs/{answer['job_id']}").json()
        return job if job["status"] in ("succeeded", "failed", "cancelled") else None

    job: JSON = until(look, "the plain job ends")
    return job


def test_query_parameters_train_a_model(plain_job: JSON) -> None:
    """Query parameters of text alone start a job, whose spec has them typed and completed."""
    assert plain_job["status"] == "succeeded", plain_job["error"]
    assert plain_job["result"]["model"] == "plain:1"
    assert (plain_job["kind"], plain_job["progress"]) == ("train", 1.0)
    spec = plain_job["spec"]
    assert (spec["optimizer"], spec["learning_rate"], spec["epochs"]) == ("adam", 0.01, 1)
    assert (spec["data"], spec["target"], spec["recipe"]) == ("pebbles:1", "digit", "linear")


@pytest.mark.parametrize("optimizer", ["SGD", "GD", "sgd", " Gd "])
def test_optimizers_are_known_in_any_case(
    platform: Platform, http: requests.Session, admin: httpx.Client, optimizer: str
) -> None:
    """An optimizer is named in any case; the job's spec has it in lower case."""
    params = {"model_name": "cased", "optimizer": optimizer, **SMALL}
    response = http.post(platform.url + "/train_model", params=params)
    assert response.status_code == 202, response.text
    job_id = response.json()["job_id"]
    spec = get(admin, f"/api/jobs/{job_id}")["spec"]
    assert spec["optimizer"] == optimizer.strip().lower()
    assert 0 < spec["learning_rate"] < 1
    http.post(f"{platform.url}/api/jobs/{job_id}/cancel")


def test_json_waits_and_deploys(
    platform: Platform, http: requests.Session, admin: httpx.Client, digits: Digits
) -> None:
    """As JSON, wait=true answers 200 with model and metrics, and deploy=true deploys it."""
    body = {**SMALL, "model_name": "quick", "epochs": 8, "optimizer": "GD", "learning_rate": "0.3"}
    response = http.post(
        platform.url + "/train_model", json={**body, "wait": True, "deploy": True}, timeout=90
    )
    assert response.status_code == 200, response.text
    answer = response.json()
    assert (answer["status"], answer["model"]) == ("succeeded", "quick:1")
    assert (answer["model_name"], answer["deployment"]) == ("quick", "quick")
    assert 0 < answer["metrics"]["test_accuracy"] <= 1
    assert [s["model"] for s in ready(admin, "quick")["serving"]] == ["quick:1"]
    response = http.post(
        platform.url + "/predict", json={"model": "quick", "input_data": digits.rows[:2]}
    )
    assert (response.status_code, response.json()["model"]) == (200, "quick:1")
    assert len(response.json()["output_data"]) == 2


def test_wait_tells_why_a_job_failed(
    platform: Platform, http: requests.Session, admin: httpx.Client
) -> None:
    """With wait=true a failing job answers its own error, beside the job's id and status."""
    upload(admin, "lonely", csv_bytes(["x", "y"], [*([i, i % 2] for i in range(30)), [30, 9]]))
    params = {**SMALL, "model_name": "wrong", "data": "lonely"}
    response = http.post(
        platform.url + "/train_model", params={**params, "wait": "true"}, timeout=90
    )
    refused(response, 400, "invalid_data", "target")
    assert response.json()["status"] == "failed"
    job = http.get(f"{platform.url}/api/jobs/{response.json()['job_id']}").json()
    assert (job["status"], job["error"]["field"]) == ("failed", "target")
    assert job["result"] is None


def test_jobs_are_listed_newest_first(
    admin: httpx.Client, platform: Platform, plain_job: JSON
) -> None:
    """Pages follow their cursor from the newest job to the oldest, each job once."""
    seen: list[str] = []
    cursor: str | None = None
    while True:
        params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = get(admin, "/api/jobs", **params)
        seen += [job["id"] for job in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert plain_job["id"] in seen
    assert seen == sorted(set(seen), reverse=True)


def test_events_tell_the_story_and_end(admin: httpx.Client, plain_job: JSON) -> None:
    """A job's events, with status, progress, metrics and log, end when the job has ended."""
    with admin.stream("GET", f"/api/jobs/{plain_job['id']}/events") as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        events = list(_events(response.iter_lines()))
    assert {kind for _, kind, _ in events} == {"status", "progress", "metrics", "log"}
    assert [number for number, _, _ in events] == list(range(1, len(events) + 1))
    statuses = [data["status"] for _, kind, data in events if kind == "status"]
    assert statuses == ["running", "succeeded"]
    progress = [data["fraction"] for _, kind, data in events if kind == "progress"]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    middle = events[len(events) // 2][0]
    with admin.stream(
        "GET", f"/api/jobs/{plain_job['id']}/events", params={"after": middle}
    ) as response:
        assert list(_events(response.iter_lines())) == events[middle:]


def _events(lines: Iterator[str]) -> Iterator[tuple[int, str, Any]]:
    number, kind = 0, ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "id":
            number = int(value)
        elif name == "event":
            kind = value
        elif name == "data":
            yield number, kind, json.loads(value)


def test_an_ended_job_cannot_be_cancelled(admin: httpx.Client, plain_job: JSON) -> None:
    """Cancelling a job that has ended answers 409 and changes nothing."""
    error = refused(admin.post(f"/api/jobs/{plain_job['id']}/cancel"), 409, "conflict", "job_id")
    assert "succeeded" in error["message"]
    assert get(admin, f"/api/jobs/{plain_job['id']}") == plain_job


def test_jobs_are_cancelled_running_and_queued(admin: httpx.Client) -> None:
    """A running job is cancelled within 2 s and its process is gone; a queued one at once."""
    jobs = []
    for i in range(3):  # two run at once
        response = admin.post("/train_model", json={**ENDLESS, "model_name": f"endless-{i}"})
        assert response.status_code == 202, response.text
        jobs.append(response.json()["job_id"])
    for job_id in jobs[:2]:
        until(lambda i=job_id: get(admin, f"/api/jobs/{i}")["progress"] > 0, "it trains")
        assert _processes(job_id)
    assert get(admin, f"/api/jobs/{jobs[2]}")["status"] == "queued"

    cancelled = admin.post(f"/api/jobs/{jobs[2]}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (202, "cancelled")
    for job_id in jobs[:2]:
        called = time.monotonic()
        assert admin.post(f"/api/jobs/{job_id}/cancel").status_code == 202
        job = ended(admin, job_id, timeout_s=CANCEL_S)
        assert time.monotonic() - called < CANCEL_S
        assert (job["status"], job["error"]["code"]) == ("cancelled", "cancelled")
        assert _processes(job_id) == []
    assert get(admin, f"/api/jobs/{jobs[2]}")["status"] == "cancelled"
    known = {model["name"] for model in get(admin, "/api/models")["items"]}
    assert not {f"endless-{i}" for i in range(3)} & known
    for job_id in jobs:
        refused(admin.post(f"/api/jobs/{job_id}/cancel"), 409, "conflict", "job_id")


def _processes(job_id: str) -> list[int]:
    """Processes with this job's id on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if job_id.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
