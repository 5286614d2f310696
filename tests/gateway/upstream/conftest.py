"""A worker in front of a real server on loopback that speaks the OpenAI API."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gateway.rig import TESTS, Rig, free_port, until
from meuse.access.sealing import Sealer
from meuse.serve.snapshot import GenerationEntry, TargetEntry, TensorEntry, UpstreamEntry

SECRET = "sk-upstream-0123456789"
SEALING = b"s" * 32
THEIRS = "vendor/model-1"
CONTEXT = 4096


class Upstream:
    """The server, and what it was asked."""

    def __init__(self, folder: Path, *tls: str, port: int = 0) -> None:
        self.port, self.log = port or free_port(), folder / "asked.jsonl"
        self.log.touch()
        script = TESTS / "gateway" / "upstream" / "server.py"
        argv = [sys.executable, str(script), str(self.port), str(self.log), *tls]
        self.process = subprocess.Popen(argv)
        until(self._listens, 60)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def asked(self) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines()
        return [told for told in map(json.loads, lines) if "body" in told]

    def was_left(self) -> bool:
        return any(json.loads(line).get("gone") for line in self.log.read_text().splitlines())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def remote_target(url: str, version: str = "far:1", secret: str = SECRET) -> TargetEntry:
    sealed = Sealer(SEALING).seal(secret, url) if secret else b""
    return TargetEntry(
        version=version,
        weight=100,
        inputs=(TensorEntry("prompt", "BYTES", (1,)),),
        outputs=(TensorEntry("text", "BYTES", (1,)),),
        replicas=(),
        platform="external",
        generation=GenerationEntry(CONTEXT),
        upstream=UpstreamEntry(url, THEIRS, sealed),
    )


class Far:
    """A deployment `acme/far` of what the upstream runs, and clients of it."""

    def __init__(self, rig: Rig, upstream: Upstream, **more: Any) -> None:
        self.rig, self.upstream = rig, upstream
        self.key = rig.key("acme", scopes=("infer",))
        self.url = f"http://127.0.0.1:{upstream.port}/v1"
        rig.deploy("acme/far", remote_target(self.url), **more)
        rig.publish()
        self.worker = rig.worker(
            external_hosts=f"http://127.0.0.1:{upstream.port}@ipv4", sealing_key=SEALING.hex()
        )
        self.http = httpx.Client(
            base_url=self.worker.url, headers={"authorization": f"Bearer {self.key}"},
            timeout=60, trust_env=False,
        )  # fmt: skip
        self.client = openai.OpenAI(
            base_url=f"{self.worker.url}/v1", api_key=self.key, max_retries=0, timeout=60,
            http_client=httpx.Client(trust_env=False, timeout=60),
        )  # fmt: skip

    def say(self, text: str, **more: Any) -> Any:
        return self.client.chat.completions.create(
            model="far", messages=[{"role": "user", "content": text}], **more
        )

    def post(self, text: str, **more: Any) -> httpx.Response:
        body = {"model": "far", "messages": [{"role": "user", "content": text}], **more}
        return self.http.post("/v1/chat/completions", json=body)

    def finals(self) -> int:
        """How many final records there are."""
        return sum(r.final for r in self.rig.records())

    def records(self, n: int) -> list[Any]:
        """The final records, once there are so many of them."""
        until(lambda: self.finals() >= n, 60)
        return [r for r in self.rig.records() if r.final]

    def close(self) -> None:
        self.http.close()
        self.client.close()


@pytest.fixture(scope="module")
def far() -> Iterator[Far]:
    rig = Rig()
    upstream = Upstream(rig.home)
    try:
        far = Far(rig, upstream, timeout_ms=1500)
        yield far
        far.close()
    finally:
        upstream.close()
        rig.close()
