"""Batches under kill -9 of everything: every line answered once, and billed once."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from faults.rig import Platform, until
from serve import models

pytestmark = pytest.mark.slow

LINES = 2_000
URL = "/v1/embeddings"


class Api:
    """Calls that are made again while the platform, or a part of it, is away."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform

    def __call__(self, method: str, path: str, **more: Any) -> Any:
        headers = {"authorization": f"Bearer {self.platform.admin_key}", **more.pop("headers", {})}

        def answered() -> httpx.Response | None:
            try:
                url = f"{self.platform.url}{path}"
                response = httpx.request(
                    method, url, headers=headers, timeout=60, trust_env=False, **more
                )
            except (httpx.TransportError, FileNotFoundError, ValueError):
                return None
            return None if response.status_code == 503 else response

        response = until(answered, 100.0, 0.05)
        assert response.is_success, response.text
        return response

    def batch(self, batch_id: str) -> Any:
        return self("GET", f"/v1/batches/{batch_id}").json()

    def usage(self) -> dict[str, int]:
        rows = self("GET", "/api/usage", params={"by": "tier,meter", "fresh": True}).json()["rows"]
        return {row["meter"]: row["quantity"] for row in rows if row["tier"] == "batch"}


@pytest.fixture(scope="module")
def api(platform: Platform) -> Api:
    """With a deployment `words` that turns texts into vectors."""
    api = Api(platform)
    api(
        "POST", "/api/models/words/versions", content=models.embedder(),
        headers={"content-type": "application/onnx"},
    )  # fmt: skip
    api("PUT", "/api/deployments/words", json={"model": "words:1"})
    until(lambda: api("GET", "/api/deployments/words").json()["status"] == "ready", 100.0, 0.1)
    return api


def asks() -> bytes:
    lines = (
        {
            "custom_id": f"c{n}", "method": "POST", "url": URL,
            "body": {"model": "words", "input": ("cat", "dog")[n % 2]},
        }
        for n in range(LINES)
    )  # fmt: skip
    return "\n".join(map(json.dumps, lines)).encode()


@pytest.mark.timeout(600)
def test_every_line_once_whatever_is_killed(platform: Platform, api: Api) -> None:
    """The job's process, a worker, control and the whole platform are killed under it: each line
    has one answer, and one record of usage; nothing is an alarm."""
    upload = api("POST", "/v1/files", data={"purpose": "batch"}, files={"file": asks()}).json()
    body = {"input_file_id": upload["id"], "endpoint": URL, "completion_window": "24h"}
    batch = api("POST", "/v1/batches", json=body).json()["id"]

    def reach(lines: int) -> None:
        def reached() -> bool:
            told = api.batch(batch)
            assert told["status"] not in ("failed", "cancelled", "expired"), told["errors"]
            return bool(told["request_counts"]["completed"] >= lines)

        until(reached, 240.0, 0.02)

    reach(200)
    [child] = platform.children("job")
    assert platform.kill(child)
    reach(600)
    assert platform.kill(platform.pid("worker-0"))
    reach(1_000)
    assert platform.kill(platform.pid("control"))
    reach(1_500)
    platform.kill_supervisor()
    until(lambda: not platform.pids(), 60.0, 0.05)
    platform.start()
    until(lambda: api.batch(batch)["status"] == "completed", 240.0, 0.1)

    done = api.batch(batch)
    assert done["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
    assert done["error_file_id"] is None
    text = api("GET", f"/v1/files/{done['output_file_id']}/content").text
    answers = [json.loads(line) for line in text.splitlines()]
    assert sorted(told["custom_id"] for told in answers) == sorted(f"c{n}" for n in range(LINES))
    for told in answers:
        [vector] = told["response"]["body"]["data"]
        assert vector["embedding"][0] == 1.0 + int(told["custom_id"][1:]) % 2
    used = api.usage()
    assert (used["requests"], used["rows"]) == (LINES, LINES)
    log = (platform.home / "logs" / "ledger.log").read_text()
    assert "usage_conflict" not in log
