"""Jobs that want more than there is: memory, places in the queue, time to pause."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from faults.rig import Platform, until
from meuse.client import Client
from meuse.core.errors import Code, MeuseError

MIB = 1 << 20
ENDLESS = {"epochs": 10_000, "batch_size": 8, "learning_rate": 1e-5}


@pytest.fixture(scope="module")
def platform(make_platform: Callable[..., Platform]) -> Platform:
    """At most 1 GiB for a job, two places in the queue, and no patience with pauses."""
    return make_platform(
        f"job_memory_bytes = {1024 * MIB}\njob_concurrency = 1\n"
        "jobs_queued_per_tenant = 2\njob_pause_grace_s = 0\n"
    )


@pytest.fixture(scope="module")
def client(platform: Platform) -> Client:
    return platform.client()


def state(client: Client, job: dict[str, Any], *wanted: str) -> dict[str, Any]:
    """The job once it is in one of these states."""

    def there() -> dict[str, Any] | None:
        found = client.job(job["id"])
        return found if found["status"] in wanted else None

    return until(there, 60.0, 0.05)


@pytest.mark.slow
def test_out_of_memory_fails_alone(platform: Platform, client: Client) -> None:
    """A job that is refused memory fails with the limit named, at once and once; its log is
    kept, nothing is registered and the platform is as it was."""
    before = platform.processes()
    wide = {"epochs": 2, "optimizer": "adam", "config": {"hidden": [8192, 8192]}}
    job = state(client, client.train("hungry", "points", **wide), "failed", "succeeded")
    error = job["error"]
    assert (error["code"], error["field"]) == ("too_large", "batch_size"), client.log(job["id"])
    assert "1.00 GiB" in error["message"]
    assert "job_memory_bytes" in error["hint"]
    assert "going on" not in client.log(job["id"])
    assert "hungry" not in {model["name"] for model in client.models()}
    assert platform.processes() == before
    done = client.wait(client.train("modest", "points", epochs=1)["id"], timeout_s=60)
    assert done["result"]["model"] == "modest:1"


def test_places_in_the_queue_are_a_tenants_quota(client: Client) -> None:
    """A third job that waits is refused by the quota's name; a paused one keeps its place; a
    process that has no time to keep a checkpoint is ended, and its job paused."""
    running = client.train("jobs4-first", "points", **ENDLESS)
    state(client, running, "running")
    waiting = [client.train(f"jobs4-{n}", "points", **ENDLESS) for n in range(2)]
    assert [client.job(job["id"])["queue_position"] for job in waiting] == [1, 2]
    client.pause(waiting[0]["id"])
    with pytest.raises(MeuseError) as refusal:
        client.train("jobs4-last", "points", **ENDLESS)
    assert refusal.value.code is Code.LIMIT_EXCEEDED
    assert refusal.value.field == "jobs_queued_per_tenant"
    assert client.job(waiting[1]["id"])["queue_position"] == 1
    client.cancel(waiting[1]["id"])
    client.pause(running["id"])
    state(client, running, "paused")
    with pytest.raises(MeuseError) as refusal:
        client.train("jobs4-last", "points", **ENDLESS)
    client.resume(waiting[0]["id"])
    state(client, waiting[0], "running")
    for job in (running, waiting[0]):
        client.cancel(job["id"])
        state(client, job, "cancelled")


def test_a_job_that_can_never_fit_is_refused_with_the_numbers(
    make_platform: Callable[..., Platform],
) -> None:
    """Where all jobs together may have 100 MiB, no training is accepted, and both numbers say
    why."""
    small = make_platform(f"jobs_memory_bytes = {100 * MIB}\n")
    with pytest.raises(MeuseError) as refusal:
        small.client().train("jobs4-never", "points", epochs=1)
    assert refusal.value.code is Code.TOO_LARGE
    assert "about 0.44 GiB" in refusal.value.message
    assert "0.10 GiB" in refusal.value.message
    assert [
        job for job in small.client().jobs() if job["spec"].get("model_name") == "jobs4-never"
    ] == []
    assert small.stop() == 0
