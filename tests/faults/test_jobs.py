"""Jobs under kill -9: they go on from the last checkpoint and end once."""

from __future__ import annotations

import contextlib
import io
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest

from faults.conftest import EPOCHS, SPEC
from faults.rig import Platform, until
from meuse.client import Client
from meuse.core.errors import Code, MeuseError
from meuse.runtime import sandbox

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

    return until(ended, 240.0, 0.1)


def trained(client: Client, job: Job, share: float) -> int:
    """Wait until a share of the epochs is done; the last epoch that was reported."""
    until(lambda: patient(lambda: client.job(job["id"]))["progress"] >= share, 120.0, 0.02)
    return round(patient(lambda: client.job(job["id"]))["progress"] / 0.99 * EPOCHS)


def assert_ended_once(
    client: Client, job: Job, at_least: int, kills: int, reference: str = "reference"
) -> None:
    """One version, equal to that of an undisturbed run, and a story without a new beginning."""
    done = wait(client, job)
    model = job["spec"]["model_name"]
    assert done["result"]["model"] == f"{model}:1"
    versions = client.model(model)["versions"]
    assert len(versions) == 1
    made, undisturbed = client.version(model, 1), client.version(reference, 1)
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
    # Checkpoints are kept oftener than epochs end: a kill repeats at most the report of one.
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
    until(lambda: patient(lambda: client.job(job["id"]))["progress"] >= 1.0, 120.0, 0.005)
    platform.kill(platform.pid("control"))
    assert_ended_once(client, job, epoch, kills=3)
    folder = platform.home / "jobs" / "default" / job["id"]
    until(lambda: {path.name for path in folder.iterdir()} == {"log.txt"})


@pytest.mark.slow
def test_killed_control_while_pausing(platform: Platform, client: Client) -> None:
    """A pause that control did not live to see is one all the same; so is a resume. The weights
    are those of an undisturbed run."""
    job = client.train("held", "points", **SPEC)
    epoch = trained(client, job, 0.2)
    client.pause(job["id"])
    assert platform.kill(platform.pid("control"))
    until(lambda: patient(lambda: client.job(job["id"]))["status"] == "paused", 30.0, 0.05)
    until(lambda: not platform.children("job"))
    assert platform.kill(platform.pid("control"))
    assert patient(lambda: client.job(job["id"]))["status"] == "paused"
    assert patient(lambda: client.resume(job["id"]))["attempt"] == 2
    assert platform.kill(platform.pid("control"))
    assert_ended_once(client, job, epoch, kills=3)


@pytest.mark.slow
def test_killed_control_after_a_retry(platform: Platform, client: Client) -> None:
    """A retry that control did not live to start is started by the next one, and goes on from
    the checkpoint of the attempt before."""
    job = client.train("again", "points", **SPEC)
    epoch = trained(client, job, 0.3)
    client.cancel(job["id"])
    until(lambda: patient(lambda: client.job(job["id"]))["status"] == "cancelled", 10.0)
    assert client.retry(job["id"])["status"] == "queued"
    assert platform.kill(platform.pid("control"))
    assert_ended_once(client, job, epoch, kills=2)


CODE = """
from torch import nn

def build(shape, outputs, config):
    return nn.Sequential(nn.Linear(shape[0], 256), nn.ReLU(), nn.Dropout(0.2),
                         nn.Linear(256, outputs))
"""


@pytest.mark.timeout(400)
@pytest.mark.skipif(sandbox.survey().tier < 1, reason=sandbox.survey().text)
@pytest.mark.slow
def test_killed_and_paused_code_of_ones_own(platform: Platform, client: Client) -> None:
    """A network of the user's own, trained in the sandbox: killed, then paused, it ends with the
    weights of an undisturbed run. No process of the sandbox outlives the job's."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model.py", CODE)
    code = client.call("POST", "/api/files", content=buffer.getvalue())["digest"]
    spec = {**SPEC, "batch_size": 16, "recipe": "custom", "config": {"code": code}}
    wait(client, client.train("own-reference", "points", **spec))

    job = client.train("own", "points", **spec)
    epoch = trained(client, job, 0.2)
    [child] = platform.children("job")
    assert platform.kill(child)
    until(lambda: child not in platform.children("job") and platform.children("job"))
    until(lambda: len(inside()) <= 1)
    epoch = trained(client, job, (epoch + 2) / EPOCHS)
    client.pause(job["id"])
    until(lambda: client.job(job["id"])["status"] == "paused", 60.0)
    until(lambda: not inside())
    client.resume(job["id"])
    assert_ended_once(client, job, epoch, kills=2, reference="own-reference")


def inside() -> list[str]:
    """Processes that run foreign code."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if words[1:3] == [b"-m", b"meuse.train.custom_inside"]:
                found.append(path.parent.name)
    return found
