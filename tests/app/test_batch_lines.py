"""Lines of a batch's input: what is wrong is told by line, what is right is found again."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from meuse.app.work import batch_lines
from meuse.app.work.batch_lines import Answer, Line, body_of, judge

URL = "/v1/chat/completions"


def line(custom_id: Any = "a", **more: Any) -> bytes:
    asked = {"custom_id": custom_id, "method": "POST", "url": URL, "body": {"model": "m"}, **more}
    return json.dumps({k: v for k, v in asked.items() if v is not None}).encode() + b"\n"


def test_lines_are_numbered_as_editors_do_and_found_again() -> None:
    """Empty lines count and are passed over; the last needs no end."""
    text = line("a") + b"\n" + line("ü", body={"model": "m", "n": 2})[:-1]
    judged = judge(io.BytesIO(text), URL)
    assert judged.errors == []
    assert [(found.number, found.custom_id) for found in judged.lines] == [(1, "a"), (3, "ü")]
    assert json.loads(body_of(io.BytesIO(text), judged.lines[1])) == {"model": "m", "n": 2}


@pytest.mark.parametrize(
    ("wrong", "code", "param"),
    [
        (b"{broken\n", "invalid_json_line", None),
        (b"[1]\n", "invalid_json_line", None),
        (b"\xff\xfe\n", "invalid_json_line", None),
        (b'{"custom_id": "\xe9"}\n', "invalid_json_line", None),
        (b"[" * 100_000 + b"\n", "invalid_json_line", None),
        (line(None), "missing_required_parameter", "custom_id"),
        (line(7), "invalid_custom_id", "custom_id"),
        (line("x" * 513), "invalid_custom_id", "custom_id"),
        (line("first"), "duplicate_custom_id", "custom_id"),
        (line(method="GET"), "invalid_method", "method"),
        (line(url="/v1/embeddings"), "invalid_url", "url"),
        (line(body=["model"]), "invalid_body", "body"),
        (line(body={"model": ""}), "missing_required_parameter", "body.model"),
        (line(body={"model": "m", "stream": True}), "invalid_body", "body.stream"),
    ],
)
def test_a_wrong_line_is_told_by_its_number(wrong: bytes, code: str, param: str | None) -> None:
    judged = judge(io.BytesIO(line("first") + wrong + line("last")), URL)
    assert judged.lines == []
    (error,) = judged.errors
    assert (error["code"], error["param"], error["line"]) == (code, param, 2)
    assert error["message"]


def test_too_many_lines_errors_and_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_lines, "MAX_LINES", 3)
    monkeypatch.setattr(batch_lines, "MAX_ERRORS", 2)
    many = b"".join(line(f"c{n}") for n in range(4))
    assert [e["code"] for e in judge(io.BytesIO(many), URL).errors] == ["too_many_lines"]
    assert len(judge(io.BytesIO(many[: many.rindex(b'{"custom')]), URL).lines) == 3
    assert len(judge(io.BytesIO(b"{\n" * 9), URL).errors) == 2
    for empty in (b"", b"\n \n"):
        assert [e["code"] for e in judge(io.BytesIO(empty), URL).errors] == ["empty_file"]


def test_answers_are_written_as_openai_writes_them() -> None:
    one = Line(4, "c4", 0, 9)
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {}}
    good = Answer(one, "ab", 200, "req", {"usage": usage})
    assert json.loads(good.encode()) == {
        "id": "batch_req_ab",
        "custom_id": "c4",
        "response": {"status_code": 200, "request_id": "req", "body": {"usage": usage}},
        "error": None,
    }
    assert (good.is_good, good.tokens()) == (True, (5, 0, 2))
    left = Answer(one, "ab", error={"code": "batch_expired", "message": "late"})
    told = json.loads(left.encode())
    assert (told["response"], told["error"]["code"]) == (None, "batch_expired")
    assert (left.is_good, left.tokens()) == (False, (0, 0, 0))
    assert not Answer(one, "ab", 400, "req", "text").is_good
