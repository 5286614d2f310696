"""An answer piece by piece, and how fast it came."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from meuse.cli import llm
from meuse.client.chat import JSON, chunks, listen, refusal
from meuse.core.errors import Code, MeuseError

USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


def piece(text: str | None, finish: str | None = None) -> JSON:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}


WHOLE: list[JSON] = [
    {"choices": [{"index": 0, "delta": {"role": "assistant"}}]},
    piece("Par"),
    piece("is"),
    piece(None, "stop"),
    {"choices": [], "usage": USAGE},
]


def lines(events: list[JSON], end: str = "data: [DONE]") -> list[str]:
    made = [line for event in events for line in (": hold", f"data: {json.dumps(event)}", "")]
    return [*made, end]


def test_events_become_chunks() -> None:
    assert list(chunks(lines(WHOLE))) == WHOLE


def test_a_stream_without_its_end_broke_off() -> None:
    seen: list[JSON] = []

    def read() -> None:
        seen.extend(chunks(lines(WHOLE, end="")))

    with pytest.raises(MeuseError, match="broke off") as caught:
        read()
    assert caught.value.code is Code.UNAVAILABLE


def test_an_error_in_the_middle_is_raised_after_what_came() -> None:
    told = {"message": "The replica is gone", "type": "server_error", "param": None}
    events = [*WHOLE[:2], {"error": {**told, "code": "unavailable"}}]
    shown: list[str] = []
    with pytest.raises(MeuseError, match="is gone") as caught:
        listen(chunks(lines(events)), shown.append)
    assert (caught.value.code, shown) == (Code.UNAVAILABLE, ["Par"])


def test_an_answer_is_shown_and_timed() -> None:
    """The rate is of the tokens after the first, from the first piece to the last."""
    ticks = iter([10.0, 10.5, 12.5])
    shown: list[str] = []
    answer = listen(WHOLE, shown.append, lambda: next(ticks))
    assert shown == ["Par", "is"]
    assert (answer.text, answer.finish, answer.usage) == ("Paris", "stop", USAGE)
    assert (answer.first_s, answer.rate) == (0.5, 2.0)


def test_a_single_piece_has_no_rate() -> None:
    def once() -> Iterator[JSON]:
        yield piece("Yes", "stop")
        yield {"choices": [], "usage": {**USAGE, "completion_tokens": 1}}

    assert listen(once(), lambda _: None).rate is None


@pytest.mark.parametrize(
    ("status", "code", "ours"),
    [
        (401, "invalid_api_key", Code.UNAUTHENTICATED),
        (404, "model_not_found", Code.NOT_FOUND),
        (429, "rate_limit_exceeded", Code.RATE_LIMITED),
        (402, "insufficient_quota", Code.BUDGET_EXCEEDED),
        (400, "invalid_field", Code.INVALID_FIELD),
        (500, "odd", Code.INTERNAL),
    ],
)
def test_errors_in_the_words_of_others_are_ours(status: int, code: str, ours: Code) -> None:
    body = {"message": "No.", "type": "x", "param": "model", "code": code}
    error = refusal(status, json.dumps({"error": body}))
    assert (error.code, error.message, error.field) == (ours, "No.", "model")
    assert refusal(502, "<html>").code is Code.INTERNAL


class Talker:
    """In place of a client: it always answers the same, and Ctrl-C comes where that is asked."""

    def __init__(self) -> None:
        self.asked: list[list[JSON]] = []

    def chat(self, _deployment: str, messages: list[JSON], **_: Any) -> Iterator[JSON]:
        self.asked.append([*messages])
        yield from WHOLE[:2]
        if messages[-1]["content"] == "Ctrl-C":
            raise KeyboardInterrupt
        yield from WHOLE[2:]


@pytest.fixture
def talker(monkeypatch: pytest.MonkeyPatch) -> Talker:
    made = Talker()
    monkeypatch.setattr(llm, "connect", lambda: contextlib.nullcontext(made))
    return made


def test_ctrl_c_ends_an_answer_and_not_the_conversation(
    talker: Talker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was shown of it stays on the screen alone; the system's words are told each time."""
    monkeypatch.setattr("sys.stdin", io.StringIO("Where?\nCtrl-C\n\nAnd now?\n"))
    llm.chat("capital", system="Be brief.")
    before = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": "Paris"},
    ]
    assert talker.asked == [
        before[:2],
        [*before, {"role": "user", "content": "Ctrl-C"}],
        [*before, {"role": "user", "content": "And now?"}],
    ]
    told = capsys.readouterr()
    assert told.out == "Paris\nPar\nParis\n"
    assert told.err.count("[5 tokens") == 2


def test_one_question_is_asked_after_what_the_system_says(talker: Talker) -> None:
    llm.chat("capital", "Where?", system="Be brief.")
    llm.chat("capital", "Where?")
    told = {"role": "user", "content": "Where?"}
    assert talker.asked == [[{"role": "system", "content": "Be brief."}, told], [told]]
