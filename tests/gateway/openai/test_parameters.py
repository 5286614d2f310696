"""Every parameter of the table, and bad conversations: honoured, or 400 that names it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from gateway.openai.conftest import Chat
from gateway.rig import target, until
from meuse.gateway.openai import parameters
from meuse.gateway.openai.embeddings import MAX_TEXTS
from meuse.serve.generation.messages import MAX_CHOICES
from serve import models

USER = [{"role": "user", "content": "say 1"}]
BODIES: dict[str, dict[str, Any]] = {
    "chat/completions": {"model": "chat", "messages": USER},
    "completions": {"model": "chat", "prompt": "say 1"},
    "embeddings": {"model": "words", "input": "dog"},
}
TABLES = {
    "chat/completions": parameters.CHAT,
    "completions": parameters.COMPLETIONS,
    "embeddings": parameters.EMBEDDINGS,
}
TOOL = {"type": "function", "function": {"name": "look"}}

# Per parameter: values that are answered, and values that are refused by its name.
VALUES: dict[str, tuple[list[Any], list[Any]]] = {
    "frequency_penalty": ([-2, 0.5, 2], [-2.1, 3, "1", True]),
    "presence_penalty": ([-2, 0.5, 2], [-2.1, 3, "1", True]),
    "temperature": ([0, 1, 2.0], [-0.1, 2.1, "hot"]),
    "top_p": ([0, 0.5, 1], [-0.1, 1.1, []]),
    "top_k": ([0, 50], [-1, 1.5]),
    "min_p": ([0, 0.1], [2, -1]),
    "repetition_penalty": ([0.5, 1.2], [0, -1]),
    "ignore_eos": ([True, False], [1, "yes"]),
    "max_tokens": ([1, 10**6], [0, -1, 1.5, "9", 2**40]),
    "max_completion_tokens": ([1, 10**6], [0, -1, True]),
    "n": ([1, 2], [0, MAX_CHOICES + 1, 1.5]),
    "stop": (["x", ["x"], ["a"] * 4, []], [1, [1], [""], ["a"] * 17, "x" * 999]),
    "seed": ([0, -5, 2**40], [1.5, "x", 2**64]),
    "stream": ([False], ["yes", 1]),
    "stream_options": ([], [{"include_usage": True}, {"include_usage": 1}, 7]),
    "logit_bias": ([{}], [{"50256": -100}]),
    "user": (["me"], [1]),
    "logprobs": ([], ["yes", 99]),
    "top_logprobs": ([], [1, 21, -1]),
    "response_format": (
        [{"type": "text"}, {"type": "json_object"},
         {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}],
        [{}, "json", {"type": "xml"}, {"type": "json_schema"},
         {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}},
         {"type": "json_schema", "json_schema": {"name": "a", "schema": [1]}}],
    ),
    "tools": (
        [[], [TOOL]],
        ["x", [1], [{"type": "search"}], [{"type": "function", "function": {"name": "a b"}}],
         [TOOL] * 129,
         [{"type": "function", "function": {"name": "a", "parameters": 1}}]],
    ),
    "tool_choice": (["none", "auto"], ["required", "maybe", {"type": "function"}, 3,
                                       {"type": "function", "function": {"name": "x"}}]),
    "parallel_tool_calls": ([True, False], ["no", 0]),
    "modalities": ([["text"]], [["text", "audio"], "text"]),
    "audio": ([], [{"voice": "x"}]),
    "prediction": ([], [{"type": "content", "content": "x"}]),
    "reasoning_effort": ([], ["low"]),
    "verbosity": ([], ["low"]),
    "web_search_options": ([], [{}]),
    "functions": ([], [[]]),
    "function_call": ([], ["auto"]),
    "store": ([False], [True]),
    "metadata": ([{}], [{"a": "b"}]),
    "service_tier": (["auto", "default"], ["flex"]),
    "safety_identifier": (["x"], [1]),
    "prompt_cache_key": (["x"], [1]),
    "best_of": ([1], [2, 0]),
    "echo": ([True, False], ["x"]),
    "suffix": ([""], ["end"]),
    "model": (["chat", "chat:law"], ["", 7, None]),
    "messages": ([USER], [None, [], "x", [1]]),
    "prompt": (["say 1", [1, 2], ["say 1", "say 2"], [[1], [2]]],
               [None, [], "", [1.5], [[]], ["x", 1], {}, ["x"] * 17]),
    "input": (["dog", ["dog", "cat"], ["x"] * MAX_TEXTS],
              [None, [], "", ["a", ""], [1, 2], [[1], [2]], ["a", 1], {}, ["x"] * (MAX_TEXTS + 1)]),
    "encoding_format": (["float", "base64"], ["hex", 1]),
    "dimensions": ([2], [3, 0, 1.5, "2", True]),
}  # fmt: skip
ENCODERS = (["words"], ["", 7, None, "chat"])
"""What `model` may be where vectors are wanted."""


def rows() -> list[tuple[str, str]]:
    return [(path, name) for path, table in TABLES.items() for name in table]


@pytest.fixture(scope="module")
def walked(served: Chat) -> Chat:
    """With an encoder beside the language model."""
    rig, model = served.rig, models.embedder()
    rig.replica("words", "words:1", model)
    rig.deploy("acme/words", target("words:1", model, ["words"]))
    rig.listen()
    rig.publish()
    until(lambda: served.http.post("/v1/embeddings", json=BODIES["embeddings"]).is_success)
    return served


@pytest.mark.parametrize(("path", "name"), rows())
def test_each_parameter_is_honoured_or_refused_by_name(walked: Chat, path: str, name: str) -> None:
    """What is good is answered, null is as if it were not sent; what is bad is 400."""
    good, bad = ENCODERS if (path, name) == ("embeddings", "model") else VALUES[name]
    required = TABLES[path][name].required
    for value in [*good, *([] if required else [None])]:
        answer = walked.http.post(f"/v1/{path}", json={**BODIES[path], name: value})
        assert answer.status_code == 200, (value, answer.text)
    assert good or bad
    for value in bad:
        answer = walked.http.post(f"/v1/{path}", json={**BODIES[path], name: value})
        assert answer.status_code == 400, (value, answer.text)
        error = answer.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert error["param"].partition("[")[0].partition(".")[0] == name, (value, error)


@pytest.mark.parametrize("logprobs", [0, 1])
def test_the_prompts_logprobs_are_refused_by_name(served: Chat, logprobs: int) -> None:
    """What no engine tells is not left out of an answer without a word."""
    body = {**BODIES["completions"], "logprobs": logprobs}
    for echo in (False, None):
        assert served.http.post("/v1/completions", json={**body, "echo": echo}).status_code == 200
    answer = served.http.post("/v1/completions", json={**body, "echo": True})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "echo")
    assert "logprobs" in answer.json()["error"]["message"]


def test_the_table_says_what_is_made_of_each() -> None:
    """Every row has its note."""
    for table in TABLES.values():
        assert all(row.note for row in table.values())


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{"role": "wizard", "content": "x"}], "messages[0].role"),
        ([{"content": "x"}], "messages[0].role"),
        ([*USER, {"role": "user"}], "messages[1].content"),
        ([{"role": "user", "content": 1}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
         "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": "x", "tool_calls": []}], "messages[0].tool_calls"),
        ([{"role": "assistant", "content": None}], "messages[0].content"),
        ([{"role": "assistant", "tool_calls": [{}]}], "messages[0].tool_calls[0].function"),
        ([{"role": "tool", "content": "x"}], "messages[0].tool_call_id"),
        ([{"role": "function", "content": "x", "name": "f"}], "messages[0].role"),
        ([{"role": "user", "content": "x", "name": 1}], "messages[0].name"),
    ],
)  # fmt: skip
def test_a_bad_conversation_is_named(served: Chat, messages: Any, param: str) -> None:
    """Which message, and which part of it."""
    answer = served.http.post("/v1/chat/completions", json={"model": "chat", "messages": messages})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_message_may_be_empty(served: Chat) -> None:
    """Its text is "", as it was sent; clients send such where a tool gave nothing back."""
    told = [("system", ""), ("user", ""), ("assistant", ""), ("user", "echo")]
    messages = [{"role": role, "content": content} for role, content in told]
    answer = served.http.post("/v1/chat/completions", json={"model": "chat", "messages": messages})
    assert answer.status_code == 200, answer.text
    asked = json.loads(answer.json()["choices"][0]["message"]["content"])
    assert json.loads(base64.b64decode(asked["messages"])) == messages


@pytest.mark.parametrize(("letters", "param"), [(300_000, "tools"), (1 << 20, "body")])
def test_tools_of_a_megabyte_are_too_large(served: Chat, letters: int, param: str) -> None:
    """They are refused, whatever else fits; with them the whole body may be."""
    tool = {"type": "function", "function": {"name": "a", "description": "x" * letters}}
    answer = served.http.post(
        "/v1/chat/completions", json={**BODIES["chat/completions"], "tools": [tool]}
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (413, param)
