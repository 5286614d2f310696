"""Lines to judge by: each kind, and each fault told by its line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meuse.core.errors import Code, MeuseError
from meuse.core.jsonl import BOM
from meuse.evaluate.language.lines import Line, metrics_of, read
from meuse.gateway.openai.conversation import normal

USER = {"role": "user", "content": "Capital of France?"}
ANSWER = {"role": "assistant", "content": "Paris"}
CHOICE: dict[str, Any] = {"prompt": "2 + 2 =", "choices": [" 4", " 5"], "answer": 0}


def lines_of(*bodies: Any) -> list[Line]:
    return read([json.dumps(body).encode() + b"\n" for body in bodies], normal)


def test_every_kind_of_line() -> None:
    """Texts, completions, conversations whose last message is the answer, and choices."""
    text, completion, chat, choice, talked = lines_of(
        {"text": "Once upon a time"},
        {"prompt": "2 + 2 =", "completion": " 4"},
        {"messages": [USER, ANSWER]},
        CHOICE,
        {"messages": [USER], "choices": ["Paris", "Rome"], "answer": 1},
    )
    assert (text.kind, text.answers) == ("text", ("Once upon a time",))
    assert (completion.prompt, completion.answers) == ("2 + 2 =", (" 4",))
    assert (json.loads(chat.messages)[0]["content"], chat.answers) == (USER["content"], ("Paris",))
    assert len(json.loads(chat.messages)) == 1
    assert (choice.kind, choice.answers, choice.right) == ("choice", (" 4", " 5"), 0)
    assert (talked.prompt, talked.right, talked.number) == ("", 1, 5)


def test_metrics_are_what_every_line_allows() -> None:
    completion = {"prompt": "a", "completion": "b"}
    assert metrics_of(lines_of({"text": "a b"}, completion), ()) == ("perplexity",)
    assert metrics_of(lines_of(completion), ()) == ("perplexity", "exact_match")
    assert metrics_of(lines_of(CHOICE), ()) == ("choice",)
    assert metrics_of(lines_of(completion), ["exact_match"]) == ("exact_match",)
    for bodies, asked, line in [
        ([completion, CHOICE], (), 2),
        ([completion, {"text": "a b"}], ("exact_match",), 2),
        ([CHOICE], ("perplexity",), 1),
    ]:
        with pytest.raises(MeuseError) as caught:
            metrics_of(lines_of(*bodies), asked)
        assert caught.value.message.startswith(f"line {line}: ")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ([], "not a JSON object"),
        ({}, "it has no text"),
        ({"text": ""}, "text is empty"),
        ({"text": " \n"}, "text is empty"),
        ({"text": None}, "text is no text"),
        ({"text": "a", "label": 1}, "there is no field 'label'"),
        ({"prompt": "a"}, "completion is missing"),
        ({"completion": "a"}, "prompt is missing"),
        ({"prompt": "", "completion": "a"}, "prompt is empty"),
        ({"messages": []}, "the last one is not the assistant's"),
        ({"messages": [USER]}, "the last one is not the assistant's"),
        ({"messages": [ANSWER]}, "there is no message"),
        ({"messages": [{"role": "nobody", "content": "a"}, ANSWER]}, "messages[0]"),
        ({"messages": [USER, {"role": "assistant", "content": ""}]}, "messages[1].content"),
        ({"messages": [USER, ANSWER], "completion": "a"}, "the last of them"),
        ({"messages": [USER], "prompt": "a", "choices": ["a", "b"], "answer": 0}, "has both"),
        (CHOICE | {"choices": [" 4"]}, "there is one; 2 to 100"),
        (CHOICE | {"choices": []}, "there are 0"),
        (CHOICE | {"choices": [" 4", ""]}, "none of them empty"),
        (CHOICE | {"answer": 2}, "2 is out of range; the choices are 0 to 1"),
        (CHOICE | {"answer": -1}, "-1 is out of range"),
        (CHOICE | {"answer": "4"}, "the number of the right choice"),
        (CHOICE | {"answer": True}, "the number of the right choice"),
    ],
)  # fmt: skip
def test_a_fault_is_told_by_its_line(body: Any, said: str) -> None:
    raw = body if isinstance(body, str) else json.dumps(body)
    content = [BOM + b'{"text": "good"}\n', b"\n", *[b'{"text": "good"}\n'] * 14, raw.encode()]
    with pytest.raises(MeuseError) as caught:
        read(content, normal)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "data")
    assert caught.value.message.startswith("line 17: ")
    assert said in caught.value.message


def test_a_line_that_is_not_utf8_is_told_by_its_line() -> None:
    with pytest.raises(MeuseError, match="line 2: it is not UTF-8") as caught:
        read([b'{"text": "good"}\n', b'{"text": "caf\xe9"}\n'], normal)
    assert caught.value.code is Code.INVALID_DATA


def test_a_file_without_lines_is_refused() -> None:
    for content in ([], [b"\n", b"  \n"]):
        with pytest.raises(MeuseError) as caught:
            read(content, normal)
        assert caught.value.message == "the file has no lines"
