"""Embeddings that another server makes: passed on, counted, limited."""

from __future__ import annotations

import json

import openai
import pytest

from gateway.upstream.conftest import SECRET, THEIRS, Far
from meuse.core.clock import now_ms
from meuse.core.nouns import Limit
from meuse.meter.limits import spent


def test_vectors_come_under_our_name(far: Far) -> None:
    """What the server does not know of stays here; what it says is counted."""
    before = far.finals()
    answer = far.client.embeddings.create(
        model="far", input=["one", "one two"], encoding_format="float", extra_body={"odd": [1]}
    )
    assert [d.embedding for d in answer.data] == [[1.0, 0.5], [2.0, 0.5]]
    assert (answer.model, answer.usage.prompt_tokens) == ("far", 3)
    (record,) = far.records(before + 1)[before:]
    assert record.quantities == {"requests": 1, "rows": 2, "prompt_tokens": 3}
    assert (record.protocol, record.status) == ("openai-embeddings", "ok")
    assert not record.estimated
    asked = far.upstream.asked()[-1]
    assert asked["url"] == "/v1/embeddings"
    assert asked["headers"]["authorization"] == f"Bearer {SECRET}"
    assert (asked["body"]["model"], asked["body"]["odd"]) == (THEIRS, [1])
    assert far.key not in json.dumps(asked)


def test_no_usage_is_estimated(far: Far) -> None:
    before = far.finals()
    far.client.embeddings.create(model="far", input="none " * 40)
    (record,) = far.records(before + 1)[before:]
    assert record.estimated
    assert 50 <= record.quantities["prompt_tokens"] <= 100


def test_tokens_are_the_servers_to_judge(far: Far) -> None:
    body = {"model": "far", "input": [[1, 2, 3], [4, 5]]}
    answer = far.http.post("/v1/embeddings", json=body)
    assert [d["embedding"][0] for d in answer.json()["data"]] == [3.0, 2.0]
    assert answer.headers["x-request-id"]


def test_a_body_that_comes_in_pieces(far: Far) -> None:
    """The long way, by ASGI: the same answer."""
    body = json.dumps({"model": "far", "input": ["word " * 100_000, "one two"]}).encode()
    pieces = (body[i : i + 9999] for i in range(0, len(body), 9999))
    answer = far.http.post(
        "/v1/embeddings", content=pieces, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 200, answer.text
    assert [d["embedding"][0] for d in answer.json()["data"]] == [100_000.0, 2.0]
    assert answer.json()["model"] == "far"


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [("status 400", 400, "strange"), ("status 401", 502, "upstream_error"),
     ("status 429", 429, "overloaded"), ("html", 502, "upstream_error"),
     ("garbage", 502, "upstream_error"), ("hang", 504, "deadline_exceeded")],
)  # fmt: skip
def test_its_errors(far: Far, text: str, status: int, code: str) -> None:
    before = far.finals()
    answer = far.http.post("/v1/embeddings", json={"model": "far", "input": text})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert SECRET not in answer.text
    (record,) = far.records(before + 1)[before:]
    assert record.status == "error"
    assert record.quantities.get("rows", 0) == 0


@pytest.mark.parametrize(
    ("more", "param"),
    [({}, "input"), ({"input": "a", "dimensions": 0}, "dimensions"),
     ({"input": "a", "encoding_format": "hex"}, "encoding_format")],
)  # fmt: skip
def test_bad_requests_are_not_passed_on(far: Far, more: dict[str, object], param: str) -> None:
    asked = len(far.upstream.asked())
    answer = far.http.post("/v1/embeddings", json={"model": "far", **more})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert far.http.post("/v1/embeddings", json={"input": "a"}).status_code == 400
    assert len(far.upstream.asked()) == asked
    none = far.http.post(
        "/v1/embeddings", json={"model": "far", "input": "a"}, headers={"authorization": "Bearer x"}
    )
    assert none.status_code == 401


def test_budgets_hold(far: Far) -> None:
    """The most that its bytes may be is held, what the server told is counted."""
    limit = Limit("v", "budget", 500, "day", "prompt_tokens", tenant="acme")
    far.rig.listen()
    far.rig.limit(limit)
    far.rig.publish()
    with pytest.raises(openai.APIStatusError) as caught:
        far.client.embeddings.create(model="far", input="x" * 600)
    assert caught.value.status_code == 402
    far.client.embeddings.create(model="far", input=["one two"])
    found = spent(far.rig.limits_file, [limit], now_ms())["v"]
    assert (found.used, found.reserved) == (2, 0)
