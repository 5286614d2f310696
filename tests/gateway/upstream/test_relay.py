"""Chats that another server answers: passed on, counted, and in order when it is not"""

from __future__ import annotations

import json
import os
import socket
import uuid
from typing import Any

import openai
import pytest

from gateway.rig import PEPPER, until
from gateway.upstream.conftest import SECRET, THEIRS, Far
from meuse.access import keys
from meuse.core.clock import now_ms


def test_an_answer_in_one(far: Far) -> None:
    before = far.finals()
    answer = far.say("say 3", extra_body={"best_guess": {"deep": [1]}}, top_p=0.5)
    assert answer.choices[0].message.content == "w0 w1 w2 "
    assert answer.model == "far"
    assert answer.model_extra == {"extra": {"kept": True}}
    (record,) = far.records(before + 1)[before:]
    assert record.quantities == {
        "requests": 1, "prompt_tokens": 5, "cached_tokens": 2, "completion_tokens": 3,
    }  # fmt: skip
    assert (record.protocol, record.status, record.version) == ("openai-chat", "ok", "far:1")
    asked = far.upstream.asked()[-1]
    assert asked["url"] == "/v1/chat/completions"
    assert asked["headers"]["authorization"] == f"Bearer {SECRET}"
    assert asked["body"]["model"] == THEIRS
    assert (asked["body"]["best_guess"], asked["body"]["top_p"]) == ({"deep": [1]}, 0.5)
    assert far.key not in json.dumps(asked)


def test_an_answer_in_parts(far: Far) -> None:
    """Usage is always asked for, counted, and shown to those who want it."""
    before = far.finals()
    chunks = list(far.say("say 5", stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "w0 w1 w2 w3 w4 "
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert {c.model for c in chunks} == {"far"}
    assert far.upstream.asked()[-1]["body"]["stream_options"] == {"include_usage": True}
    *_, last = far.say("say 5", stream=True, stream_options={"include_usage": True})
    assert (last.choices, last.usage.completion_tokens) == ([], 5)
    records = far.records(before + 2)[before:]
    assert [r.quantities["completion_tokens"] for r in records] == [5, 5]
    assert [r.quantities["prompt_tokens"] for r in records] == [5, 5]


def test_a_line_of_a_batch_is_recorded_under_its_own_id(far: Far) -> None:
    """Asked twice, since a process was killed in between, it is billed once."""
    line = uuid.uuid4()
    key_id = keys.key_id(far.key)
    assert key_id is not None
    made = keys.mint_pass(PEPPER, key_id, now_ms() + 3_600_000)
    client = far.client.with_options(
        api_key=made, default_headers={"x-meuse-record": line.hex}
    )  # fmt: skip
    before = far.finals()
    for _ in range(2):
        client.chat.completions.create(model="far", messages=[{"role": "user", "content": "say 2"}])
    records = far.records(before + 2)[before:]
    assert [(r.id, r.tier, r.status) for r in records] == [(line.bytes, "batch", "ok")] * 2


def test_completions(far: Far) -> None:
    answer = far.client.completions.create(model="far", prompt="say 2", max_tokens=9)
    assert answer.choices[0].text == "w0 w1 "
    assert far.upstream.asked()[-1]["url"] == "/v1/completions"
    parts = far.client.completions.create(model="far", prompt="say 2", stream=True)
    assert "".join(c.choices[0].text for c in parts) == "w0 w1 "


def test_a_body_that_comes_in_pieces(far: Far) -> None:
    """The long way, by ASGI: the same answers."""
    for stream in (False, True):
        body = json.dumps(
            {
                "model": "far",
                "stream": stream,
                "messages": [
                    {"role": "user", "content": "x" * 400_000},
                    {"role": "user", "content": "say 2"},
                ],
            }
        )
        with far.http.stream(
            "POST", "/v1/chat/completions", content=(body[i : i + 9999].encode()
            for i in range(0, len(body), 9999)), headers={"content-type": "application/json"},
        ) as answer:  # fmt: skip
            text = answer.read().decode()
        assert answer.status_code == 200, text
        assert "w1 " in text
        assert THEIRS not in text
        assert text.endswith("data: [DONE]\n\n") == stream


def test_no_usage_is_estimated(far: Far) -> None:
    """And the record says so; not where the server told."""
    before = far.finals()
    far.say("none 40")
    list(far.say("none 40", stream=True))
    far.say("say 2")
    list(far.say("pace 20 30", stream=True))
    *guessed, told, long = far.records(before + 4)[before:]
    assert not told.estimated
    assert not long.estimated
    steps = [r for r in far.rig.records() if r.id == long.id and not r.final]
    assert steps
    assert all(r.estimated for r in steps)  # all that there is if the worker is killed
    for record in guessed:
        assert record.status == "ok"
        assert record.estimated
        assert record.quantities["prompt_tokens"] > 5
        assert 20 <= record.quantities["completion_tokens"] <= 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "seen", "code"),
    [(400, 400, "strange"), (422, 422, "strange"), (401, 502, "upstream_error"),
     (404, 502, "upstream_error"), (429, 429, "overloaded"), (500, 502, "upstream_error"),
     (503, 503, "unavailable"), (302, 502, "upstream_error")],
)  # fmt: skip
def test_its_errors(far: Far, status: int, seen: int, code: str, *, stream: bool) -> None:
    answer = far.post(f"status {status}", stream=stream)
    assert answer.status_code == seen
    error = answer.json()["error"]
    assert error["code"] == code
    assert SECRET not in answer.text
    if status in (400, 422):
        assert (error["type"], error["param"]) == ("odd", "top_p")
    if seen == 429:
        assert answer.headers["retry-after"] == "17"


def test_what_it_refused_costs_nothing(far: Far) -> None:
    before = far.finals()
    far.post("status 400")
    (record,) = far.records(before + 1)[before:]
    assert record.status == "error"
    assert (record.quantities["prompt_tokens"], record.quantities["completion_tokens"]) == (0, 0)
    assert not record.estimated


@pytest.mark.parametrize("what", ["garbage", "html", "part 2"])
def test_nonsense(far: Far, what: str) -> None:
    assert far.post(what).status_code == 502
    assert far.post("say 2").status_code == 200


def test_it_hangs(far: Far) -> None:
    """The deployment's timeout, or the caller's; then the connection is given up."""
    assert far.post("hang").status_code == 504
    until(far.upstream.was_left)


@pytest.mark.parametrize("what", ["part 4", "stall 4", "error 4"])
def test_a_stream_that_breaks_off(far: Far, what: str) -> None:
    """An error event ends it; what had come is charged."""
    before = far.finals()
    with pytest.raises(openai.APIError):
        list(far.say(what, stream=True))
    (record,) = far.records(before + 1)[before:]
    assert record.status == "error"
    assert 2 <= record.quantities["completion_tokens"] <= 5


def test_connections_are_kept_and_may_be_closed(far: Far) -> None:
    for _ in range(3):
        far.say("say 1")
    assert len({asked["connection"] for asked in far.upstream.asked()[-3:]}) == 1
    for text in ("close 1", "say 1", "drop 1", "say 1", "drop 2", "say 1"):
        assert far.say(text).choices[0].message.content
    assert not any(told["body"]["model"] != THEIRS for told in far.upstream.asked())


def test_a_client_that_leaves(far: Far) -> None:
    """The server has a moment to tell what it came to; then it is left."""
    before = far.finals()
    for text in ("pace 20 20", "stall 6"):
        body = {"model": "far", "stream": True, "messages": [{"role": "user", "content": text}]}
        with far.http.stream("POST", "/v1/chat/completions", json=body) as answer:
            for _ in answer.iter_bytes():
                break
    told, left = far.records(before + 2)[before:]
    assert (told.status, told.quantities["completion_tokens"]) == ("error", 20)
    assert (left.status, told.estimated, left.estimated) == ("error", False, True)
    assert 4 <= left.quantities["completion_tokens"] <= 7


def test_bad_requests(far: Far) -> None:
    for body, field in (
        ({"model": "far", "messages": [], "n": 0}, "n"),
        ({"model": "far", "messages": [], "max_tokens": "x"}, "max_tokens"),
        ({"model": "far", "messages": [], "stream_options": {"include_usage": True}},
         "stream_options"),
        ({"messages": []}, "model"),
    ):  # fmt: skip
        answer = far.http.post("/v1/chat/completions", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
    assert far.http.post("/v1/chat/completions", content=b"{").status_code == 400
    asked: Any = {"model": "far", "input_data": [[1]]}
    assert far.http.post("/predict", json=asked).status_code == 400
    listed = far.http.get("/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["far"]


def test_a_client_that_does_not_read(far: Far) -> None:
    """The server is not read either, and the worker's memory stays."""
    body = json.dumps(
        {"model": "far", "stream": True, "messages": [{"role": "user", "content": "big 400 256"}]}
    )
    before, usual = far.finals(), far.worker.rss_mb()
    with socket.create_connection(("127.0.0.1", far.worker.port)) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {far.key}"
        link.sendall(f"{head}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
        (record,) = far.records(before + 1)[before:]
    assert record.status == "error"
    assert far.worker.rss_mb() < usual + 40


def test_secrets_are_not_at_rest(far: Far) -> None:
    snapshot = far.rig.snapshot_file.read_bytes()
    assert SECRET.encode() not in snapshot
    assert os.fsencode(far.url) in snapshot
