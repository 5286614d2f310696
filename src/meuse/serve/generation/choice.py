"""One answer as it grows: tokens in, what may be sent out.

Pure: text by `text`, calls of tools by `tools`. Knows no engine and no frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from meuse.serve.generation.calls import Call, Calls, first
from meuse.serve.generation.engine import Progress
from meuse.serve.generation.text import Detokenizer, Stops


class Delta(NamedTuple):
    """What is new. `calls` and `logprobs` are JSON, empty for none."""

    text: str
    calls: bytes = b""
    logprobs: bytes = b""


class Choice:
    """`reason` is "" until it has ended: then `stop`, `length` or `tool_calls`."""

    def __init__(
        self,
        index: int,
        detokenizer: Detokenizer,
        stops: Stops,
        calls: Calls | None,
        piece: Callable[[int], bytes] | None,
        one_call: bool = False,
    ) -> None:
        self.index = index
        self.tokens = 0
        self.reason = ""
        self._detokenizer = detokenizer
        self._stops = stops
        self._calls = calls
        self._piece = piece  # given where log-probabilities were asked for
        self._one_call = one_call

    def push(self, progress: Progress) -> Delta:
        """Once for each step that gave something."""
        self.tokens += len(progress.ids)
        text = self._stops.push(self._detokenizer.push(progress.ids))
        if self._stops.met:
            self.reason = "stop"
        elif progress.ended:
            self.reason = progress.ended
            text += self._stops.end()
        calls: list[Call] = []
        if self._calls is not None:
            text, calls = self._read(self._calls, text)
        return Delta(
            text,
            msgspec.json.encode(calls) if calls else b"",
            self._logprobs(progress) if self._piece is not None and progress.ids else b"",
        )

    def _read(self, calls: Calls, text: str) -> tuple[str, list[Call]]:
        if self._one_call:
            text, made = first(calls, text)
            if made:
                self.reason = "tool_calls"
                return text, made
        else:
            text, made = calls.push(text)
        if self.reason:
            rest, more = calls.end()
            text, made = text + rest, made + more
            if calls.made and self.reason == "stop":
                self.reason = "tool_calls"
        return text, made

    def _logprobs(self, progress: Progress) -> bytes:
        assert self._piece is not None
        rows = []
        for number, value in zip(progress.ids, progress.logprobs, strict=False):
            piece = self._piece(number)
            rows.append(
                {
                    "token": piece.decode("utf-8", "replace"),
                    "logprob": value,
                    "bytes": list(piece),
                    "top_logprobs": [],
                }
            )
        return msgspec.json.encode(rows)
