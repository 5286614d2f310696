"""A language model's replica is killed while it talks: what its client hears, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

import helpers_llm
from faults.rig import Platform, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SLOW_S = 240.0
ASKED: Any = [{"role": "user", "content": "Tell a long story."}]


@pytest.fixture
def talking(tmp_path: Path) -> Iterator[Platform]:
    """A platform of its own with a deployment `chat` of real weights."""
    weights = helpers_llm.weights()
    home = tmp_path / "home"
    home.mkdir()
    (home / "meuse.toml").write_text(f'import_folders = "{weights.parent}"\n')
    platform = Platform(home)
    try:
        client = platform.start().client()
        job = client.pull(f"file:{weights}", "smol")
        client.wait(job["id"], timeout_s=SLOW_S)
        client.deploy("chat", "smol:1", engine={"cache_mb": 128, "max_sequences": 4})
        client.wait_ready("chat", SLOW_S)
        yield platform
    finally:
        platform.close()


def tokens(part: Any) -> int:
    """How many a chunk brings: each has an entry of its own."""
    logprobs = part.choices[0].logprobs if part.choices else None
    return len(logprobs.content or []) if logprobs else 0


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

    def billed() -> bool:
        rows = talking.client().usage(by="meter", fresh=True)["rows"]
        found = {row["meter"]: row["quantity"] for row in rows}
        assert found.get("completion_tokens", 0) <= wanted, (found, seen)
        return bool(found.get("completion_tokens") == wanted)

    until(billed, 60.0, 0.5)
    assert "usage_conflict" not in (talking.home / "logs" / "ledger.log").read_text()
