"""Files to fine-tune on: every fault is told by its line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from helpers_llama import chat
from meuse.core.errors import Code, MeuseError
from meuse.gateway.openai.conversation import normal
from meuse.train.llm import lines

GOOD = json.dumps(chat("Hi", "Hello.")).encode()


def faults(*rows: Any) -> list[str]:
    content = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    return [str(fault) for fault in lines.read(content, normal).faults]


def said(*messages: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in messages]}


def test_both_kinds_of_lines_are_read() -> None:
    """Blank lines are passed over and counted; a mark of byte order is no fault."""
    body = b"\xef\xbb\xbf" + GOOD + b"\n\n" + b'{"prompt": "a", "completion": "b"}\r\n'
    first, second = lines.check(lines.read(body.split(b"\n"), normal), "data")
    assert (first.number, first.trained) == (1, frozenset({1}))
    assert (second.number, second.prompt, second.completion) == (3, "a", "b")


def test_a_broken_line_17_is_told() -> None:
    with pytest.raises(MeuseError) as caught:
        lines.check(lines.read([*[GOOD] * 16, b'{"messages": [', GOOD], normal), "validation")
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "validation")
    assert caught.value.message.startswith("line 17: it is not JSON")
    assert "messages" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (b"[1]", "not a JSON object"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe", "it is not JSON"),
        (b'{"prompt": "caf\xe9", "completion": "b"}', "it is not UTF-8"),
        ({"text": "a"}, "neither messages nor prompt"),
        ({"prompt": "a"}, "completion is missing"),
        ({"prompt": "a", "completion": 1}, "completion is no text"),
        ({"prompt": "a", "completion": " "}, "completion is empty"),
        ({"prompt": "a", "completion": "b", "weight": 2}, "no field 'weight'"),
        ({"messages": []}, "no message"),
        ({"messages": "hi"}, "a list of messages"),
        (said(("user", "a"), ("robot", "b")), "messages[1].role: there is no role 'robot'"),
        (said(("user", ""), ("assistant", "b")), "messages[0].content: it is empty"),
        (said(("user", "a"), ("assistant", "  ")), "messages[1].content: it is empty"),
        (said(("user", "a"), ("assistant", None)), "messages[1].content: it is missing"),
        (said(("user", [{"type": "image_url"}]), ("assistant", "b")), "'image_url' cannot be read"),
        (said(("system", "a"), ("user", "b")), "no assistant's message"),
        (said(("assistant", "a"), ("user", "b")), "nobody has spoken"),
        (chat("a", "b", extra=1), "no field 'extra'"),
        (chat("a", "b", tools={}), "tools: a list"),
    ],
)  # fmt: skip
def test_faults(row: Any, told: str) -> None:
    (fault,) = faults(row)
    assert fault.startswith("line 1: ")
    assert told in fault


def test_weights_leave_answers_out() -> None:
    """As OpenAI has them: 0 or 1, on an assistant's message."""
    row = said(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    row["messages"][1]["weight"] = 0
    (line,) = lines.read([json.dumps(row).encode()], normal).lines
    assert line.trained == {3}
    row["messages"][3]["weight"] = 0
    assert "no assistant's message" in faults(row)[0]
    row["messages"][3]["weight"] = 0.5
    assert "messages[3].weight" in faults(row)[0]


def test_what_openai_leaves_empty_is_no_fault() -> None:
    """`null` in place of what is not said, and tools that have nothing to tell."""
    call = {"id": "c1", "type": "function", "function": {"name": "mail", "arguments": "{}"}}
    row = {
        "messages": [
            {"role": "user", "content": "Send it.", "weight": None, "name": None},
            {"role": "assistant", "content": None, "tool_calls": [call], "weight": None},
            {"role": "tool", "tool_call_id": "c1", "content": "", "tool_calls": None},
            {"role": "assistant", "content": "Sent.", "tool_calls": None, "weight": 1},
        ],
        "tools": None,
        "parallel_tool_calls": None,
    }
    (line,) = lines.check(lines.read([json.dumps(row).encode()], normal), "data")
    assert (line.trained, line.tools) == ({1, 3}, ())
    assert line.messages[2]["content"] == ""


def test_many_faults_are_counted() -> None:
    found = lines.read([b"x"] * 500, normal)
    assert (len(found.faults), found.faulty) == (lines.KEPT_FAULTS, 500)
    with pytest.raises(MeuseError, match=r"line 5: .*; and 495 more lines"):
        lines.check(found, "data")


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(MeuseError, match="no examples"):
        lines.check(lines.read([b"", b"\n"], normal), "data")
