"""A worker in front of stand-ins for replicas of language models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from gateway.rig import TESTS, Rig, Worker, _listens, until
from meuse.serve.snapshot import (
    AdapterEntry,
    GenerationEntry,
    ReplicaEntry,
    TargetEntry,
    TensorEntry,
)

CONTEXT = 2048


def text_target(version: str, replicas: list[str], **more: Any) -> TargetEntry:
    entry = GenerationEntry(
        more.pop("context", CONTEXT), 1.0, 8, more.pop("family", "hermes"),
        {name: AdapterEntry(f"{name}:1", name, 1_710_000_000_000)
         for name in more.pop("adapters", ())},
    )  # fmt: skip
    return TargetEntry(
        version=version,
        weight=100,
        inputs=(TensorEntry("prompt", "BYTES", (1,)),),
        outputs=(TensorEntry("text", "BYTES", (1,)),),
        replicas=tuple(ReplicaEntry(replica) for replica in replicas),
        platform="llm",
        created_ms=1_700_000_000_000,
        generation=entry,
        **more,
    )


def stand_in(rig: Rig, replica: str, version: str, **more: Any) -> Any:
    """A process that answers as a replica would; it listens."""
    socket = rig.sockets / f"{replica}.sock"
    given = {"id": replica, "version": version, "socket": str(socket), **more}
    process = rig._start(TESTS / "gateway" / "openai" / "standin.py", given, [])
    until(lambda: _listens(socket), 60)
    return process


class Chat:
    """A deployment `acme/chat` with one replica, and clients of it."""

    def __init__(self, rig: Rig, **more: Any) -> None:
        self.rig = rig
        self.key = rig.key("acme", scopes=("infer",))
        self.blue = rig.key("blue", scopes=("infer",))
        self.usage = rig.key("acme", scopes=("usage",))
        self.replica = stand_in(rig, "c1", "smol:1", **more.pop("replica", {}))
        target = text_target("smol:1", ["c1"], adapters=("law",))
        rig.deploy("acme/chat", target, timeout_ms=more.pop("timeout_ms", 10_000))
        rig.publish()
        self.worker: Worker = rig.worker(**more.pop("worker", {}))
        self.http = httpx.Client(
            base_url=self.worker.url,
            headers={"authorization": f"Bearer {self.key}"},
            timeout=60,
            trust_env=False,
        )
        self.clients: list[openai.OpenAI] = []
        self.client = self.openai(self.key)

    def openai(self, key: str, retries: int = 0) -> openai.OpenAI:
        client = openai.OpenAI(
            base_url=f"{self.worker.url}/v1", api_key=key, max_retries=retries, timeout=60,
            http_client=httpx.Client(trust_env=False, timeout=60),
        )  # fmt: skip
        self.clients.append(client)
        return client

    def say(self, text: str, **more: Any) -> Any:
        return self.client.chat.completions.create(
            model="chat", messages=[{"role": "user", "content": text}], **more
        )

    def records(self, n: int = 1) -> list[Any]:
        """The final records, once there are so many of them."""
        found = lambda: [r for r in self.rig.records() if r.final]  # noqa: E731
        return until(lambda: found() if len(found()) >= n else None)

    def close(self) -> None:
        self.http.close()
        for client in self.clients:
            client.close()


@pytest.fixture
def chat(rig: Rig) -> Iterator[Chat]:
    """One of its own."""
    chat = Chat(rig)
    yield chat
    chat.close()


@pytest.fixture(scope="module")
def served() -> Iterator[Chat]:
    """One that tests share: nobody kills it."""
    rig = Rig()
    try:
        chat = Chat(rig)
        yield chat
        chat.close()
    finally:
        rig.close()
