"""Chats and completions: from a request's body to an answer, or to a stream of events.

Knows the data plane's generations; knows no connection.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from meuse.core import openai_errors as errors
from meuse.core.errors import Code, MeuseError
from meuse.gateway.dataplane import DataPlane
from meuse.gateway.generation import Generation, TextCall
from meuse.gateway.openai import asks, chunks, rates
from meuse.gateway.openai.chunks import Choice, Counted, Writer
from meuse.gateway.routes import Caller, Headers
from meuse.serve.frames import NORMAL, Part

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Wanted:
    """A request that was read, with what its headers ask of all protocols alike."""

    caller: Caller
    headers: Headers
    timeout_ms: int | None = None
    priority: int = NORMAL


class Sink(Protocol):
    """What takes events at once, while it is free."""

    @property
    def is_free(self) -> bool: ...
    def write(self, data: bytes) -> None: ...


class Texts:
    """One per worker."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    async def chat(self, wanted: Wanted, body: bytes) -> Answer:
        """Raises `MeuseError`; cancelled, it leaves nothing running."""
        return await self._answer(wanted, [asks.chat(body)], "openai-chat", chunks.CHAT)

    async def completions(self, wanted: Wanted, body: bytes) -> Answer:
        """As `chat`."""
        asked = asks.completions(body)
        return await self._answer(wanted, asked, "openai-completions", chunks.COMPLETIONS)

    async def _answer(
        self, wanted: Wanted, asked: Sequence[asks.Asked], protocol: str, shape: chunks.Shape
    ) -> Answer:
        texts = [
            Generation(
                self._plane,
                TextCall(
                    wanted.caller, one.model, protocol, one.ask, one.size, one.is_tokens,
                    wanted.timeout_ms, wanted.priority, wanted.headers, number,
                ),
            )
            for number, one in enumerate(asked)
        ]  # fmt: skip
        answer = Answer(texts, asked[0], shape)
        try:
            for text in texts:
                await text.begin()
            # What fails before the first part is answered by a status of its own.
            await answer.first()
        except BaseException as error:
            answer.leave()
            if isinstance(error, MeuseError):
                raise rates.limited(error, lambda: self._rates(texts[0])) from None
            raise
        answer.headers = self._rates(texts[0])
        return answer

    def _rates(self, text: Generation) -> list[tuple[bytes, bytes]]:
        return rates.headers(self._plane.standings(text.caller, text.call.model))


class Answer:
    """What one request asked for: a text for each of its prompts, with so many choices each."""

    def __init__(self, texts: list[Generation], asked: asks.Asked, shape: chunks.Shape) -> None:
        self._texts = texts
        self._choices = asked.ask.sampling.n
        self.is_stream = asked.stream
        self.headers: list[tuple[bytes, bytes]] = []
        self.sink: Sink | None = None
        """Where `events` may write as parts come, between those that it gives."""
        self._first: list[Part] = []
        self._writer = Writer(
            shape,
            texts[0].id.hex(),
            texts[0].created,
            asked.model,
            include_usage=asked.include_usage,
        )

    async def first(self) -> None:
        """Wait for the first part of the first text. Raises `MeuseError`."""
        self._first = await self._texts[0].more()

    def leave(self) -> None:
        """Nobody wants it any more."""
        for text in self._texts:
            text.leave()

    async def whole(self) -> bytes:
        """The one object. Raises `MeuseError`."""
        choices: list[tuple[Choice, str]] = []
        try:
            for number, text in enumerate(self._texts):
                mine = [Choice() for _ in range(self._choices)]
                parts = self._first if number == 0 else await text.more()
                while parts:
                    for part in parts:
                        mine[part.index].add(part)
                    parts = await text.more()
                choices += zip(mine, _reasons(text, self._choices), strict=True)
            return self._writer.whole(choices, self._counted())
        finally:
            self.leave()

    async def events(self) -> AsyncGenerator[bytes]:
        """What is to be written; a failure is the last event."""
        try:
            for number, text in enumerate(self._texts):
                async for data in self._events_of(number, text):
                    yield data
            yield self._writer.usage(self._counted()) + chunks.DONE
        except MeuseError as error:
            yield chunks.event(errors.dress(error))
        except Exception:
            logger.exception("a stream failed")
            ours = MeuseError(Code.INTERNAL, "something went wrong on our side")
            yield chunks.event(errors.dress(ours))
        finally:
            self.leave()

    async def _events_of(self, number: int, text: Generation) -> AsyncIterator[bytes]:
        teller = _Teller(self._writer, number * self._choices, self._choices)
        parts = self._first if number == 0 else await text.more()
        text.tap = self._tap(teller)
        while parts:
            if out := b"".join([teller.part(part) for part in parts]):
                yield out
            parts = await text.more()
        yield teller.end(_reasons(text, self._choices))

    def _tap(self, teller: _Teller) -> Callable[[Part], bool] | None:
        sink = self.sink
        if sink is None:
            return None

        def tap(part: Part) -> bool:
            if not sink.is_free:
                return False
            try:
                out = teller.part(part)
            except Exception:
                return False  # it is read once more, where one answer alone fails of it
            if out:
                sink.write(out)
            return True

        return tap

    def _counted(self) -> Counted:
        return Counted.of([text.finished for text in self._texts if text.finished is not None])


class _Teller:
    """The events of one text's choices, of which the first has the index `base`."""

    def __init__(self, writer: Writer, base: int, choices: int) -> None:
        self._writer = writer
        self._base = base
        self._begun = [False] * choices

    def part(self, part: Part) -> bytes:
        if not (part.text or part.calls or part.logprobs):
            return b""  # only counted: the half of a character, or what may be a stop
        told = self._writer.part(part, self._base + part.index)
        if self._begun[part.index]:
            return told
        self._begun[part.index] = True
        return self._writer.begin(self._base + part.index) + told

    def end(self, reasons: Sequence[str]) -> bytes:
        ends = []
        for i, reason in enumerate(reasons):
            if not self._begun[i]:
                ends.append(self._writer.begin(self._base + i))
            ends.append(self._writer.end(self._base + i, reason))
        return b"".join(ends)


def _reasons(text: Generation, choices: int) -> Sequence[str]:
    assert text.finished is not None
    reasons = text.finished.reasons
    if len(reasons) != choices:
        raise MeuseError(Code.ENGINE_ERROR, f"{len(reasons)} of {choices} choices came to an end")
    return reasons
