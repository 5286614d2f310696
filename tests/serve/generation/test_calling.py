"""Calls of tools from a worker's side of the socket."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from serve.generation.rig import Scripted, raw

CALL = '<tool_call>{"name": "look", "arguments": {"at": "x"}}</tool_call>'


def calling(said: str, **more: Any) -> Any:
    tool = {"type": "function", "function": {"name": "look", **more.pop("function", {})}}
    return msgspec.structs.replace(raw(f"c{said}"), tools=json.dumps([tool]).encode(), **more)


def test_without_parallel_calls_the_first_ends_the_answer(scripted: Scripted) -> None:
    """The engine stops there, for each choice by itself; what it made till then is counted."""
    worker = scripted.connect()
    said = "So: " + CALL
    both = worker.ask(calling(said + CALL))
    assert [call["index"] for call in both.calls()] == [0, 1]
    assert both.last.completion_tokens == len(said + CALL)
    ask = calling(said + CALL * 500, parallel_tool_calls=False)
    ask = msgspec.structs.replace(ask, sampling=msgspec.structs.replace(ask.sampling, n=2))
    one = worker.ask(ask)
    for index in (0, 1):
        assert one.text(index) == "So: "
        [call] = one.calls(index)
        assert call["function"] == {"name": "look", "arguments": '{"at": "x"}'}
    assert one.last.reasons == ("tool_calls", "tool_calls")
    assert one.last.completion_tokens == 2 * len(said) == one.parts[-1].tokens
    assert worker.ask(raw("t", max_tokens=2)).text() == "ab"


def test_a_schema_that_no_call_can_be_held_to_is_named_at_its_tool(scripted: Scripted) -> None:
    """Nobody has sent a `response_format`."""
    worker = scripted.connect()
    answer = worker.ask(calling("", tool_choice=b'"required"'))
    assert (answer.error.code, answer.error.field) == (
        "invalid_field", "tools[0].function.parameters",
    )  # fmt: skip
    assert "tool_choice" in (answer.error.hint or "")
    assert worker.ask(calling(CALL)).calls()


def test_tools_that_no_program_can_read_disturb_nobody(scripted: Scripted) -> None:
    """Definitions that are none, and nesting without end: each is refused, and a stream beside them
    goes on."""
    worker = scripted.connect()
    other = worker.send(raw("t", max_tokens=300))
    for broken in (None, 5, [1]):
        ask = calling("", function={"parameters": {"$defs": broken}}, tool_choice=b'"required"')
        assert worker.ask(ask).error.field == "tools[0].function.parameters"
    deep = b'{"a":' * 700 + b"1" + b"}" * 700
    tool = b'{"type":"function","function":{"name":"a","parameters":{"$defs":{"x":{}},"a":%b}}}'
    two = b"[" + b",".join([tool % deep] * 2) + b"]"
    ask = msgspec.structs.replace(calling(""), tools=two, tool_choice=b'"required"')
    assert worker.ask(ask).error.field == "tools"
    assert worker.wait(other).last.completion_tokens == 300
