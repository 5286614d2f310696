"""Errors as OpenAI's clients know them, and what else there is beside chats."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from gateway.openai.conftest import Chat
from meuse.gateway.openai import rates


def error_of(answer: Any) -> tuple[int, str, str | None, str]:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"]
    return answer.status_code, error["type"], error["param"], error["code"]


def test_who_may_not(served: Chat) -> None:
    """A wrong key, a key without the scope, another's model."""
    with pytest.raises(openai.AuthenticationError) as caught:
        served.openai("nonsense").models.list()
    assert caught.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError) as missing:
        served.openai(served.blue).chat.completions.create(
            model="acme/chat", messages=[{"role": "user", "content": "x"}]
        )
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    assert missing.value.type == "invalid_request_error"


def test_what_cannot_be_read(served: Chat) -> None:
    """No JSON, no object, the wrong method, an unknown adapter."""
    post = served.http.post
    for body in (b"{", b"\xff", b'{"a":' * 9999):
        assert error_of(post("/v1/chat/completions", content=body))[3] == "invalid_json"
    assert error_of(post("/v1/completions", content=b"[]"))[:2] == (400, "invalid_request_error")
    assert error_of(served.http.get("/v1/chat/completions"))[0] == 405
    answer = post("/v1/chat/completions", json={"model": "chat:none", "messages": []})
    assert error_of(answer)[2] == "messages"
    good = [{"role": "user", "content": "x"}]
    answer = post("/v1/chat/completions", json={"model": "chat:none", "messages": good})
    assert error_of(answer) == (404, "invalid_request_error", "model", "model_not_found")


def test_what_the_replica_refuses(served: Chat) -> None:
    """Before the first word it is an answer of its own, also of a stream."""
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            served.say("refuse", stream=stream)
        assert caught.value.param == "messages"
        assert (caught.value.code, caught.value.type) == (
            "context_length_exceeded", "invalid_request_error"
        )  # fmt: skip
        assert "9000" in caught.value.message
        assert "8192" in caught.value.message
    (record, *_) = reversed(served.rig.records())
    assert (record.status, record.quantities["completion_tokens"]) == ("error", 0)


def test_a_failure_amid_a_stream_is_its_last_event(served: Chat) -> None:
    """The client raises it; what was produced is recorded, as an error."""
    words: list[str | None] = []
    stream = served.say("fail 3", stream=True)
    with pytest.raises(openai.APIError) as caught:
        words.extend(chunk.choices[0].delta.content for chunk in stream)
    assert "gave up" in caught.value.message
    assert [w for w in words if w] == ["w0 ", "w1 ", "w2 "]
    (record, *_) = reversed(served.rig.records())
    assert (record.status, record.quantities["completion_tokens"]) == ("error", 3)
    with pytest.raises(openai.InternalServerError):
        served.say("fail 3")


def test_texts_and_tensors_are_not_mixed(served: Chat) -> None:
    """A language model takes no tensors; every tensor protocol says so."""
    answer = served.http.post("/predict", json={"model": "chat", "input_data": ["x"]})
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "model")
    body = {"inputs": [{"name": "prompt", "datatype": "BYTES", "shape": [1], "data": ["x"]}]}
    answer = served.http.post("/v2/models/chat/infer", json=body)
    assert answer.status_code == 400
    assert "/v1/chat/completions" in answer.json()["error"]
    answer = served.http.post("/v1/embeddings", json={"model": "chat", "input": "x"})
    assert error_of(answer)[:3] == (400, "invalid_request_error", "model")


def test_the_models_that_there_are(served: Chat) -> None:
    """The deployment and its adapter, which names its parent; nothing of others."""
    models = {m.id: m for m in served.client.models.list()}
    assert set(models) == {"chat", "chat:law"}
    assert (models["chat"].owned_by, models["chat"].created) == ("acme", 1_700_000_000)
    assert models["chat:law"].model_extra == {"parent": "chat"}
    assert served.client.models.retrieve("chat:law").id == "chat:law"
    for name in ("nothing", "chat:none"):
        with pytest.raises(openai.NotFoundError):
            served.client.models.retrieve(name)
    assert list(served.openai(served.blue).models.list()) == []


def test_completions(served: Chat) -> None:
    """A prompt or several, whole and streamed, with the logprobs of their time."""
    answer = served.client.completions.create(model="chat", prompt="say 3", logprobs=1)
    assert (answer.object, answer.choices[0].text) == ("text_completion", "w0 w1 w2 ")
    logprobs: Any = answer.choices[0].logprobs
    assert (logprobs.tokens, logprobs.text_offset) == (["w0 ", "w1 ", "w2 "], [0, 3, 6])
    assert logprobs.top_logprobs[0] == {"w0 ": -0.5}
    several = served.client.completions.create(model="chat", prompt=["say 1", "say 2"], n=2)
    assert [c.text for c in several.choices] == ["w0 ", "w0 ", "w0 w1 ", "w0 w1 "]
    assert [c.index for c in several.choices] == [0, 1, 2, 3]
    assert several.usage is not None
    assert several.usage.completion_tokens == 6
    offsets = []
    for chunk in served.client.completions.create(
        model="chat", prompt="say 3", logprobs=1, stream=True
    ):
        told: Any = chunk.choices[0].logprobs
        offsets += told.text_offset if told else []
    assert offsets == [0, 3, 6]
    texts = ["", ""]
    for chunk in served.client.completions.create(
        model="chat", prompt=["say 1", "say 2"], stream=True
    ):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == ["w0 ", "w0 w1 "]
    short = served.client.completions.create(model="chat", prompt="say 99")
    assert (short.choices[0].finish_reason, short.usage and short.usage.completion_tokens) == (
        "length", 16,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("us", "text"),
    [(20_000, "20ms"), (1, "1ms"), (1_500_000, "1.5s"), (59_000_000, "59s"),
     (360_000_000, "6m0s"), (86_400_000_000, "24h0m0s")],
)  # fmt: skip
def test_durations_are_written_as_openai_does(us: int, text: str) -> None:
    assert rates.written(us) == text
