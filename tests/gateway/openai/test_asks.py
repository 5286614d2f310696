"""Any body is read, or refused precisely: never an error of ours."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meuse.core.errors import Code, MeuseError
from meuse.gateway.openai import asks, chunks, parameters
from meuse.gateway.openai.chunks import Choice, Counted, Writer
from meuse.serve.frames import Finished, Part
from meuse.serve.generation import messages

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False)
    | st.sampled_from(["", "x", "user", "tool", "function", "text", "json_schema", "auto"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["role", "content", "type", "text", "function", "name", "parameters",
                         "json_schema", "schema", "tool_calls", "id", "arguments"]),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


def bodies(table: Any, **good: Any) -> Any:
    """Mostly good ones, with some parameters that are anything."""
    wild = st.dictionaries(st.sampled_from(sorted(table)), VALUES, max_size=4)
    return wild.map(lambda wild: json.dumps({**good, **wild}).encode())


def only_ours(read: Any, body: bytes) -> None:
    refused: list[MeuseError] = []
    try:
        read(body)
    except MeuseError as error:
        refused.append(error)
    codes = (Code.INVALID_FIELD, Code.INVALID_JSON, Code.TOO_LARGE)
    assert all(error.field and error.code in codes for error in refused)


@settings(deadline=None, max_examples=300)
@given(bodies(parameters.CHAT, model="m", messages=[{"role": "user", "content": "x"}]))
def test_any_chat_is_read_or_refused(body: bytes) -> None:
    """And what is read comes to a replica as it is."""
    only_ours(asks.chat, body)
    with contextlib.suppress(MeuseError):
        ask = asks.chat(body).ask
        assert messages.decode(messages.encode(ask)) == ask


@settings(deadline=None, max_examples=200)
@given(bodies(parameters.COMPLETIONS, model="m", prompt="x"))
def test_any_completion_is_read_or_refused(body: bytes) -> None:
    only_ours(asks.completions, body)


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=40))
def test_noise_is_refused(body: bytes) -> None:
    only_ours(asks.chat, body)


@pytest.mark.parametrize("text", ['é\n"\\ \u2028', "data: x\n\n", "\x00", "🙂"])
def test_no_text_breaks_an_event(text: str) -> None:
    """An event is one line, whatever is in it."""
    for shape in (chunks.CHAT, chunks.COMPLETIONS):
        writer = Writer(shape, "id", 1, "m\n", include_usage=True)
        event = writer.part(Part(1, 0, 1, text), 3)
        assert event.count(b"\n") == 2
        (choice,) = json.loads(event.removeprefix(b"data: "))["choices"]
        assert choice["index"] == 3
        assert choice.get("text", choice.get("delta", {}).get("content")) == text


def test_the_quick_way_of_writing_is_the_plain_one() -> None:
    """Most events are put together from bytes that stand already: the same JSON comes out."""
    for include_usage in (False, True):
        writer = Writer(chunks.CHAT, "id", 1, "m", include_usage=include_usage)
        quick = json.loads(writer.part(Part(1, 0, 1, "x"), 0).removeprefix(b"data: "))
        tokens = b'[{"token":"x","logprob":0,"bytes":null,"top_logprobs":[]}]'
        plain = json.loads(writer.part(Part(1, 0, 1, "x", b"", tokens), 0).removeprefix(b"data: "))
        plain["choices"][0]["logprobs"] = None
        assert quick == plain
        assert ("usage" in quick) is include_usage


def test_what_several_texts_took_is_added_up() -> None:
    """Cached tokens are told where any of them tells."""
    ends = [Finished(1, ("stop",), 5, 7), Finished(2, ("stop",), 1, 2, 3)]
    assert Counted.of(ends).to_dict() == {
        "prompt_tokens": 6, "completion_tokens": 9, "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 3},
    }  # fmt: skip
    assert "prompt_tokens_details" not in Counted.of(ends[:1]).to_dict()
    empty = Writer(chunks.CHAT, "id", 1, "m").whole([(Choice(), "stop")], Counted(1, 0))
    assert json.loads(empty)["choices"][0]["message"]["content"] == ""
