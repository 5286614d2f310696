"""Calls of tools in what models write."""

from __future__ import annotations

import copy
import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meuse.core.errors import Code, MeuseError
from meuse.serve.generation.messages import Ask
from meuse.serve.generation.tools import Calls, Hermes, Whole, parser, prepared

CALL = {"name": "weather", "arguments": {"city": "Liège", "days": 2}}
HERMES = f"Let me look.\n<tool_call>\n{json.dumps(CALL)}\n</tool_call>"


def read(parser: Calls, parts: list[str]) -> tuple[str, list[Any]]:
    text, calls = "", list[Any]()
    for part in parts:
        more, made = parser.push(part)
        text, calls = text + more, calls + made
    more, made = parser.end()
    return text + more, calls + made


def cut(text: str, at: list[int]) -> list[str]:
    ends = sorted({min(n, len(text)) for n in at} | {0, len(text)})
    return [text[a:b] for a, b in itertools.pairwise(ends)]


@given(st.lists(st.integers(0, 120), max_size=12))
def test_hermes_calls_are_found_however_they_come(at: list[int]) -> None:
    """Two calls after some text, cut anywhere."""
    text, calls = read(Hermes(), cut(HERMES + HERMES.removeprefix("Let me look."), at))
    assert text == "Let me look.\n"
    assert [call["index"] for call in calls] == [0, 1]
    assert calls[0]["id"] != calls[1]["id"]
    for call in calls:
        assert call["type"] == "function"
        assert call["function"]["name"] == "weather"
        assert json.loads(call["function"]["arguments"]) == CALL["arguments"]


@pytest.mark.parametrize(
    "text",
    [
        "no call at all <b>",
        "<tool_call>{broken</tool_call>",
        '<tool_call>{"arguments": {}}</tool_call> and more',
        "<tool_call>[1]</tool_call>",
        "an end <tool_ca",
        "<tool_call>never ended",
    ],
)
@given(at=st.lists(st.integers(0, 50), max_size=8))
def test_what_is_no_hermes_call_stays_text(text: str, at: list[int]) -> None:
    """Nothing of it is lost."""
    assert read(Hermes(), cut(text, at)) == (text, [])


def test_a_call_without_its_end_is_a_call() -> None:
    """Models end by a token where the tag should stand."""
    text, calls = read(Hermes(), [HERMES.removesuffix("</tool_call>")])
    assert (text, len(calls)) == ("Let me look.\n", 1)


@given(st.lists(st.integers(0, 120), max_size=12))
def test_llama_calls_are_whole_answers(at: list[int]) -> None:
    """An object with a name; its arguments are called parameters."""
    answer = json.dumps({"name": "weather", "parameters": CALL["arguments"]})
    text, calls = read(Whole("parameters"), cut(answer, at))
    assert text == ""
    assert json.loads(calls[0]["function"]["arguments"]) == CALL["arguments"]


@pytest.mark.parametrize("text", ["Hello {", '{"not": "a call"}', "", '{"name": "x"', "  "])
def test_what_is_no_llama_call_stays_text(text: str) -> None:
    """Nothing of it is lost."""
    assert read(Whole("parameters"), cut(text, [1, 3])) == (text, [])


def test_other_text_is_not_held_back() -> None:
    """A streamed answer that begins with a word streams."""
    assert Whole("parameters").push("Hel") == ("Hel", [])
    assert Hermes().push("a < b") == ("a < b", [])


TOOLS = [
    {"type": "function", "function": {"name": "now"}},
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {"at": {"$ref": "#/$defs/place"}},
                "$defs": {"place": {"type": "string"}},
            },
        },
    },
]


def asked(choice: Any = None) -> Ask:
    return Ask(
        messages=b"[]",
        tools=json.dumps(TOOLS).encode(),
        tool_choice=json.dumps(choice).encode() if choice else b"",
    )


def test_choices_of_tools_are_carried_out() -> None:
    """none hides them; auto reads what comes; required and a name hold the answer to a call."""
    assert prepared(asked("none"), "") == Ask(messages=b"[]")
    assert prepared(asked(), "hermes") == asked()
    assert isinstance(parser(asked(), "hermes"), Hermes)
    both = json.loads(prepared(asked("required"), "hermes").format.schema)
    assert [kind["properties"]["name"]["enum"] for kind in both["anyOf"]] == [["now"], ["weather"]]
    assert both["$defs"] == {"place": {"type": "string"}}
    again = copy.deepcopy(TOOLS)
    again.append(copy.deepcopy(TOOLS[1]))
    again[2]["function"]["parameters"]["$defs"] = {"place": {"type": "array", "items": {
        "anyOf": [{"$ref": "#/$defs/other/type"}, {"$ref": "#/$defs/place"}]}}}  # fmt: skip
    ask = msgspec.structs.replace(asked("required"), tools=json.dumps(again).encode())
    three = json.loads(prepared(ask, "hermes").format.schema)
    held = [kind["properties"]["arguments"]["properties"]["at"] for kind in three["anyOf"][1:]]
    assert held == [{"$ref": "#/$defs/place"}, {"$ref": "#/$defs/place-2"}]
    assert three["$defs"]["place"] == {"type": "string"}
    assert three["$defs"]["place-2"]["items"]["anyOf"] == [
        {"$ref": "#/$defs/other/type"}, {"$ref": "#/$defs/place-2"},
    ]  # fmt: skip
    named = {"type": "function", "function": {"name": "now"}}
    one = prepared(asked(named), "llama3")
    assert json.loads(one.format.schema)["anyOf"][0]["required"] == ["name", "parameters"]
    assert len(json.loads(one.format.schema)["anyOf"]) == 1
    assert isinstance(parser(asked(named), "hermes"), Whole)


def test_tools_need_a_family() -> None:
    """Rather than being ignored without a word."""
    with pytest.raises(MeuseError) as caught:
        prepared(asked(), "")
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "tools")
