"""A compress job under kill -9: it goes on within the step that it was in, and ends with the files
of an undisturbed one."""

from __future__ import annotations

from typing import Any

import pytest

from faults.rig import Platform, until
from meuse.client import Client

STEPS = [
    {"method": "prune", "rate": 0.8, "rounds": 2, "epochs": 3},
    {"method": "share", "bits": 4, "epochs": 3},
    {"method": "pack"},
]
SPEC: dict[str, Any] = {"goal": {"max_drop": 1.0}, "steps": STEPS, "sensitivity": False}
"""The parent's loop keeps a checkpoint every 50 ms (`faults.conftest.SPEC`)."""
WAIT_S = 120.0
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def client(platform: Platform) -> Client:
    return platform.client()


@pytest.fixture(scope="module")
def undisturbed(client: Client) -> dict[str, Any]:
    """The version that a job made which nobody killed."""
    done = client.wait(client.compress("reference:1", **SPEC)["id"], timeout_s=WAIT_S)
    return made_by(client, done)


def made_by(client: Client, job: dict[str, Any]) -> dict[str, Any]:
    name, _, number = job["result"]["model"].partition(":")
    return client.version(name, int(number))


def kill_child(platform: Platform) -> None:
    """SIGKILL to the job's process; waits until another has taken its place."""
    [child] = platform.children("job")
    assert platform.kill(child)
    until(lambda: child not in platform.children("job") and platform.children("job"), 60.0)


def test_killed_within_a_step_and_between_steps(
    platform: Platform, client: Client, undisturbed: dict[str, Any]
) -> None:
    """Once in the middle of a fine-tuning, once when a step was just done."""
    job = client.compress("reference:1", **SPEC)
    folder = platform.home / "jobs" / "default" / job["id"]
    until((folder / "checkpoint-round-2.safetensors").exists, WAIT_S, 0.005)
    assert not (folder / "checkpoint-step-1.json").exists()
    kill_child(platform)
    until((folder / "checkpoint-step-1.json").exists, WAIT_S, 0.005)
    kill_child(platform)
    done = client.wait(job["id"], timeout_s=WAIT_S)
    assert done["status"] == "succeeded"
    made = made_by(client, done)
    assert made["lineage"]["job"] == job["id"]
    assert made["artifacts"] == undisturbed["artifacts"], "the files differ"
    assert made["metrics"] == undisturbed["metrics"]
    assert len(client.model("reference")["versions"]) == undisturbed["version"] + 1

    lines = [data["message"] for kind, data in client.events(job["id"]) if kind == "log"]
    assert any("round-2: going on after epoch" in line for line in lines), lines
    assert any(line.endswith("step-1 was done before") for line in lines), lines
    told = [line for line in lines if line.startswith("step-1 of 3")]
    assert len(told) == 3
