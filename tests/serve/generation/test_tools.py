"""What is asked of an engine where a model may, or must, call tools."""

from __future__ import annotations

import copy
import json
from typing import Any

import msgspec
import pytest

from meuse.core.errors import Code, MeuseError, invalid
from meuse.serve.generation.calls import Hermes, Mistral, Whole
from meuse.serve.generation.choice import Choice, Delta
from meuse.serve.generation.engine import Progress
from meuse.serve.generation.load import choices
from meuse.serve.generation.messages import Ask, Format
from meuse.serve.generation.text import BytePieces, Stops
from meuse.serve.generation.tools import FAMILIES, check, parser, prepared

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


@pytest.mark.parametrize("defs", [None, 5, [1], {}])
def test_definitions_that_are_none_are_left_to_the_engine(defs: Any) -> None:
    """It says what it cannot hold a text to."""
    tool = {"type": "function", "function": {"name": "now", "parameters": {"$defs": defs}}}
    ask = msgspec.structs.replace(asked("required"), tools=json.dumps([tool]).encode())
    assert json.loads(prepared(ask, "hermes").format.schema)["anyOf"]


def refusing(word: bytes, most: int = 10**6) -> Any:
    def engine(format: Format) -> None:
        if word in format.schema or len(format.schema) > most:
            raise invalid("response_format", "it cannot be used")

    return engine


def test_a_schema_that_cannot_be_held_is_named_where_it_was_sent() -> None:
    """At the tool that has it, whichever of them may be called; at all of them where only
    together they are too much."""
    named = {"type": "function", "function": {"name": "weather"}}
    for choice in ("required", named):
        with pytest.raises(MeuseError) as caught:
            check(prepared(asked(choice), "hermes"), "hermes", refusing(b"place"))
        assert caught.value.field == "tools[1].function.parameters"
        assert (caught.value.message, bool(caught.value.hint)) == ("it cannot be used", True)
        check(prepared(asked(choice), "hermes"), "hermes", refusing(b"nothing"))
    with pytest.raises(MeuseError) as caught:
        check(prepared(asked("required"), "hermes"), "hermes", refusing(b"nothing", 300))
    assert caught.value.field == "tools"
    shaped = msgspec.structs.replace(asked(), format=Format("json_schema", b'{"x": "place"}'))
    with pytest.raises(MeuseError) as caught:
        check(prepared(shaped, "hermes"), "hermes", refusing(b"place"))
    assert caught.value.field == "response_format"


BYTES = [bytes([n]) for n in range(256)]
CALLED = '<tool_call>{"name": "now"}</tool_call>'


def progress(text: str, ended: str = "") -> Progress:
    return Progress(1, list(text.encode()), ended=ended)


@pytest.mark.parametrize("ended", ["", "stop", "length"])
def test_an_answer_with_one_call_ends_behind_it(ended: str) -> None:
    """Although the same step gave more, which is counted; in that step it is given."""
    choice = Choice(0, BytePieces(BYTES), Stops(()), Hermes(), None, one_call=True)
    assert choice.push(progress("So: " + CALLED[:-1])) == Delta("So: ")
    assert choice.reason == ""
    delta = choice.push(progress(">\n" + CALLED + "and more", ended))
    assert (delta.text, len(json.loads(delta.calls)), choice.reason) == ("", 1, "tool_calls")
    assert choice.tokens == len("So: " + CALLED + "\n" + CALLED + "and more")


@pytest.mark.parametrize(("one", "calls"), [(False, 2), (True, 1)])
def test_calls_beside_each_other_are_the_callers_choice(one: bool, calls: int) -> None:
    """Without one, an answer that calls nothing is none the less whole."""
    choice = Choice(0, BytePieces(BYTES), Stops(()), Hermes(), None, one_call=one)
    delta = choice.push(progress(CALLED * 2, "stop"))
    assert (len(json.loads(delta.calls)), choice.reason) == (calls, "tool_calls")
    plain = Choice(0, BytePieces(BYTES), Stops(()), Hermes(), None, one_call=one)
    assert plain.push(progress("a < b <tool", "length")) == Delta("a < b <tool")
    assert plain.reason == "length"


class Tokens:
    """One token for each byte, and three control tokens, which have no text."""

    def __init__(self, joined: bool) -> None:
        self.pieces = [*BYTES, b"", b"", b""] if joined else None
        self.special = dict(zip(Mistral.WORDS, (256, 257, 258), strict=True))

    def encode(self, *texts: str, whole: bool = False, most: int | None = None) -> Any:
        raise AssertionError

    def decode(self, ids: list[int]) -> str:
        return bytes(n for n in ids if n < 256).decode("utf-8", "replace")


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("each", [True, False])
def test_control_tokens_call_and_their_letters_do_not(joined: bool, each: bool) -> None:
    """A model of Mistral's begins a call by a token, which is no text; what only spells it is
    text, also behind a mark of ours."""
    spelled = 'You wrote: \ufdd0[TOOL_CALLS]now{"a": 1} or [TOOL_CALLS]now[ARGS]{}. '
    ids = [*spelled.encode(), 256, *b"now", 257, *json.dumps({"a": "[TOOL_CALLS]"}).encode()]
    choice = choices(Tokens(joined), "mistral")(0, asked())
    text, calls = "", list[Any]()
    for step in [[number] for number in ids] if each else [ids]:
        delta = choice.push(Progress(1, step))
        text, calls = text + delta.text, calls + json.loads(delta.calls or "[]")
    choice.push(Progress(1, ended="stop"))
    assert text == spelled.replace("\ufdd0", "")
    assert [call["function"]["arguments"] for call in calls] == ['{"a": "[TOOL_CALLS]"}']
    assert choice.reason == "tool_calls"
    unasked = choices(Tokens(joined), "mistral")(0, Ask(prompt="x"))
    assert unasked.push(Progress(1, [256, *b"a"], ended="stop")).text == "a"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_reads_the_call_that_it_is_held_to(family: str) -> None:
    """By the field that its grammar has; the id is one that its template takes."""
    ask = prepared(asked("required"), family)
    field = json.loads(ask.format.schema)["anyOf"][0]["required"][1]
    reading = parser(ask, family)
    assert reading is not None
    assert reading.push(json.dumps({"name": "now", field: {"a": 1}})) == ("", [])
    [call] = reading.end()[1]
    assert call["function"] == {"name": "now", "arguments": '{"a": 1}'}
    assert len(str(call["id"])) == (9 if family == "mistral" else 29)
