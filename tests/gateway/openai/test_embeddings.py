"""Vectors of texts by the official client, from a version that takes raw texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from gateway.rig import Rig, target
from meuse.core.clock import now_ms
from meuse.core.nouns import Limit
from meuse.meter.limits import spent
from meuse.serve.snapshot import CacheEntry
from serve import models


class Embedding:
    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        key = rig.key()
        for name, model in (
            ("words", models.embedder()),
            ("counted", models.embedder(tokens=True)),
            ("scores", models.scores()),
        ):
            rig.replica(name, f"{name}:1", model, wait=False)
            rig.deploy(f"acme/{name}", target(f"{name}:1", model, [name]))
        counts = target("counted:1", models.embedder(tokens=True), ["counted"])
        rig.deploy("acme/kept", counts, cache=CacheEntry(60, 1 << 20))
        rig.publish()
        worker = rig.worker()
        rig.listen()
        self.url = worker.url
        http = httpx.Client(trust_env=False, timeout=60)
        self.client = openai.OpenAI(
            base_url=f"{worker.url}/v1", api_key=key, http_client=http, max_retries=0
        )

    def ask(self, text: Any, **more: Any) -> Any:
        return self.client.embeddings.create(**{"model": "words", "input": text, **more})


@pytest.fixture(scope="module")
def embedding() -> Iterator[Embedding]:
    rig = Rig()
    try:
        embedding = Embedding(rig)
        yield embedding
        embedding.client.close()
    finally:
        rig.close()


@pytest.mark.parametrize("form", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_a_vector_for_each_text(embedding: Embedding, form: dict[str, str]) -> None:
    """In order, as numbers or packed (the client's own way)."""
    answer = embedding.ask(["dog", "cat", "fish"], **form)
    assert [d.index for d in answer.data] == [0, 1, 2]
    assert answer.object == "list"
    assert answer.model == "words"
    if form.get("encoding_format") != "base64":
        assert [d.embedding for d in answer.data] == [[2.0, 1.0], [1.0, 0.5], [0.0, 0.0]]
    one = embedding.ask("dog", dimensions=2)
    assert [d.embedding for d in one.data] == [[2.0, 1.0]]


def test_rows_are_metered_and_tokens_told_where_they_are_known(embedding: Embedding) -> None:
    """The usage is the version's own count, or nothing; what is counted is metered too."""
    before = len(embedding.rig.records())
    assert embedding.ask(["dog", "cat"]).usage.prompt_tokens == 0
    assert embedding.ask(["dog", "cat", "x"], model="counted").usage.total_tokens == 3
    records = embedding.rig.records()[before:]
    assert [r.quantities["rows"] for r in records] == [2, 3]
    assert [r.quantities.get("prompt_tokens") for r in records] == [None, 3]
    assert {r.protocol for r in records} == {"openai-embeddings"}


def test_a_text_that_was_cut_is_refused(embedding: Embedding) -> None:
    """With both counts and the place, whether it was run or comes from the cache. Its vector is
    not paid, and other protocols take it as it is."""
    before = len(embedding.rig.records())
    for model in ("counted", "kept"):
        for given, place in (("long dog", "Input"), (["dog", "long dog"], "Input[1]")):
            with pytest.raises(openai.BadRequestError) as caught:
                embedding.ask(given, model=model)
            assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")
            assert f"{place} has at least 3 tokens, the model takes 1." in str(caught.value)
        answer = httpx.post(
            f"{embedding.url}/v2/models/{model}/infer", trust_env=False,
            headers={"authorization": f"Bearer {embedding.client.api_key}"},
            json={"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1],
                              "data": ["long dog"]}]},
        )  # fmt: skip
        assert answer.status_code == 200
        outputs = {o["name"]: o["data"] for o in answer.json()["outputs"]}
        assert (outputs["tokens"], outputs["text_tokens"]) == ([1], [3])
        assert embedding.ask("dog", model=model).usage.prompt_tokens == 1
    with pytest.raises(openai.BadRequestError, match="at least 3 tokens"):
        embedding.ask("long dog", model="kept")  # kept for those that take it so
    records = embedding.rig.records()[before:]
    refused = [r for r in records if r.status == "error"]
    assert len(records) == 9
    assert len(refused) == 5
    for record in refused:
        assert record.quantities["rows"] == record.quantities.get("prompt_tokens", 0) == 0
        assert "cache_hits" not in record.quantities


def test_tokens_are_refused_with_the_way_out(embedding: Embedding) -> None:
    """They are of the client's vocabulary; LangChain's sends texts where it is told to."""
    for tokens in ([1, 2], [[1, 2], [3]]):
        with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False") as no:
            embedding.ask(tokens)
        assert no.value.param == "input"


def test_encoders_are_models_too(embedding: Embedding) -> None:
    """They are listed; what does neither texts nor vectors is not."""
    assert {m.id for m in embedding.client.models.list()} == {"words", "counted", "kept"}
    with pytest.raises(openai.NotFoundError):
        embedding.client.models.retrieve("scores")
    with pytest.raises(openai.BadRequestError, match="does not turn texts into vectors") as caught:
        embedding.ask("dog", model="scores")
    assert caught.value.param == "model"


def test_budgets_of_tokens_hold_for_embeddings(embedding: Embedding) -> None:
    """The most that texts may have is reserved, a token a byte and two; what they had counts."""
    limit = Limit("t", "budget", 16, "day", "prompt_tokens", tenant="acme")
    embedding.rig.limit(limit)
    embedding.rig.publish()

    with pytest.raises(openai.APIStatusError) as caught:
        embedding.ask(["x" * 20], model="counted")
    assert caught.value.status_code == 402
    for _ in range(2):
        assert embedding.ask(["dog", "cat", "x"], model="counted").usage.total_tokens == 3
    found = spent(embedding.rig.limits_file, [limit], now_ms())["t"]
    assert (found.used, found.reserved) == (6, 0)
    with pytest.raises(openai.BadRequestError):
        embedding.ask("long dog", model="counted")
    found = spent(embedding.rig.limits_file, [limit], now_ms())["t"]
    assert (found.used, found.reserved) == (6, 0)
    embedding.ask("x" * 40)  # of a version that does not count


@pytest.mark.parametrize("way", ["short", "long"])
def test_what_is_left_stands_in_the_headers(embedding: Embedding, way: str) -> None:
    """Of requests and of tokens, with answers and with refusals for what is spent."""
    query = {} if way == "short" else {"way": "long"}  # with a query it takes the way of ASGI

    def told(text: str) -> tuple[str, str, str]:
        try:
            raw = embedding.client.embeddings.with_raw_response.create(
                model="counted", input=text, extra_query=query
            )
            status, headers = "", raw.headers
        except openai.APIStatusError as error:
            status, headers = str(error.code), error.response.headers
        assert headers["x-ratelimit-limit-requests"] == "2"
        assert headers["x-ratelimit-limit-tokens"] == "100"
        assert headers["x-ratelimit-reset-requests"].endswith("s")
        left = (headers[f"x-ratelimit-remaining-{kind}"] for kind in ("requests", "tokens"))
        return (status, *left)

    embedding.rig.limit(
        Limit(f"{way}-r", "rate", 2, "hour", burst=2, tenant="acme"),
        Limit(f"{way}-t", "budget", 100, "day", "prompt_tokens", tenant="acme"),
    )
    embedding.rig.publish()
    assert told("dog") == ("", "1", "99")
    assert told("x" * 200) == ("insufficient_quota", "1", "99")
    assert told("cat") == ("", "0", "98")
    assert told("cat") == ("rate_limit_exceeded", "0", "98")
    embedding.rig.limit()
    embedding.rig.publish()
    raw = embedding.client.embeddings.with_raw_response.create(model="counted", input="dog")
    assert not [name for name in raw.headers if name.startswith("x-ratelimit")]
