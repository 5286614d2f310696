"""Predict jobs under kill -9: every row answered once, and billed once."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from faults.conftest import write_points
from faults.rig import Platform, until
from faults.test_jobs import patient
from meuse.client import Client

ROWS = 20_000
"""Enough for seconds of work: progress is told twice a second."""
SPEC: dict[str, Any] = {"model": "reference:1", "keep": ["x0", "kind"], "batch_rows": 5}


@pytest.fixture(scope="module")
def client(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Client:
    """With a dataset `many` of `ROWS` rows."""
    made = platform.client()
    made.upload("many", write_points(tmp_path_factory.mktemp("many") / "many.csv", ROWS))
    return made


def wait(client: Client, job: dict[str, Any]) -> dict[str, Any]:
    """The job when it has ended well, however often control was away meanwhile."""

    def ended() -> dict[str, Any] | None:
        state: dict[str, Any] = patient(lambda: client.job(job["id"]))
        assert state["status"] not in ("failed", "cancelled"), state["error"]
        return state if state["status"] == "succeeded" else None

    return until(ended, 240.0, 0.1)


def batch_rows(client: Client) -> int:
    answer = client.usage(by="tier,meter", fresh=True)
    return sum(
        row["quantity"]
        for row in answer["rows"]
        if (row["tier"], row["meter"]) == ("batch", "rows")
    )


def reach(client: Client, job: dict[str, Any], share: float) -> None:
    until(lambda: patient(lambda: client.job(job["id"]))["progress"] >= share, 240.0, 0.01)


@pytest.mark.slow
def test_rows_and_usage_exactly_once(platform: Platform, client: Client) -> None:
    """The child is killed twice and control twice, once while the job ends: the result is that
    of an undisturbed job, byte for byte, and so is the bill."""
    before = batch_rows(client)
    calm = wait(client, client.predict_data("many", "calm", **SPEC))
    assert batch_rows(client) - before == ROWS

    job = client.predict_data("many", "killed", **SPEC)
    for share in (0.2, 0.5):
        reach(client, job, share)
        [child] = platform.children("job")
        assert platform.kill(child)
        until(lambda child=child: child not in platform.children("job"))
    reach(client, job, 0.7)
    assert platform.kill(platform.pid("control"))
    reach(client, job, 0.98)
    until(lambda: not platform.children("job"), 60.0, 0.002)
    platform.kill(platform.pid("control"))
    done = wait(client, job)

    found = {d["name"]: d for d in patient(client.datasets) if d["name"] in ("calm", "killed")}
    assert found["killed"]["rows"] == ROWS
    assert found["killed"]["digest"] == found["calm"]["digest"]
    assert done["result"]["data"] == "killed:1"
    assert calm["result"]["model"] == done["result"]["model"] == "reference:1"
    blob = platform.home / "blobs" / "default" / found["killed"]["digest"]
    rows = list(csv.DictReader(io.StringIO(blob.read_text())))
    assert len({row["x0"] for row in rows}) > ROWS * 0.99  # six digits may meet by chance
    story = [data["message"] for kind, data in client.events(job["id"]) if kind == "log"]
    assert sum(message.startswith("going on after row") for message in story) >= 2
    until(lambda: batch_rows(client) - before == 2 * ROWS, 30.0, 0.2)
