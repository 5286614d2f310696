"""Answers as OpenAI writes them: one object at the end, or server-sent events on the way.

Pure: parts in, bytes out. Two shapes, `chat` and `completions`; what is the same for all events
of a stream is encoded once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from meuse.serve.frames import Finished, Part

DONE = b"data: [DONE]\n\n"
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def event(body: Any) -> bytes:
    return b"data: " + _encode(body) + b"\n\n"


@dataclass(frozen=True, slots=True)
class Counted:
    """What all choices of an answer took together."""

    prompt: int
    completion: int
    cached: int = -1

    @classmethod
    def of(cls, finished: list[Finished]) -> Counted:
        cached = [f.cached_tokens for f in finished if f.cached_tokens >= 0]
        return cls(
            sum(f.prompt_tokens for f in finished),
            sum(f.completion_tokens for f in finished),
            sum(cached) if cached else -1,
        )

    def to_dict(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }
        if self.cached >= 0:
            body["prompt_tokens_details"] = {"cached_tokens": self.cached}
        return body


@dataclass(slots=True)
class Choice:
    """One choice while its parts come."""

    texts: list[str] = field(default_factory=list)
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    logprobs: list[Any] = field(default_factory=list)

    def add(self, part: Part) -> None:
        if part.text:
            self.texts.append(part.text)
        if part.calls:
            for delta in _decode(part.calls):
                self._call(delta)
        if part.logprobs:
            self.logprobs += _decode(part.logprobs)

    def _call(self, delta: dict[str, Any]) -> None:
        """As OpenAI's clients add up deltas: texts of a call are joined, by its index."""
        call = self.calls.get(delta["index"])
        function = delta.get("function") or {}
        if call is None:
            call = self.calls[delta["index"]] = {
                "id": "", "type": "function", "function": {"name": "", "arguments": ""},
            }  # fmt: skip
        call["id"] = delta.get("id") or call["id"]
        call["function"]["name"] += function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""

    @property
    def text(self) -> str:
        return "".join(self.texts)


@dataclass(frozen=True, slots=True)
class Shape:
    """Which of the two."""

    prefix: str
    whole: str
    chunk: str

    def choice(self, index: int, choice: Choice, reason: str) -> dict[str, Any]:
        if self is COMPLETIONS:
            logprobs = legacy(choice.logprobs) if choice.logprobs else None
            return {
                "index": index, "text": choice.text, "logprobs": logprobs, "finish_reason": reason,
            }  # fmt: skip
        calls = [choice.calls[i] for i in sorted(choice.calls)]
        message: dict[str, Any] = {
            "role": "assistant",
            "content": choice.text or (None if calls else ""),
            "refusal": None,
        }
        if calls:
            message["tool_calls"] = calls
        logprobs = {"content": choice.logprobs, "refusal": None} if choice.logprobs else None
        return {
            "index": index, "message": message, "logprobs": logprobs, "finish_reason": reason,
        }  # fmt: skip

    def delta(self, part: Part, index: int, offset: int) -> dict[str, Any]:
        """`offset`: characters of its choice before this part."""
        logprobs = _decode(part.logprobs) if part.logprobs else None
        if self is COMPLETIONS:
            return {
                "index": index,
                "text": part.text,
                "logprobs": legacy(logprobs, offset) if logprobs else None,
                "finish_reason": None,
            }
        delta: dict[str, Any] = {"content": part.text} if part.text or not part.calls else {}
        if part.calls:
            delta["tool_calls"] = msgspec.Raw(part.calls)
        return {
            "index": index,
            "delta": delta,
            "logprobs": {"content": logprobs, "refusal": None} if logprobs else None,
            "finish_reason": None,
        }


CHAT = Shape("chatcmpl-", "chat.completion", "chat.completion.chunk")
COMPLETIONS = Shape("cmpl-", "text_completion", "text_completion")


def legacy(logprobs: list[Any], offset: int = 0) -> dict[str, Any]:
    """The logprobs of chats as those of completions, which say where in the text a token is:
    `offset` the first one."""
    offsets = []
    for token in logprobs:
        offsets.append(offset)
        offset += len(token["token"])
    return {
        "tokens": [token["token"] for token in logprobs],
        "token_logprobs": [token["logprob"] for token in logprobs],
        "top_logprobs": [
            {top["token"]: top["logprob"] for top in token.get("top_logprobs") or ()}
            for token in logprobs
        ],
        "text_offset": offsets,
    }


class Writer:
    """One answer's events, or its one object."""

    def __init__(
        self, shape: Shape, id: str, created: int, model: str, *, include_usage: bool = False
    ) -> None:
        self._shape = shape
        self._include_usage = include_usage
        self._common = {"id": shape.prefix + id, "created": created, "model": model}
        common = _encode({**self._common, "object": shape.chunk, "system_fingerprint": None})
        self._head = b"data: " + common[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._text_tail = b'},"logprobs":null,"finish_reason":null}' + self._tail
        self._heads: dict[int, bytes] = {}
        self._offsets: dict[int, int] = {}

    def whole(self, choices: list[tuple[Choice, str]], counted: Counted) -> bytes:
        shape = self._shape
        return _encode(
            {
                **self._common,
                "object": shape.whole,
                "system_fingerprint": None,
                "choices": [shape.choice(i, c, reason) for i, (c, reason) in enumerate(choices)],
                "usage": counted.to_dict(),
            }
        )

    def begin(self, index: int) -> bytes:
        """Whose words follow; completions have no such event."""
        if self._shape is COMPLETIONS:
            return b""
        delta = {"role": "assistant", "content": "", "refusal": None}
        return self._event(
            {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        )

    def part(self, part: Part, index: int) -> bytes:
        if self._shape is CHAT and not (part.calls or part.logprobs):
            # Nearly all there is: the rest of the event stands already.
            head = self._heads.get(index)
            if head is None:
                head = self._head + b'{"index":%d,"delta":{"content":' % index
                self._heads[index] = head
            return head + _encode(part.text) + self._text_tail
        offset = self._offsets.get(index, 0)
        event = self._shape.delta(part, index, offset)
        if self._shape is COMPLETIONS:
            told = event["logprobs"]
            self._offsets[index] = offset + (sum(map(len, told["tokens"])) if told else 0)
        return self._event(event)

    def end(self, index: int, reason: str) -> bytes:
        body: dict[str, Any] = {"index": index, "logprobs": None, "finish_reason": reason}
        if self._shape is COMPLETIONS:
            return self._event({**body, "text": ""})
        return self._event({**body, "delta": {}})

    def usage(self, counted: Counted) -> bytes:
        """The event before the last, where it was asked for."""
        if not self._include_usage:
            return b""
        head = self._head[: -len(b',"choices":[')]
        return head + b',"choices":[],"usage":' + _encode(counted.to_dict()) + b"}\n\n"

    def _event(self, choice: dict[str, Any]) -> bytes:
        return self._head + _encode(choice) + self._tail
