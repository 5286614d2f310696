"""Bodies: what one may be, and what all that arrive at once may hold."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from meuse.core.errors import Code, MeuseError
from meuse.gateway.body import BodyReader, ClientGoneError


class Sender:
    """A client that sends chunks when it is told to: the ASGI side of a slow connection."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def send(self, chunk: bytes, *, last: bool = False) -> None:
        self._queue.put_nowait({"type": "http.request", "body": chunk, "more_body": not last})

    def leave(self) -> None:
        self._queue.put_nowait({"type": "http.disconnect"})

    @property
    def receive(self) -> Callable[[], Awaitable[Any]]:
        return self._queue.get


async def all_at_once() -> None:
    reader = BodyReader(limit=100, at_once=150)
    first, second, third = Sender(), Sender(), Sender()
    reads = [asyncio.create_task(reader.read(s.receive, 0)) for s in (first, second, third)]
    first.send(b"a" * 80)
    second.send(b"b" * 60)
    await asyncio.sleep(0.01)
    third.send(b"c" * 20)
    with pytest.raises(MeuseError) as caught:
        await reads[2]
    assert (caught.value.code, caught.value.field) == (Code.OVERLOADED, "body")
    # A body that is whole at once waits for nobody.
    whole = Sender()
    whole.send(b"d" * 100, last=True)
    assert await reader.read(whole.receive, 100) == b"d" * 100
    second.leave()
    with pytest.raises(ClientGoneError):
        await reads[1]
    first.send(b"a" * 20, last=True)
    assert await reads[0] == b"a" * 100
    assert reader._held == 0


def test_bodies_that_arrive_at_once_are_bounded_together() -> None:
    """One too many is `overloaded`; what has left or is read whole makes room again."""
    asyncio.run(all_at_once())


async def too_large() -> None:
    reader = BodyReader(limit=100, at_once=10)
    for chunks in ([b"a" * 101], [b"a" * 60, b"a" * 41]):
        sender = Sender()
        for chunk in chunks:
            sender.send(chunk)
        with pytest.raises(MeuseError) as caught:
            await reader.read(sender.receive, 0)
        assert caught.value.code is Code.TOO_LARGE
        assert reader._held == 0


def test_one_body_is_bounded_by_its_own_limit() -> None:
    """Nothing is held of a body that was refused."""
    asyncio.run(too_large())
