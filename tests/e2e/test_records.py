"""Jobs of a running platform leave records, each under its own id; and usage from outside."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import httpx

from e2e.conftest import Platform
from e2e.helpers import JSON, get, refused, start, succeeded, until
from meuse.client import Client
from meuse.meter.jobs import record_id

BATCH = "application/cloudevents-batch+json"


def recorded(platform: Platform) -> dict[bytes, dict[str, int]]:
    """Quantities by id, of jobs."""
    path = f"file:{platform.home / 'money.db'}?mode=ro"
    with closing(sqlite3.connect(path, uri=True)) as money:
        rows = money.execute("SELECT id, quantities FROM usage_record WHERE source = 'job'")
        return {bytes(id_): json.loads(text) for id_, text in rows}


def ids_of(job: JSON) -> dict[str, bytes]:
    """Under which a job's first attempt may have its record, by the meter that it must have."""
    return {
        "rows": record_id(job["id"]),
        "training_ms": record_id(job["id"], "attempt:1"),
        "compute_ms": record_id(job["id"], "worked:1"),
    }


METERED = {"train": "training_ms", "search": "training_ms", "compress": "training_ms",
           "predict": "rows", "evaluate": "compute_ms", "ingest": "compute_ms",
           "import": "compute_ms", "tune": "compute_ms"}  # fmt: skip


def test_every_job_that_ran_has_a_record(
    platform: Platform, admin: httpx.Client, trained: JSON, compressed: JSON, digits: Any
) -> None:
    """Whatever jobs there are by now, and at least one of five kinds."""
    started = [
        start(admin, "evaluate", models=[trained["model"]], data="digits"),
        start(admin, "predict", model=trained["model"], data="digits", output="records-out"),
    ]
    answer = admin.post(
        "/api/datasets", params={"name": "records-in", "async": "true"}, content=digits.csv,
        headers={"content-type": "text/csv"},
    )  # fmt: skip
    assert answer.status_code == 202, answer.text
    for job_id in (*started, answer.json()["id"]):
        succeeded(admin, job_id)
    jobs = [
        job
        for job in get(admin, "/api/jobs", limit=200)["items"]
        if job["status"] == "succeeded" and job["kind"] in METERED and job.get("attempt", 1) == 1
    ]
    assert {"train", "compress", "evaluate", "predict", "ingest"} <= {job["kind"] for job in jobs}

    def missing() -> list[JSON]:
        found = recorded(platform)
        return [
            job
            for job in jobs
            if found.get(ids_of(job)[METERED[job["kind"]]], {}).get(METERED[job["kind"]], 0) <= 0
        ]

    until(lambda: not missing(), f"every job is recorded: {missing()}")


def test_usage_of_a_service_elsewhere_is_billed(
    platform: Platform, admin: httpx.Client, tenant: Callable[[str], str], tmp_path: Any
) -> None:
    """Reported with a key of its own scope, once, shown in usage and on the invoice; the journal
    says how all that stands, and counting again agrees."""
    name = tenant("metering4")
    service = platform.client(platform.key("usage:write", tenant=name))
    mine = platform.client(platform.key("usage", "billing", tenant=name))
    event = {
        "specversion": "1.0", "id": "e-1", "source": "https://storage.example.com",
        "type": "com.example.stored", "data": {"model": "disk", "quantities": {"rows": 3000}},
    }  # fmt: skip

    def report(client: httpx.Client, *events: JSON) -> httpx.Response:
        return client.post(
            "/api/usage/events", content=json.dumps(events), headers={"content-type": BATCH}
        )

    assert report(service, event, {**event, "id": "e-2"}).json() == {
        "accepted": 2, "duplicates": 0, "late": [],
    }  # fmt: skip
    assert report(service, event).json()["duplicates"] == 1
    single = service.post(
        "/api/usage/events", json=event, headers={"content-type": "application/cloudevents+json"}
    )
    assert single.json()["duplicates"] == 1
    other = {**event, "data": {"model": "disk", "quantities": {"rows": 1}}}
    refused(report(service, other), 409, "conflict", "events[0].id")
    answer = report(service, {**event, "id": "e-3"}, {**event, "source": "gateway"})
    error = refused(answer, 400, "invalid_field", "events[1].source")
    assert "platform's own" in error["message"]
    assert [row["index"] for row in answer.json()["events"]] == [1]
    refused(service.post("/api/usage/events", json=event), 415, "unsupported_media_type",
            "content-type")  # fmt: skip
    refused(report(service, {**event, "subject": "default"}), 403, "forbidden", "events[0].subject")
    refused(report(mine, event), 403, "forbidden", "scope")
    huge = {**event, "id": "e-4", "data": {"note": "x" * (1 << 20)}}
    refused(report(service, huge), 413, "too_large", "body")
    rows = get(mine, "/api/usage", by="model,meter", fresh="true")["rows"]
    assert rows == [{"model": f"{name}/disk", "meter": "rows", "quantity": 6000}]
    month = datetime.now(UTC).strftime("%Y-%m")
    invoice = mine.post("/api/invoices", json={"period": month}).json()
    assert (invoice["total"], invoice["unrated"]) == ("3.00", [])
    with Client(platform.url, platform.admin_key) as client:
        done = client.push_usage([{**event, "id": f"b-{n}", "subject": name} for n in range(1_500)])
        assert (done["accepted"], done["late"]) == (1_500, [])
        state = client.journal()
        assert state["quarantined"] == []
        assert {w["mode"] for w in state["writers"] if w["live"]} == {"group"}
        assert all(not w["refusing"] and w["lost"] == 0 for w in state["writers"])
        day = datetime.now(UTC).strftime("%Y-%m-%d")
        until(lambda: client.journal()["behind_bytes"] == 0, "the journal is in")
        report_of = client.recount_usage(day, f"{day}T23:45:00Z")
        assert report_of["differences"] == []
        assert report_of["in_database"] >= 1_502
