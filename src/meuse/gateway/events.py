"""A text on its way to its client, as server-sent events.

What came while the client could take it is written as it comes; else a task waits for the client,
for so long. Knows uvicorn's flow control; knows no event.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, cast

from meuse.gateway.body import ClientGoneError, Scope, Send
from meuse.gateway.cork import ABORT, FLOW
from meuse.gateway.openai.texts import Answer
from meuse.gateway.upstream.awaited import Awaited

if TYPE_CHECKING:
    from uvicorn.protocols.http.flow_control import FlowControl

STALL_S = 30.0
"""How long the client of a stream may take nothing of it; what waits meanwhile is bounded."""
_HEADERS = ((b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache"))


async def send_events(answer: Answer | Awaited, scope: Scope, send: Send) -> None:
    """Until the last. Raises `ClientGoneError` when the client takes nothing more."""
    headers = [*_HEADERS, *answer.headers]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    flow: FlowControl = scope[FLOW]
    if isinstance(answer, Answer):
        answer.sink = _Sink(flow, send)
    async with contextlib.aclosing(answer.events()) as events:
        async for data in events:
            if flow.write_paused:  # else it is written at once, and a timer would be wasted on it
                try:
                    async with asyncio.timeout(STALL_S):
                        await flow.drain()
                except TimeoutError:
                    scope[ABORT]()
                    raise ClientGoneError from None
            await send({"type": "http.response.body", "body": data, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


class _Sink:
    """A connection that takes what is written, without a task that waits for it."""

    def __init__(self, flow: FlowControl, send: Send) -> None:
        self._flow = flow
        self._send = send

    @property
    def is_free(self) -> bool:
        return not self._flow.write_paused

    def write(self, data: bytes) -> None:
        # While it is free, uvicorn's `send` awaits nothing: its first step is its last.
        with contextlib.suppress(StopIteration):
            sent = self._send({"type": "http.response.body", "body": data, "more_body": True})
            cast("Coroutine[Any, Any, None]", sent).send(None)
