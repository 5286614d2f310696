"""vLLM as a replica's child, while those around it are killed. In its place stands
tests/fake_vllm.py."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from fake_vllm import interpreter, servers
from faults.rig import Platform, until

pytestmark = pytest.mark.timeout(600)

SLOW_S = 240.0


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Platform]:
    """A platform of its own with a deployment `chat`."""
    pytest.importorskip("transformers")
    from helpers_llama import checkpoint

    weights = checkpoint(tmp_path / "models" / "small")
    home = tmp_path / "home"
    home.mkdir()
    (home / "meuse.toml").write_text(
        f'import_folders = "{weights.parent}"\nvllm_python = "{interpreter(tmp_path)}"\n'
    )
    platform = Platform(home)
    try:
        client = platform.start().client()
        job = client.pull(f"file:{weights}", "small")
        client.wait(job["id"], timeout_s=SLOW_S)
        client.deploy("chat", "small:1", engine={"name": "vllm"})
        client.wait_ready("chat", SLOW_S)
        yield platform
    finally:
        platform.close()
        assert not servers(home)


def ask(client: openai.OpenAI, text: str, **more: Any) -> Any:
    return client.chat.completions.create(
        model="chat", messages=[{"role": "user", "content": text}], **more
    )


def test_it_outlives_control_and_ends_with_its_replica(serving: Platform) -> None:
    """Without control it is asked as before, and the next control takes it as it is. When its
    replica process is killed it goes with it, and another one answers what came meanwhile."""
    (server,) = servers(serving.home)
    (replica,) = serving.replicas("default/chat").values()
    with openai.OpenAI(
        api_key=serving.admin_key, base_url=f"{serving.url}/v1", max_retries=0, timeout=60
    ) as client:
        stream = ask(client, "pace 20 150", stream=True)
        next(stream)
        serving.kill(serving.pid("control"))
        assert ask(client, "hello").choices[0].message.content == "small:1: hello"
        assert sum(bool(part.choices) for part in stream) == 150
        until(serving.control_answers, 60)
        with serving.client() as admin:
            admin.wait_ready("chat", SLOW_S)
        assert servers(serving.home) == [server]
        assert ask(client, "hello").choices[0].message.content == "small:1: hello"

        os.kill(replica, signal.SIGKILL)
        assert ask(client, "again").choices[0].message.content == "small:1: again"
        until(lambda: server not in servers(serving.home), 30)
    (other,) = until(lambda: servers(serving.home), 30)
    assert other != server
    serving.kill_supervisor()
    until(lambda: not servers(serving.home), 30)
    until(lambda: not list((serving.home / "served").iterdir()), 30)
