"""A language model's replica is killed before or while it talks: what its client hears, and what
it costs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

import helpers_llm
from faults.rig import Platform, until
from helpers_tiny_llm import write_gguf

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SLOW_S = 240.0
ASKED: Any = [{"role": "user", "content": "Tell a long story."}]
LONG = "x" * 16_000


@contextlib.contextmanager
def serving(weights: Path, home: Path) -> Iterator[Platform]:
    """A platform of its own with a deployment `chat`."""
    home.mkdir()
    (home / "meuse.toml").write_text(f'import_folders = "{weights.parent}"\n')
    platform = Platform(home)
    try:
        client = platform.start().client()
        job = client.pull(f"file:{weights}", "model")
        client.wait(job["id"], timeout_s=SLOW_S)
        client.deploy("chat", "model:1", engine={"cache_mb": 128, "max_sequences": 4})
        client.wait_ready("chat", SLOW_S)
        yield platform
    finally:
        platform.close()


@pytest.fixture
def talking(tmp_path: Path) -> Iterator[Platform]:
    """With real weights."""
    with serving(helpers_llm.weights(), tmp_path / "home") as platform:
        yield platform


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Platform]:
    """With next to no weights, and room for a prompt that takes seconds to be read all the same."""
    weights = write_gguf(tmp_path / "tiny.gguf", context=1 << 16)
    with serving(weights, tmp_path / "home") as platform:
        yield platform


def tokens(part: Any) -> int:
    """How many a chunk brings: each has an entry of its own."""
    logprobs = part.choices[0].logprobs if part.choices else None
    return len(logprobs.content or []) if logprobs else 0


def billed(platform: Platform, wanted: int) -> bool:
    """Whether so many tokens of answers are; never are it more."""
    rows = platform.client().usage(by="meter", fresh=True)["rows"]
    found = {row["meter"]: row["quantity"] for row in rows}
    assert found.get("completion_tokens", 0) <= wanted, found
    return bool(found.get("completion_tokens") == wanted)


def test_a_replica_killed_amid_a_stream_ends_it_cleanly_and_is_billed_exactly(
    talking: Platform,
) -> None:
    """Two streams get an error as their last event; what they were sent is what is billed, to
    the token, once; a new replica answers the next."""
    with openai.OpenAI(
        api_key=talking.admin_key, base_url=f"{talking.url}/v1", max_retries=0, timeout=SLOW_S
    ) as client:
        given: Any = {"model": "chat", "messages": ASKED, "max_tokens": 2000, "logprobs": True,
                      "extra_body": {"ignore_eos": True}}  # fmt: skip
        streams = [client.chat.completions.create(**given, stream=True) for _ in range(2)]
        seen = [0, 0]
        for i, stream in enumerate(streams):
            while seen[i] < 8:
                seen[i] += tokens(next(stream))
        [pid] = talking.replicas("default/chat").values()
        assert talking.kill(pid)
        for i, stream in enumerate(streams):
            came: list[int] = []
            with pytest.raises(openai.APIError) as caught:
                came.extend(map(tokens, stream))
            assert "in the middle" in caught.value.message
            seen[i] += sum(came)

        def answered() -> Any:
            try:
                return client.chat.completions.create(**{**given, "max_tokens": 3})
            except openai.InternalServerError:  # 503: it is not there yet
                return None

        last = until(answered, SLOW_S, 0.5)
    assert last.usage.completion_tokens == 3
    wanted = sum(seen) + 3

    until(lambda: billed(talking, wanted), 60.0, 0.5)
    assert "usage_conflict" not in (talking.home / "logs" / "ledger.log").read_text()


def test_a_replica_killed_before_the_first_token_is_made_up_for(quick: Platform) -> None:
    """The gateway asks the new one. A caller that gives less time than it takes to come is told
    503; the official client asks again by itself. Its caller only waits, and pays for answers."""
    headers = {"authorization": f"Bearer {quick.admin_key}"}

    def is_asked() -> bool:
        exposed = httpx.get(f"{quick.url}/metrics", headers=headers, trust_env=False).text
        return re.search(r"^meuse_requests_ongoing\{.*\} 1\.0$", exposed, re.M) is not None

    def replica() -> int:
        [pid] = quick.replicas("default/chat").values()
        return pid

    seen: list[int] = []
    with (
        openai.OpenAI(
            api_key=quick.admin_key, base_url=f"{quick.url}/v1", max_retries=60, timeout=SLOW_S
        ) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        client._client.event_hooks["response"].append(lambda given: seen.append(given.status_code))
        given: Any = {"model": "chat", "max_tokens": 3, "extra_body": {"ignore_eos": True}}
        call = pool.submit(client.completions.create, prompt=LONG, **given)
        until(is_asked)
        assert quick.kill(replica())
        assert not call.done()
        assert call.result(SLOW_S).usage.completion_tokens == 3
        assert seen == [200]
        assert quick.kill(replica())
        soon = {"x-timeout-ms": "400"}
        answer = client.completions.create(prompt="he", extra_headers=soon, **given)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3
    assert (set(seen[1:-1]), seen[-1]) == ({503}, 200)
    until(lambda: billed(quick, 6), 60.0, 0.5)
