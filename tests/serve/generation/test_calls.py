"""Calls of tools in what models write."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meuse.serve.generation import calls as read_calls
from meuse.serve.generation.calls import Calls, Hermes, Mistral, Whole, first
from meuse.serve.generation.text import Controls
from meuse.serve.generation.xmlcall import reader

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


def named(calls: list[Any]) -> list[tuple[str, Any]]:
    return [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls]


LOOK = {"name": "look", "arguments": {"at": 'a \\" } ] [TOOL_CALLS]', "deep": {"x": [{}]}}}
TWO = [(CALL["name"], CALL["arguments"]), (LOOK["name"], LOOK["arguments"])]
LIST = "Let me look.[TOOL_CALLS] " + json.dumps([CALL, {**LOOK, "id": "abcdefghi"}])
ONE_EACH = "Let me look." + "".join(
    f"[TOOL_CALLS]{name}{extra}{json.dumps(arguments)}"
    for (name, arguments), extra in zip(TWO, ("[ARGS]", "[CALL_ID]a1b2c3d4e[ARGS]"), strict=True)
)
WITHOUT_ARGS = ONE_EACH.replace("[ARGS]", "").replace("[CALL_ID]a1b2c3d4e", " ")
CUTS = st.lists(st.integers(0, 320), max_size=24)


def controlled(text: str) -> str:
    """As it comes where the words are control tokens: those that begin a call, an id, or
    arguments, not the letters in an argument."""
    for word in Mistral.WORDS:
        text = text.replace(word, Controls.MARK + word)
    return text.replace(f"] {Controls.MARK}[TOOL_CALLS]", "] [TOOL_CALLS]")


@pytest.mark.parametrize("mark", ["", Controls.MARK])
@pytest.mark.parametrize("text", [LIST, ONE_EACH, WITHOUT_ARGS], ids=["list", "each", "plain"])
@given(at=CUTS)
def test_mistral_calls_are_found_however_they_come(text: str, mark: str, at: list[int]) -> None:
    """Both forms, cut anywhere; ids are what its templates take back."""
    text = controlled(text) if mark else text
    shown, calls = read(Mistral(mark), cut(text, at))
    assert (shown, named(calls)) == ("Let me look.", TWO)
    assert [call["index"] for call in calls] == [0, 1]
    ids = [call["id"] for call in calls]
    assert len(set(ids)) == 2
    assert all(len(id) == 9 and id.isalnum() for id in ids)


@pytest.mark.parametrize(
    "text",
    [
        "[TOOL_CALLS]",
        "[TOOL_CALLS] []",
        "[TOOL_CALLS] [{broken}] and more",
        '[TOOL_CALLS] [{"arguments": {}}]',
        "[TOOL_CALLS] [1, 2]",
        '[TOOL_CALLS]look[ARGS]{"a": }',
        '[TOOL_CALLS]look at this[ARGS]{"a": 1}',
        '[TOOL_CALLS]look[ARGS]{"a": "never ended}',
        '[TOOL_CALLS]look[ARGS]{"a": NaN}',
        "an end [TOOL_CA",
        "a [list] of [TOOL] words",
        "[TOOL_CALLS]" + "x" * 600,
    ],
)
@given(at=CUTS)
def test_what_is_no_mistral_call_stays_text(text: str, at: list[int]) -> None:
    """Nothing of it is lost, nothing is added."""
    assert read(Mistral(), cut(text, at)) == (text, [])
    assert read(Mistral(Controls.MARK), cut(controlled(text), at)) == (text, [])


@given(at=CUTS)
def test_a_mistral_call_beside_what_is_none(at: list[int]) -> None:
    """Each is what it is, in the order in which they stand."""
    good = f"[TOOL_CALLS]look[ARGS]{json.dumps(LOOK['arguments'])}"
    text, calls = read(Mistral(), cut("[TOOL_CALLS]broken " + good + "\nDone.", at))
    assert (text, named(calls)) == ("[TOOL_CALLS]broken Done.", TWO[1:])
    text, calls = read(Mistral(), cut(f"[TOOL_CALLS][{json.dumps(CALL)}, {{broken}}] x", at))
    assert (text, named(calls)) == (", {broken}] x", TWO[:1])


@given(at=CUTS)
def test_letters_of_a_control_token_are_no_call(at: list[int]) -> None:
    """A text that is quoted cannot call anything where the tokenizer knows the token."""
    assert read(Mistral(Controls.MARK), cut(LIST, at)) == (LIST, [])


def test_a_mistral_call_that_does_not_end_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not held for ever."""
    monkeypatch.setattr(read_calls, "MAX_HELD", 100)
    text = '[TOOL_CALLS]look[ARGS]{"a": "' + "x" * 120
    parser = Mistral()
    assert parser.push(text) == (text, [])
    assert parser.push("y") == ("y", [])


@pytest.mark.parametrize(
    ("parser", "text"),
    [(Hermes, HERMES + HERMES), (Mistral, LIST), (Mistral, ONE_EACH)],
    ids=["hermes", "list", "each"],
)
def test_the_first_call_alone(parser: Any, text: str) -> None:
    """With the text before it, and nothing behind."""
    shown, calls = first(parser(), text)
    assert (shown.strip(), named(calls)) == ("Let me look.", TWO[:1])
    assert first(parser(), "no call") == ("no call", [])


SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "share": {"type": "number"},
        "near": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "quick": {"type": ["boolean", "null"]},
        "size": {"enum": ["small", 12]},
        "place": {"$ref": "#/$defs/place"},
        "list": {"oneOf": [{"type": "array"}]},
    },
}
CODER = [
    {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "now"}},
]


def written(name: str, **values: str) -> str:
    inner = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in values.items())
    return f"<tool_call>\n<function={name}>\n{inner}</function>\n</tool_call>"


@given(at=CUTS)
def test_qwen3_coder_calls_are_found_however_they_come(at: list[int]) -> None:
    """Values are what the schema allows them to be; what has no schema is text."""
    told = written(
        "weather", city="007", days="2", share="3", near="null", quick="True", size="12",
        place='{"a": [1]}', list="[1]", more="5",
    )  # fmt: skip
    again = "\n" + written("now")
    text, calls = read(Hermes(reader(CODER)), cut("So:\n" + told + again, at))
    assert text == "So:\n"
    assert named(calls) == [
        ("weather", {"city": "007", "days": 2, "share": 3, "near": None, "quick": True, "size": 12,
                     "place": {"a": [1]}, "list": [1], "more": "5"}),
        ("now", {}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "read_as"),
    [
        ("city", "a\n\nb </parameter> <c>\n", "a\n\nb </parameter> <c>\n"),
        ("days", "soon", "soon"),
        ("days", "1.5", "1.5"),
        ("share", "NaN", "NaN"),
        ("near", "12", "12"),
        ("size", "small", "small"),
        ("place", "home", "home"),
    ],
)
def test_what_a_schema_does_not_allow_is_text(name: str, value: str, read_as: Any) -> None:
    """As the model wrote it."""
    _, calls = read(Hermes(reader(CODER)), [written("weather", **{name: value})])
    assert named(calls) == [("weather", {name: read_as})]


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\n<function=now>\n</tool_call>",
        "<tool_call><function=now>what?</function></tool_call>",
        "<tool_call><function=now><parameter=a>1</function></tool_call>",
        '<tool_call>{"name": "now", "arguments": {}}</tool_call>',
        "<tool_call><function=now><parameter=a>never ended",
    ],
)
@given(at=CUTS)
def test_what_is_no_qwen3_coder_call_stays_text(text: str, at: list[int]) -> None:
    """Nothing of it is lost."""
    assert read(Hermes(reader(CODER)), cut(text, at)) == (text, [])


@pytest.mark.parametrize("depth", range(900, 1000, 11))
def test_arguments_without_end_are_a_call_or_text(depth: int) -> None:
    """Near the depth that can be read, some can be read and not written."""
    arguments = '{"a":' * depth + "1" + "}" * depth
    for parser, text in (
        (Hermes(), f'<tool_call>{{"name": "f", "arguments": {arguments}}}</tool_call>'),
        (Mistral(), f"[TOOL_CALLS]f{arguments}"),
        (Hermes(reader(CODER)), written("weather", place=arguments)),
    ):
        shown, calls = read(parser, [text])
        assert bool(calls) != (shown == text)
