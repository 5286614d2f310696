"""From the bodies of `/v1/chat/completions` and `/v1/completions` to what a replica is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from meuse.core.errors import Code, MeuseError, invalid
from meuse.gateway.body import decode
from meuse.gateway.openai import conversation, parameters
from meuse.serve.generation.messages import Ask, Format, Sampling

MAX_TOOL_BYTES = 256 * 1024
COMPLETION_TOKENS = 16
"""What `/v1/completions` produces where nothing else is asked, as OpenAI has it."""

_body = msgspec.json.Decoder(dict[str, Any])
_encode = msgspec.json.Encoder().encode

_SAMPLED = (
    "temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty",
    "repetition_penalty", "stop", "seed", "n", "ignore_eos", "max_tokens",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """`size`: bytes, or where `is_tokens` tokens, that bound the prompt's tokens."""

    model: str
    ask: Ask
    size: int
    is_tokens: bool = False
    stream: bool = False
    include_usage: bool = False


def chat(body: bytes) -> Asked:
    """Raises `invalid_json` or `invalid_field`."""
    sent: dict[str, Any] = decode(_body, body)
    given = parameters.read(parameters.CHAT, sent)
    if "max_completion_tokens" in given:
        given["max_tokens"] = given["max_completion_tokens"]
    logprobs = given.get("top_logprobs", 0) if given.get("logprobs") else None
    if logprobs is None and given.get("top_logprobs"):
        raise invalid("top_logprobs", "it needs logprobs", "Send logprobs: true.")
    messages = _encode(conversation.normal(given["messages"]))
    tools, choice = _tools(given)
    kind, schema = given.get("response_format", ("text", None))
    ask = Ask(
        messages=messages,
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=not tools or given.get("parallel_tool_calls", True),
        sampling=_sampling(given, logprobs),
        format=Format(kind, b"" if schema is None else _encode(schema)),
    )
    size = len(messages) + 2 * len(tools)  # templates may write JSON with room between
    return Asked(given["model"], ask, size, False, *_streamed(given))


def completions(body: bytes) -> list[Asked]:
    """One for each prompt. Raises `invalid_json` or `invalid_field`."""
    sent: dict[str, Any] = decode(_body, body)
    given = parameters.read(parameters.COMPLETIONS, sent)
    if given.get("best_of", given.get("n", 1)) != given.get("n", 1):
        raise invalid("best_of", "only as many as n are produced", "Leave it out.")
    if given.get("echo") and "logprobs" in given:
        raise invalid("echo", "engines do not tell the prompt's logprobs", "Leave out one of them.")
    given.setdefault("max_tokens", COMPLETION_TOKENS)
    sampling = _sampling(given, given.get("logprobs"))
    asked = []
    for prompt in _prompts(given["prompt"]):
        if isinstance(prompt, str):
            ask = Ask(prompt=prompt, sampling=sampling, echo=given.get("echo", False))
            size, is_tokens = len(prompt.encode()), False
        else:
            ask = Ask(prompt_ids=prompt, sampling=sampling, echo=given.get("echo", False))
            size, is_tokens = len(prompt), True
        asked.append(Asked(given["model"], ask, size, is_tokens, *_streamed(given)))
    return asked


MAX_PROMPTS = 16


def _prompts(value: Any) -> list[str | tuple[int, ...]]:
    """A text, tokens, or a list of either."""
    if isinstance(value, str) and value:
        return [value]
    if not isinstance(value, list) or not value:
        raise invalid("prompt", "a text, a list of tokens, or a list of either, is wanted")
    if _are_tokens(value):
        return [tuple(value)]
    if len(value) > MAX_PROMPTS:
        raise invalid("prompt", f"{len(value)} prompts are more than {MAX_PROMPTS}")
    found: list[str | tuple[int, ...]] = []
    for i, prompt in enumerate(value):
        if isinstance(prompt, str) and prompt:
            found.append(prompt)
        elif isinstance(prompt, list) and prompt and _are_tokens(prompt):
            found.append(tuple(prompt))
        else:
            raise invalid(f"prompt[{i}]", "a text, or a list of tokens, is wanted")
    return found


def _are_tokens(value: list[Any]) -> bool:
    return all(type(n) is int and 0 <= n < 2**31 for n in value)


def _sampling(given: Mapping[str, Any], logprobs: int | None) -> Sampling:
    return Sampling(logprobs=logprobs, **{k: given[k] for k in _SAMPLED if k in given})


def _streamed(given: Mapping[str, Any]) -> tuple[bool, bool]:
    stream = given.get("stream", False)
    if "stream_options" in given and not stream:
        raise invalid("stream_options", "it needs stream: true", "Leave it out.")
    return stream, given.get("stream_options", False)


def _tools(given: Mapping[str, Any]) -> tuple[bytes, bytes]:
    tools, choice = given.get("tools"), given.get("tool_choice")
    if not tools:
        if choice not in (None, "none", "auto"):
            raise invalid("tool_choice", "there are no tools to choose", "Send tools.")
        return b"", b""
    if isinstance(choice, dict):
        wanted = choice["function"]["name"]
        if wanted not in [tool["function"]["name"] for tool in tools]:
            raise invalid("tool_choice", f"there is no tool {wanted!r}"[:120])
    encoded = _encode(tools)
    if len(encoded) > MAX_TOOL_BYTES:
        raise MeuseError(
            Code.TOO_LARGE,
            f"the tools have {len(encoded)} bytes, more than {MAX_TOOL_BYTES}",
            field="tools",
            hint="Send fewer, or describe them more shortly.",
        )
    return encoded, b"" if choice is None else _encode(choice)
