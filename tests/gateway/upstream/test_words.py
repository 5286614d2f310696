"""gateway.upstream: what is asked, and what is read of answers, as pure functions"""

from __future__ import annotations

import json
from typing import Any

import pytest

from meuse.core.errors import Code, MeuseError
from meuse.core.openai_errors import PassedError, dress
from meuse.gateway.upstream import asked, errors, events
from meuse.gateway.upstream.events import Events


def sent(protocol: str = "openai-chat", **body: Any) -> asked.Sent:
    raw = json.dumps({"model": "far", **body}).encode()
    model, fields = asked.model_of(raw)
    return asked.read(model, fields, len(raw), protocol)


def test_what_it_may_come_to() -> None:
    assert (sent().most, sent().choices) == (None, 1)
    assert sent(max_tokens=5, max_completion_tokens=7).most == 7
    assert (sent(n=3).choices, sent(n=None).choices) == (3, 1)
    completions = sent("openai-completions", prompt=["a", "b"], n=2, best_of=4)
    assert (completions.choices, completions.most) == (8, 16)
    assert sent("openai-completions", prompt=[1, 2, 3]).choices == 1


def test_all_else_is_passed_on() -> None:
    given = sent(stream=True, stream_options={"x": 1}, odd={"deep": [1.50, None]}, model="far")
    body = json.loads(asked.write(given, "theirs", 9))
    assert body == {
        "model": "theirs", "stream": True, "odd": {"deep": [1.5, None]}, "max_tokens": 9,
        "stream_options": {"x": 1, "include_usage": True},
    }  # fmt: skip


def test_embeddings_are_bounded_by_their_inputs() -> None:
    """Each may have the whole context, and nothing is produced; the table's checks hold."""
    for given, inputs in (("a", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1], [2], [3]], 3)):
        found = sent("openai-embeddings", input=given, stream=True)
        assert (found.inputs, found.most, found.stream) == (inputs, 0, False)
    body = {"model": "far", "input": "a", "dimensions": 2, "odd": 1}
    given = sent("openai-embeddings", **body)
    assert json.loads(asked.write(given, "theirs", None)) == {**body, "model": "theirs"}
    for name, value in (("input", None), ("encoding_format", "hex"), ("dimensions", 0)):
        with pytest.raises(MeuseError) as caught:
            sent("openai-embeddings", **{**body, name: value})
        assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, name)
    assert sent("openai-completions", prompt=["a", "b"]).inputs == 2


def stream_of(*bodies: Any) -> bytes:
    lines = [b"data: " + json.dumps(body).encode() + b"\n\n" for body in bodies]
    return b"".join([b": hello\n\n", *lines, b"data: [DONE]\n\n"])


CHUNK = {"model": "them/x", "choices": [{"index": 0, "delta": {"content": 'say "model":"them"'}}],
         "usage": None}  # fmt: skip
LAST = {"model": "them/x", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}


@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize("keep", [True, False])
def test_a_stream_in_pieces(step: int, *, keep: bool) -> None:
    """However it is cut, whole events come out, under our name, with the usage read."""
    data = stream_of(CHUNK, CHUNK, LAST)
    found = Events("far", keep_usage=keep)
    out = [found.feed(data[i : i + step]) for i in range(0, len(data), step)]
    assert all(part == b"" or part.endswith(b"\n\n") for part in out)
    events_ = [e for e in b"".join(out).decode().split("\n\n") if e.startswith("data: {")]
    bodies = [json.loads(e[6:]) for e in events_]
    assert len(bodies) == (3 if keep else 2)
    assert {body["model"] for body in bodies} == {"far"}
    assert bodies[0]["choices"] == CHUNK["choices"]
    assert found.is_done
    assert not found.has_failed
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (3, 2)
    assert found.usage.cached_tokens == -1


def test_a_stream_that_fails_or_never_ends_an_event() -> None:
    found = Events("far", keep_usage=False)
    assert found.feed(b'data: {"error": {"message": "x"}}\r\n\r\n').startswith(b"data:")
    assert found.has_failed
    with pytest.raises(MeuseError, match="an event of more") as caught:
        found.feed(b"x" * (events.MAX_EVENT + 1))
    assert caught.value.code is Code.UPSTREAM_ERROR


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": -1}, {"prompt_tokens": 2**60}, 7])
def test_a_usage_that_cannot_be(usage: Any) -> None:
    body = json.dumps({"choices": [{"x": "y" * 100}], "usage": usage}).encode()
    _, found, estimate = events.whole(body, "far")
    assert found is None
    assert 25 <= estimate <= 40


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"choices": 1}', b"<html>", b"\xff" * 9])
def test_no_completion(body: bytes) -> None:
    with pytest.raises(MeuseError) as caught:
        events.whole(body, "far")
    assert caught.value.code is Code.UPSTREAM_ERROR
    with pytest.raises(MeuseError, match="than embeddings"):
        events.vectors(body, "far")


def test_errors_keep_secrets() -> None:
    body = json.dumps({"error": {"message": "no sk-1 here", "param": "sk-1", "code": 4}}).encode()
    error = errors.refused(400, b"", body, "sk-1")
    assert isinstance(error, PassedError)
    assert dress(error)["error"]["message"] == "no *** here"
    assert errors.refused(401, b"", body, "sk-1").message.endswith("status 401")
    assert errors.refused(429, b"Wed, 21 Oct", b"", "").retry_after_s == 1
    assert errors.refused(499, b"", b"nonsense", "").http_status == 400
