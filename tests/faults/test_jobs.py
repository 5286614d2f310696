"""Jobs under kill -9: they go on from the last checkpoint and end once."""

from __future__ import annotations

import random
from typing import Any

import pytest

from faults.conftest import EPOCHS, SPEC
from faults.rig import Platform, until
from meuse.client import Client
from meuse.core.errors import Code, MeuseError

Job = dict[str, Any]


@pytest.fixture(scope="module")
def client(platform: Platform) -> Client:
    return platform.client()


def patient(call: Any) -> Any:
    """A call that is made again while control is away."""

    def answered() -> list[Any] | None:
        try:
            return [call()]
        except MeuseError as error:
            if error.code is not Code.UNAVAILABLE:
                raise
            return None

    return until(answered, 30.0, 0.05)[0]


def wait(client: Client, job: Job) -> Job:
    """The job when it has ended well, however often control was away meanwhile."""

    def ended() -> Job | None:
        state: Job = patient(lambda: client.job(job["id"]))
        assert state["status"] not in ("failed", "cancelled"), state["error"]
        return state if state["status"] == "succeeded" else None

    return until(ended, 60.0, 0.1)


def trained(client: Client, job: Job, share: float) -> int:
    """Wait until a share of the epochs is done; the last epoch that was reported."""
    until(lambda: patient(lambda: client.job(job["id"]))["progress"] >= share, 40.0, 0.02)
    return round(patient(lambda: client.job(job["id"]))["progress"] / 0.99 * EPOCHS)


def assert_ended_once(client: Client, job: Job, at_least: int, kills: int) -> None:
    """One version, equal to that of an undisturbed run, and a story without a new beginning."""
    done = wait(client, job)
    model = job["spec"]["model_name"]
    assert done["result"]["model"] == f"{model}:1"
    versions = client.model(model)["versions"]
    assert len(versions) == 1
    made, undisturbed = client.version(model, 1), client.version("reference", 1)
    assert made["lineage"]["job"] == job["id"]
    assert made["metrics"] == undisturbed["metrics"]
    assert made["artifacts"] == undisturbed["artifacts"], "the weights differ"

    events = list(client.events(job["id"]))
    statuses = [data["status"] for kind, data in events if kind == "status"]
    assert statuses.count("succeeded") == 1
    assert statuses[-1] == "succeeded"
    epochs = [data["epoch"] for kind, data in events if kind == "metrics" and "epoch" in data]
    assert epochs == sorted(epochs), [d for k, d in events if k == "log"]
    assert epochs[0] == 1
    assert epochs[-1] == EPOCHS
    # The epoch between its report and its checkpoint is the one that a kill repeats.
    assert len(epochs) - len(set(epochs)) <= kills
    resumed = [
        int(data["message"].split()[4])
        for kind, data in events
        if kind == "log" and data["message"].startswith("going on after epoch")
    ]
    assert resumed, "the job did not go on from a checkpoint"
    assert len(resumed) <= kills
    assert max(resumed) >= at_least - 1


def test_killed_child(platform: Platform, client: Client) -> None:
    """A job whose process is killed goes on from its checkpoint and ends as if nothing was."""
    job = client.train("child", "points", **SPEC)
    epoch = trained(client, job, 0.3)
    [child] = platform.children("job")
    assert platform.kill(child)
    until(lambda: child not in platform.children("job") and platform.children("job"))
    assert_ended_once(client, job, epoch, kills=1)


def test_killed_control(platform: Platform, client: Client) -> None:
    """Control's death ends the job's process; however often it dies, one version is made."""
    chance = random.Random(11)
    job = client.train("often", "points", **SPEC)
    epoch = trained(client, job, 0.2)
    [child] = platform.children("job")
    assert platform.kill(platform.pid("control"))
    until(lambda: platform.is_gone(child), 5.0)
    moment = chance.uniform(0.1, 0.7)  # of the rest of the work
    epoch = trained(client, job, (epoch / EPOCHS * (1 - moment) + moment) * 0.9)
    assert platform.kill(platform.pid("control"))
    until(lambda: patient(lambda: client.job(job["id"]))["progress"] >= 1.0, 40.0, 0.005)
    platform.kill(platform.pid("control"))
    assert_ended_once(client, job, epoch, kills=3)
    folder = platform.home / "jobs" / "default" / job["id"]
    until(lambda: {path.name for path in folder.iterdir()} == {"log.txt"})
