"""Chats that a replica answers by HTTP: while there is none, they wait for the next one"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gateway.rig import Rig, free_port, until
from gateway.upstream.conftest import SEALING, SECRET, THEIRS, Upstream, remote_target
from meuse.access.sealing import Sealer
from meuse.serve.snapshot import AdapterEntry, GenerationEntry, TargetEntry, UpstreamEntry


def own_target(port: int | None) -> TargetEntry:
    url = f"http://127.0.0.1:{port}/v1" if port else ""
    sealed = Sealer(SEALING).seal(SECRET, url) if url else b""
    return msgspec.structs.replace(
        remote_target("http://127.0.0.1/v1"),
        upstream=UpstreamEntry(url, THEIRS, sealed, own=True),
        generation=GenerationEntry(4096, loras={"polite": AdapterEntry("far-polite:1", "d")}),
    )


class Own:
    def __init__(self) -> None:
        self.rig = Rig()
        self.key = self.rig.key("acme", scopes=("infer",))
        self.put(None)
        # No host is allowed: ours need not be.
        self.worker = self.rig.worker(sealing_key=SEALING.hex())
        self.rig.listen()
        self.http = httpx.Client(
            base_url=self.worker.url, headers={"authorization": f"Bearer {self.key}"},
            timeout=60, trust_env=False,
        )  # fmt: skip

    def put(self, port: int | None, timeout_ms: int = 60_000) -> None:
        self.rig.deploy("acme/far", own_target(port), timeout_ms=timeout_ms)
        self.rig.publish()

    def say(self, text: str = "say 2", model: str = "far") -> httpx.Response:
        body: Any = {"model": model, "messages": [{"role": "user", "content": text}]}
        return self.http.post("/v1/chat/completions", json=body)


@pytest.fixture(scope="module")
def own() -> Iterator[Own]:
    made = Own()
    try:
        yield made
    finally:
        made.http.close()
        made.rig.close()


def test_they_wait_for_one(own: Own, tmp_path: Path) -> None:
    """Before the first is there, and while nobody listens where the last one was."""
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(own.say) for _ in range(4)]
        time.sleep(0.5)
        assert not any(each.done() for each in asked)
        first = Upstream(tmp_path)
        own.put(first.port)
        assert [each.result().status_code for each in asked] == [200] * 4
        first.close()
        asked = [pool.submit(own.say) for _ in range(4)]
        time.sleep(0.5)
        assert not any(each.done() for each in asked)
        second = Upstream(tmp_path, port=free_port())
        own.put(second.port)
        assert [each.result().json()["choices"][0]["message"]["content"] for each in asked] == [
            "w0 w1 "
        ] * 4
        second.close()


def test_what_got_no_byte_is_asked_once_more(own: Own, tmp_path: Path) -> None:
    """By the next one. A request that the second one does not survive either is an error."""
    with ThreadPoolExecutor(1) as pool:
        first = Upstream(tmp_path)
        own.put(first.port)
        asked = pool.submit(own.say, "pace 1000 2")
        until(lambda: len(first.asked()) == 1)
        first.close()
        own.put(None)
        second = Upstream(tmp_path)  # in the same log
        own.put(second.port)
        assert asked.result().json()["choices"][0]["message"]["content"] == "w0 w1 "
        assert len(second.asked()) == 2
        poison = pool.submit(own.say, "hang")
        until(lambda: len(second.asked()) == 3)
        second.close()
        third = Upstream(tmp_path)
        own.put(third.port)
        until(lambda: len(third.asked()) == 4)
        third.close()
        assert poison.result().status_code == 502


def test_not_for_ever(own: Own) -> None:
    own.put(None, timeout_ms=1500)
    began = time.monotonic()
    answer = own.say()
    assert answer.status_code == 504, answer.text
    assert time.monotonic() - began < 10
    assert [r.status for r in own.rig.records() if r.final][-1] == "error"


def test_an_adapter_is_a_model_of_the_server(own: Own, tmp_path: Path) -> None:
    server = Upstream(tmp_path)
    try:
        own.put(server.port)
        answer = own.say(model="far:polite")
        assert (answer.status_code, answer.json()["model"]) == (200, "far:polite")
        assert server.asked()[-1]["body"]["model"] == "polite"
        assert [r.version for r in own.rig.records() if r.final][-1] == "far-polite:1"
        assert own.say(model="far:rude").status_code == 404
    finally:
        server.close()


def test_one_that_is_elsewhere_is_not_asked(own: Own) -> None:
    url = "http://10.0.0.1:80/v1"
    entry = UpstreamEntry(url, THEIRS, Sealer(SEALING).seal(SECRET, url), own=True)
    own.rig.deploy("acme/far", msgspec.structs.replace(own_target(None), upstream=entry))
    own.rig.publish()
    assert own.say().status_code == 503
