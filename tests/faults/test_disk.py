"""Damage on disk: found before use, told where it matters, and nobody else suffers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from faults.load import Caller
from faults.rig import Platform, until
from meuse.client import Client


@pytest.fixture(scope="module")
def platform(make_platform: Callable[[], Platform]) -> Platform:
    """A platform with two versions whose artifacts differ; "good" serves the first."""
    platform = make_platform()
    client = platform.client()
    client.wait(client.train("linear", "points", recipe="linear", epochs=1)["id"], timeout_s=60)
    client.deploy("good", "reference:1")
    client.wait_ready("good")
    return platform


@contextlib.contextmanager
def damaged(platform: Platform, client: Client, model: str, version: int) -> Iterator[None]:
    """A byte of a version's model file is another one, until the block ends."""
    digest = client.version(model, version)["artifacts"][0]["digest"]
    path = platform.home / "blobs" / "default" / digest
    whole = path.read_bytes()
    wrong = bytearray(whole)
    wrong[len(whole) // 2] ^= 0x20
    path.write_bytes(wrong)
    try:
        yield
    finally:
        path.write_bytes(whole)


def becomes(
    client: Client, name: str, status: str, error: str | None = None, seconds: float = 20.0
) -> dict[str, Any]:
    """The deployment once it has a status and says why; "good" answers all the while."""

    def there() -> dict[str, Any] | None:
        assert client.predict([[0.5] * 8], "good")["model"] == "reference:1"
        assert client.deployment("good")["status"] == "ready"
        state = client.deployment(name)
        told = state["error"] is None if error is None else error in (state["error"] or "")
        return state if state["status"] == status and told else None

    return until(there, seconds)


@pytest.mark.slow
def test_damaged_model(platform: Platform) -> None:
    """A deployment of a damaged model fails and says why; nothing else suffers."""
    client = platform.client()
    with damaged(platform, client, "linear", 1):
        client.deploy("bad", "linear:1")
        assert becomes(client, "bad", "failed", "is damaged")["replicas"] == 0
        # A sound version in its place: what was said of the damaged one holds no longer.
        client.deploy("bad", "reference:1")
        assert client.wait_ready("bad")["error"] is None
    client.undeploy("bad")


def test_damaged_under_a_running_deployment(platform: Platform) -> None:
    """Damage under a running deployment: degraded, then failed, and ready again once mended."""
    client = platform.client()
    client.deploy("worn", "linear:1", scale={"min": 2}, timeout_ms=600)
    client.wait_ready("worn")
    first, second = platform.replicas("default/worn").values()
    with (
        damaged(platform, client, "linear", 1),
        contextlib.closing(Caller(platform.port, platform.admin_key, "worn")) as caller,
    ):
        platform.kill(first)
        becomes(client, "worn", "degraded", "is damaged")
        assert caller.call().status == 200
        platform.kill(second)
        becomes(client, "worn", "failed", "is damaged")
        outcome = caller.call()
        assert outcome.status == 503, outcome
        assert json.loads(outcome.body)["error"]["code"] == "unavailable"
        assert outcome.seconds < 2, "it waits for its deadline, not longer"
    becomes(client, "worn", "ready", seconds=30.0)
