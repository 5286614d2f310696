"""A language model of real weights, from the package index to the invoice."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from e2e.conftest import Platform
from e2e.helpers import JSON, ended, get, refused, start, succeeded, until, upload
from e2e.llm import PRICES, SLOW_S, SOURCE
from helpers_gguf import gguf

WEIGHTS = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
ASKED = [{"role": "user", "content": "What is the capital of France?"}]

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def client(platform: Platform, chat: str) -> Iterator[openai.OpenAI]:
    """The official client, with a key of the tenant that pays."""
    key = platform.key("infer", tenant="talker")
    with openai.OpenAI(
        api_key=key, base_url=f"{platform.url}/v1", max_retries=0, timeout=SLOW_S
    ) as made:
        yield made


@pytest.fixture(scope="module")
def folder(platform: Platform) -> Path:
    """One that the operator allows imports from."""
    found = platform.home / "import" / "llm"
    found.mkdir(parents=True, exist_ok=True)
    return found


def test_a_file_is_pulled_from_an_allowed_folder(admin: httpx.Client, folder: Path) -> None:
    (folder / "tiny.gguf").write_bytes(gguf())
    source = f"file:{folder / 'tiny.gguf'}"
    made = succeeded(admin, start(admin, "import", source=source, model_name="e2e-tiny"))
    assert made["model"] == "e2e-tiny:1"
    version = get(admin, "/api/models/e2e-tiny/versions/1")
    assert version["report"]["generation"]["source"] == source
    assert version["lineage"]["code_digest"] == hashlib.sha256(gguf()).hexdigest()


def test_a_language_model_takes_no_rows(admin: httpx.Client, folder: Path) -> None:
    (folder / "rows.gguf").write_bytes(gguf())
    source = f"file:{folder / 'rows.gguf'}"
    succeeded(admin, start(admin, "import", source=source, model_name="e2e-rows"))
    upload(admin, "e2e-rows", b"prompt,text\na,b\nc,d\n" * 4)
    model, data = "e2e-rows:1", "e2e-rows"
    for kind, field, spec, why in [
        ("predict", "model", {"model": model, "output": "out"}, "is a language model"),
        ("evaluate", "models[0]", {"models": [model]}, "is a language model"),
        ("compress", "data", {"model": model, "goal": {"max_drop": 0.1}}, "is no file"),
    ]:
        response = admin.post("/api/jobs", json={"kind": kind, "spec": {**spec, "data": data}})
        error = refused(response, 400, "invalid_field", field)
        assert why in error["message"]


def test_a_file_that_lies_registers_nothing(admin: httpx.Client, folder: Path) -> None:
    (folder / "liar.gguf").write_bytes(gguf(cut=1))
    done = ended(admin, start(admin, "import", source=f"file:{folder / 'liar.gguf'}"))
    assert (done["status"], done["error"]["code"]) == ("failed", "invalid_data")
    assert "end at byte" in done["error"]["message"]
    assert admin.get("/api/models/liar").status_code == 404


def test_what_is_not_pulled_is_refused_at_once(admin: httpx.Client, folder: Path) -> None:
    def make(**spec: Any) -> httpx.Response:
        return admin.post("/api/jobs", json={"kind": "import", "spec": spec})

    refused(make(source="smollm2"), 400, "invalid_field", "source")
    refused(make(source="pypi:a>1"), 400, "invalid_field", "source")
    refused(
        make(source="pypi:a", trust_remote_code=True), 400, "invalid_field", "trust_remote_code"
    )
    refused(make(source="file:/etc/passwd"), 403, "forbidden", "source")
    refused(make(source=f"file:{folder}/none.gguf"), 404, "not_found", "source")
    refused(make(source="https://example.org/m.gguf"), 403, "forbidden", "source")


def test_what_was_pulled_is_described(admin: httpx.Client, smollm2: JSON) -> None:
    assert smollm2["model"] == "smollm2:1"
    version = get(admin, "/api/models/smollm2/versions/1")
    assert version["task"] == "text-generation"
    manifest, weights = version["artifacts"]
    assert (manifest["name"], manifest["format"]) == ("manifest.json", "llm")
    assert (weights["format"], weights["digest"], weights["bytes"]) == ("file", WEIGHTS, 98362432)
    told = version["report"]["generation"]
    assert told["licence"] == "apache-2.0"
    assert told["source"] == SOURCE
    assert (told["context"], told["vocabulary"], told["parameters"]) == (8192, 49152, 134515008)
    card = get(admin, "/api/models/smollm2/versions/1/card", format="json")
    assert card["given"]["licence"] == "apache-2.0"


def test_the_deployment_tells_where_to_ask(admin: httpx.Client, chat: str) -> None:
    state = get(admin, f"/api/deployments/{chat}")
    told = {"name": "genai", "cores": None, "cache_mb": 256, "max_sequences": 4}
    assert {name: state["engine"][name] for name in told} == told
    others = {name: value for name, value in state["engine"].items() if name not in told}
    assert set(others.values()) == {None}  # off unless given
    assert any("/v1/chat/completions" in url for url in state["endpoints"])


def ask(client: openai.OpenAI, **more: Any) -> Any:
    given: Any = {"messages": ASKED, "temperature": 0, "max_tokens": 24, **more}
    return client.chat.completions.create(model="default/e2e-chat", **given)


def used(admin: httpx.Client, since: str) -> dict[str, int]:
    """What the tenant used, by meter, once all of it is there."""
    query = {"from": since, "by": "meter", "tenant": "talker", "fresh": True}
    rows = get(admin, "/api/usage", **query)["rows"]
    return {row["meter"]: row["quantity"] for row in rows}


def test_every_token_is_streamed_metered_and_billed(
    admin: httpx.Client, client: openai.OpenAI
) -> None:
    whole = ask(client)
    text = whole.choices[0].message.content
    assert "Paris" in text
    parts = list(ask(client, stream=True, stream_options={"include_usage": True}))
    pieces = [part.choices[0].delta.content or "" for part in parts if part.choices]
    assert "".join(pieces) == text  # greedy: the same again
    assert len([piece for piece in pieces if piece]) > 3
    assert parts[-1].usage == whole.usage
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens

    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    since = (today - timedelta(days=1)).isoformat()
    wanted = {
        "requests": 2,
        "prompt_tokens": 2 * whole.usage.prompt_tokens,
        "completion_tokens": 2 * whole.usage.completion_tokens,
    }
    metered = until(lambda: (seen := used(admin, since)).get("requests") == 2 and seen, "usage")
    assert {meter: metered.get(meter, 0) for meter in wanted} == wanted
    period = {"from": since, "to": (today + timedelta(days=2)).isoformat()}
    response = admin.post("/api/invoices", json={"tenant": "talker", "period": period})
    assert response.status_code in (200, 201), response.text
    invoice = response.json()
    lines = {line["meter"]: line for line in invoice["lines"]}
    assert {meter: int(lines[meter]["quantity"]) for meter in wanted} == wanted
    assert all(lines[meter]["unit_price"] == PRICES[meter] for meter in wanted)
    assert invoice["unrated"] == []


def test_what_is_wrong_is_named_as_openai_names_it(client: openai.OpenAI) -> None:
    few = ask(client, messages=[{"role": "user", "content": "word " * 100}], max_tokens=1)
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, messages=[{"role": "user", "content": "word " * 9000}])
    assert caught.value.param == "messages"
    assert caught.value.code == "context_length_exceeded"
    count = few.usage.prompt_tokens + 8900  # each word is a token
    assert f"he prompt has {count} tokens, the model's context window 8192" in caught.value.message
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="none", messages=ASKED)  # type: ignore[arg-type]
    assert missing.value.code == "model_not_found"


def test_a_conversation_in_the_terminal(platform: Platform, chat: str) -> None:
    def talk(*words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        there = {k: v for k, v in os.environ.items() if not k.startswith("MEUSE_")}
        there |= {"MEUSE_URL": platform.url, "MEUSE_KEY": platform.admin_key}
        return subprocess.run(
            [sys.executable, "-m", "meuse", "chat", *words],
            input=given, env=there, capture_output=True, text=True, timeout=SLOW_S, check=False,
        )  # fmt: skip

    options = ["--temperature", "0", "--max-tokens", "12"]
    done = talk(chat, ASKED[0]["content"], *options)
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout
    assert "tokens/s]" in done.stderr
    done = talk(chat, *options, given="Say yes.\n\nSay no.\n")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("tokens, the first after") == 2
    done = talk(chat, "Hi", "--json", "--max-tokens", "2")
    answer = json.loads(done.stdout)
    assert (answer["usage"]["completion_tokens"], answer["finish"]) == (2, "length")
    done = talk("no-such-deployment", "Hi")
    assert done.returncode == 1
    assert "no-such-deployment" in done.stderr


def test_a_deployment_that_cannot_fit_is_refused_with_the_number(
    admin: httpx.Client, smollm2: JSON
) -> None:
    body = {"model": smollm2["model"], "engine": {"cache_mb": 1 << 20, "max_sequences": 4096}}
    response = admin.put("/api/deployments/e2e-large", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["field"]) == (400, "engine.cache_mb"), error
    assert "MiB" in error["message"]
    assert admin.get("/api/deployments/e2e-large").status_code == 404


@pytest.mark.slow
def test_a_sentence_encoder_embeds(admin: httpx.Client, platform: Platform, encoder: str) -> None:
    """Near texts are near, at length 1."""
    texts = ["A cat sits on the mat.", "A kitten is sitting on a rug.", "Stock markets fell."]
    with openai.OpenAI(api_key=platform.admin_key, base_url=f"{platform.url}/v1") as client:
        found = client.embeddings.create(model=encoder, input=texts)
        # sentence_bert_config.json says 256; the tokenizer's file, left from training, 128.
        most = client.embeddings.create(model=encoder, input="word " * 254)
        with pytest.raises(openai.BadRequestError, match="302 tokens, the model takes 256") as cut:
            client.embeddings.create(model=encoder, input=["a", "word " * 300])
    assert most.usage.prompt_tokens == 256
    assert (cut.value.code, cut.value.param) == ("context_length_exceeded", "input")
    card = admin.get("/api/models/e2e-minilm/versions/1/card?format=markdown").text
    assert "| tokens of a text | 256" in card
    rows = np.array([item.embedding for item in found.data])
    assert rows.shape == (3, 384)
    # [CLS], the words and signs, [SEP]: as BERT's tokenizer counts them.
    assert found.usage.prompt_tokens == found.usage.total_tokens == 9 + 10 + 6
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 1e-4
    near, far = rows[0] @ rows[1], rows[0] @ rows[2]
    assert near > 0.5 > 0.3 > far
