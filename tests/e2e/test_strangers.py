"""Tools that people have already, by base URL alone: LangChain, and the command line `llm`.

They live in an environment of their own, made once and kept in the cache of the user.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import helpers_llm
from e2e.conftest import Platform
from e2e.helpers import JSON, get, start, succeeded, until
from e2e.llm import SLOW_S

HERE = Path(__file__).parent / "strangers"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

HERMES = (
    "{% if tools %}{{ '<|im_start|>system\nTools: ' }}{{ tools | tojson }}{{ '\nCall one with "
    '<tool_call>{"name": …, "arguments": …}</tool_call><|im_end|>\n'
    "<|im_start|>user\nHow is the weather in Paris?<|im_end|>\n<|im_start|>assistant\n"
    '<tool_call>{"name": "look_up", "arguments": {"city": "Paris"}}</tool_call><|im_end|>\n'
    "<|im_start|>tool\nsun<|im_end|>\n"
    "<|im_start|>assistant\nThe weather in Paris is sun.<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + (m['content'] or '') }}"
    "{% for call in m['tool_calls'] or [] %}{{ '<tool_call>' }}"
    "{{ {'name': call.function.name, 'arguments': call.function.arguments} | tojson }}"
    "{{ '</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""A template that teaches the calling of tools, which the model's own does not: by an example, so
that a small model follows it."""


@pytest.fixture(scope="module")
def tools() -> Path:
    """The folder of the programs, installed at these very versions."""
    wanted = (HERE / "requirements.txt").read_bytes()
    mark = hashlib.sha256(wanted + sys.version.encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or tempfile.gettempdir())
    folder = cache / "meuse-test-strangers" / mark
    if not (folder / "whole").exists():
        venv.create(folder, with_pip=True, clear=True)
        command = [folder / "bin" / "python", "-m", "pip", "install", "-q", "-r",
                   HERE / "requirements.txt"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"LangChain and llm cannot be installed: {done.stderr.strip()[-300:]}")
        (folder / "whole").touch()
    return folder / "bin"


@pytest.fixture(scope="module")
def caller(admin: httpx.Client, platform: Platform, smollm2: JSON) -> Iterator[str]:
    """A deployment of the same weights under a template that knows tools."""
    folder = platform.home / "import" / "hermes"
    folder.mkdir(parents=True, exist_ok=True)
    name = "e2e-hermes"
    made = folder / f"{name}.gguf"
    subprocess.run(
        [sys.executable, "-m", "gguf.scripts.gguf_new_metadata", "--chat-template", HERMES,
         "--force", helpers_llm.weights(), made],
        check=True, capture_output=True,
    )  # fmt: skip
    job = start(admin, "import", source=f"file:{made}", model_name=name)
    result = succeeded(admin, job, SLOW_S)
    assert result["report"]["generation"]["family"] == "hermes"
    body = {"model": result["model"], "engine": {"cache_mb": 128, "max_sequences": 4}}
    admin.put(f"/api/deployments/{name}", json=body).raise_for_status()
    until(lambda: get(admin, f"/api/deployments/{name}")["status"] == "ready", "it", SLOW_S)
    yield name
    admin.delete(f"/api/deployments/{name}")


def run(*words: str | Path, given: str = "", **there: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MEUSE_", "OPENAI_"))}
    return subprocess.run(
        words, input=given, env=clean | there, capture_output=True, text=True, timeout=SLOW_S,
        check=False,
    )  # fmt: skip


def test_langchain(tools: Path, platform: Platform, chat: str, caller: str, encoder: str) -> None:
    """Whole, streamed, several, asynchronous, by a schema, with tools and their results; and
    vectors of texts."""
    done = run(
        tools / "python", HERE / "langchain_talk.py", f"{platform.url}/v1", platform.admin_key,
        chat, caller, encoder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    assert "Paris" in said["whole"]
    assert "".join(said["parts"]) == said["whole"] == said["later"]
    assert said["many"] == [said["whole"]] * 2
    assert said["finish"] in ("stop", "length")
    assert said["streamed_usage"]["total_tokens"] == said["usage"]["total_tokens"] > 0
    assert set(said["shape"]) == {"degrees", "rain"}
    for calls in (said["called"], said["streamed_call"]):
        [call] = calls
        assert call["name"] == "look_up"
        assert isinstance(call["args"]["city"], str)
        assert call["id"]
    assert isinstance(said["last"], str)
    assert "Error code: 400" in said["refused"]
    assert "'image_url' cannot be read" in said["refused"]
    cat, kitten, stocks = np.array(said["vectors"])
    assert cat @ kitten > 0.5 > 0.3 > cat @ stocks
    assert np.allclose(said["vector"], cat, atol=1e-5)
    assert "check_embedding_ctx_length=False" in said["tokens_refused"]


def test_llm_on_the_command_line(
    tools: Path, platform: Platform, chat: str, caller: str, tmp_path: Path
) -> None:
    """Models from its extra-openai-models.yaml; streamed and whole, a schema, a tool."""
    models = [
        {
            "model_id": f"here-{name}",
            "model_name": name,
            "api_base": f"{platform.url}/v1",
            "api_key_name": "here",
            more: True,
        }
        for name, more in ((chat, "supports_schema"), (caller, "supports_tools"))
    ]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models))  # which is YAML too

    def llm(*words: str) -> str:
        done = run(tools / "llm", *words, LLM_USER_PATH=str(tmp_path))
        assert done.returncode == 0, done.stderr
        return done.stdout

    llm("keys", "set", "here", "--value", platform.admin_key)
    listed = llm("models", "list")
    assert f"here-{chat}" in listed
    ask = ("-m", f"here-{chat}", "-o", "temperature", "0", "-o", "max_tokens", "24")
    question = "What is the capital of France?"
    streamed = llm(question, *ask)
    assert "Paris" in streamed
    assert llm(question, *ask, "--no-stream") == streamed
    assert llm("And of Italy?", *ask, "-c").strip()  # the conversation goes on
    shaped = llm("Weather as JSON.", "-m", f"here-{chat}", "--schema", "degrees int, rain bool",
                 "-o", "max_tokens", "64", "-o", "temperature", "0")  # fmt: skip
    assert set(json.loads(shaped)) == {"degrees", "rain"}
    asked = tmp_path / "asked"
    tool = (
        "def look_up(city: str) -> str:\n    'The weather of a city.'\n"
        f"    with open({str(asked)!r}, 'a') as file:\n        file.write(city + '\\n')\n"
        "    return 'rain'\n"
    )
    said = llm("How is the weather in Liege?", "-m", f"here-{caller}", "--functions", tool,
               "-o", "max_tokens", "48", "-o", "temperature", "0")  # fmt: skip
    # Of Paris the template tells, and so small a model takes it for the city where it rounds more.
    assert asked.read_text() in ("Liege\n", *["Paris\n"] * helpers_llm.computes_in_bfloat16())
    assert "rain" in said
