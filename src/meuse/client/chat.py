"""A conversation with a deployment, streamed: the answer piece by piece, then its figures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from meuse.core.errors import Code, MeuseError

PATH = "/v1/chat/completions"
SILENCE_S = 600.0
"""A long prompt is read before the first token comes."""

JSON = dict[str, Any]

_BY_STATUS = {
    401: Code.UNAUTHENTICATED,
    402: Code.BUDGET_EXCEEDED,
    403: Code.FORBIDDEN,
    404: Code.NOT_FOUND,
    429: Code.RATE_LIMITED,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}
"""Where OpenAI has a word of its own for what happened."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`first_s`: seconds to the first piece; `rate`: tokens per second after it, None where
    there was only one. `usage` as OpenAI has it."""

    text: str
    finish: str
    usage: Mapping[str, int]
    first_s: float
    rate: float | None


def stream(
    http: httpx.Client, model: str, messages: Sequence[JSON], **options: Any
) -> Iterator[JSON]:
    """The chunks of an answer as they come; the last has the usage. Closing it cancels the rest.
    Raises MeuseError, also in the middle."""
    body = {
        "model": model,
        "messages": list(messages),
        "stream": True,
        "stream_options": {"include_usage": True},
        **options,
    }
    with http.stream("POST", PATH, json=body, timeout=httpx.Timeout(SILENCE_S)) as response:
        if response.status_code >= 400:
            response.read()
            raise refusal(response.status_code, response.text)
        yield from chunks(response.iter_lines())


def chunks(lines: Iterable[str]) -> Iterator[JSON]:
    """Server-sent events as JSON, to the one that says that it is done."""
    for line in lines:
        if not line.startswith("data:"):
            continue
        text = line[5:].strip()
        if text == "[DONE]":
            return
        chunk: JSON = json.loads(text)
        if "error" in chunk:
            raise refusal(500, text)
        yield chunk
    raise MeuseError(Code.UNAVAILABLE, "the answer broke off", hint="Ask again.")


def refusal(status: int, text: str) -> MeuseError:
    """An error as OpenAI words it, as one of ours."""
    try:
        told = json.loads(text)["error"]
        code, message, field = told["code"], str(told["message"]), told["param"]
    except (ValueError, KeyError, TypeError):
        return MeuseError(Code.INTERNAL, f"HTTP {status}: {text[:200]}")
    try:
        found = Code(str(code))
    except ValueError:
        found = _BY_STATUS.get(status, Code.INTERNAL)
    return MeuseError(found, message, field=field)


def listen(
    pieces: Iterable[JSON],
    show: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> Answer:
    """Show an answer as it comes; it, and how fast it came."""
    began = first = last = clock()
    text, finish, usage = "", "", dict[str, int]()
    for chunk in pieces:
        for choice in chunk["choices"]:
            piece = choice["delta"].get("content") or ""
            finish = choice.get("finish_reason") or finish
            if piece:
                last = clock()
                first = last if not text else first
                text += piece
                show(piece)
        usage = chunk.get("usage") or usage
    more, seconds = usage.get("completion_tokens", 0) - 1, last - first
    rate = more / seconds if more > 0 and seconds > 0 else None
    return Answer(text, finish, usage, first - began, rate)
