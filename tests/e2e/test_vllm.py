"""A checkpoint that vLLM serves as a child of a replica: deployed, asked, killed, taken down.
What is started is a stand-in that takes vLLM's words and speaks its API (tests/fake_vllm.py)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

import helpers_lora
from e2e.conftest import Platform
from e2e.helpers import JSON, get, refused, start, succeeded, until
from fake_vllm import servers
from helpers_llama import checkpoint

NAME = "e2e-vllm"
SLOW_S = 300.0
ENGINE = {"name": "vllm", "max_model_len": 256, "gpu_memory_utilization": 0.5}

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def models(platform: Platform, admin: httpx.Client) -> tuple[str, str]:
    """Versions of a small checkpoint, and of an adapter for it."""
    root = platform.home / "import" / "vllm"
    root.mkdir(parents=True)
    checkpoint(root / "base")
    helpers_lora.write(
        root / "polite", helpers_lora.matrices(helpers_lora.layers_of("q_proj", "v_proj"), 1)
    )

    def imported(name: str, **more: Any) -> str:
        spec = {"source": f"file:{root / name}", "model_name": f"e2e-vllm-{name}", **more}
        ref: str = succeeded(admin, start(admin, "import", **spec), SLOW_S)["model"]
        return ref

    base = imported("base")
    return base, imported("polite", base=base)


def put(admin: httpx.Client, model: str, **more: Any) -> httpx.Response:
    return admin.put(f"/api/deployments/{NAME}", json={"model": model, "engine": ENGINE, **more})


def state(admin: httpx.Client) -> JSON:
    found: JSON = get(admin, f"/api/deployments/{NAME}")
    return found


def is_ready(admin: httpx.Client) -> bool:
    now = state(admin)
    assert now["status"] != "failed", now["error"]
    return bool(now["status"] == "ready" and now["observed_generation"] == now["generation"])


@pytest.fixture(scope="module")
def served(platform: Platform, admin: httpx.Client, models: tuple[str, str]) -> Iterator[str]:
    base, polite = models
    response = put(admin, base, adapters={"polite": polite})
    assert response.status_code == 202, response.text
    until(lambda: is_ready(admin), "the server answers", SLOW_S)
    yield base
    assert admin.delete(f"/api/deployments/{NAME}").status_code == 200
    until(lambda: not servers(platform.home), "it has ended")
    until(lambda: not list((platform.home / "served").iterdir()), "its files are gone")


@pytest.fixture(scope="module")
def say(platform: Platform) -> Iterator[Callable[..., Any]]:
    client = openai.OpenAI(
        api_key=platform.key("infer"), base_url=f"{platform.url}/v1", max_retries=0, timeout=60
    )

    def ask(text: str, model: str = NAME, **more: Any) -> Any:
        messages: Any = [{"role": "user", "content": text}]
        return client.chat.completions.create(model=model, messages=messages, **more)

    with client:
        yield ask


def test_what_is_refused(admin: httpx.Client, models: tuple[str, str]) -> None:
    base, polite = models
    body: JSON = {"model": base}
    answer = refused(
        admin.put(f"/api/deployments/{NAME}", json=body), 400, "invalid_field", "model"
    )
    assert "vllm" in answer["hint"]
    for more, field in (
        ({"scale": {"min": 2, "max": 2}}, "scale"),
        ({"engine": {**ENGINE, "cache_mb": 64}}, "engine.cache_mb"),
        ({"engine": {**ENGINE, "max_loras": 2}}, "engine.max_loras"),
        ({"engine": {**ENGINE, "gpu_memory_utilization": 2}}, "engine.gpu_memory_utilization"),
        ({"engine": {"name": "genai", "max_model_len": 9}}, "engine.max_model_len"),
    ):
        refused(put(admin, base, **more), 400, "invalid_field", field)
    refused(put(admin, polite), 400, "invalid_field", "model")


def test_base_and_adapter(say: Callable[..., Any], served: str, admin: httpx.Client) -> None:
    answer = say("good day")
    assert answer.choices[0].message.content == f"{served}: good day"
    assert answer.model == NAME
    assert say("good day", f"{NAME}:polite").choices[0].message.content == "polite: good day"
    parts = say("pace 1 5", stream=True)
    assert "".join(p.choices[0].delta.content or "" for p in parts) == "w0 w1 w2 w3 w4 "
    with pytest.raises(openai.NotFoundError):
        say("good day", f"{NAME}:rude")

    def counted() -> dict[str, int]:
        rows = get(admin, "/api/usage", by="model,meter", fresh="true")["rows"]
        return {row["meter"]: row["quantity"] for row in rows if row["model"].endswith(NAME)}

    until(lambda: counted().get("requests") == 3, "the usage is in")
    assert (counted()["prompt_tokens"], counted()["completion_tokens"]) == (21, 3 + 3 + 5)


def test_after_its_death_another_one_answers(
    platform: Platform, say: Callable[..., Any], served: str, admin: httpx.Client
) -> None:
    """What streams is cut off with an error; what comes then waits, and is answered."""
    (server,) = servers(platform.home)

    def streamed() -> int:
        seen = 0
        try:
            for part in say("pace 20 1000", stream=True):
                seen += bool(part.choices)
        except openai.APIError:
            return seen
        pytest.fail("the stream was not cut off")

    with ThreadPoolExecutor(5) as pool:
        cut = pool.submit(streamed)
        time.sleep(1)
        os.kill(server, signal.SIGKILL)
        asked = [pool.submit(say, f"number {n}") for n in range(4)]
        said = [each.result().choices[0].message.content for each in asked]
        assert said == [f"{served}: number {n}" for n in range(4)]
        assert cut.result() > 5
    until(lambda: is_ready(admin), "another one is there")
    (other,) = servers(platform.home)
    assert other != server


def test_another_spec_takes_over_without_a_lost_stream(
    platform: Platform, say: Callable[..., Any], served: str, admin: httpx.Client
) -> None:
    (server,) = servers(platform.home)
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(lambda: [p for p in say("pace 20 200", stream=True) if p.choices])
        time.sleep(0.5)
        engine = {**ENGINE, "max_model_len": 128}
        response = put(admin, served, engine=engine)
        assert response.status_code == 202, response.text
        assert say("still there").choices[0].message.content == f"{served}: still there"
        assert len(stream.result()) == 201
    until(lambda: is_ready(admin), "the other one is there", SLOW_S)
    until(lambda: server not in servers(platform.home), "the first one has ended")
    assert say("good day").choices[0].message.content == f"{served}: good day"
