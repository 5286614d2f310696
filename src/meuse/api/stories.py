"""A job's events as server-sent events, and its log as text.

https://html.spec.whatwg.org/multipage/server-sent-events.html: an event's id comes back as
`Last-Event-ID` when the client connects again, a line that begins with a colon says nothing,
and 204 tells it to stay away.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from fastapi.concurrency import run_in_threadpool

from meuse.api.bell import Bell
from meuse.core.clock import to_rfc3339
from meuse.core.nouns import JobEvent
from meuse.core.ports import JobStore

HEARTBEAT_S = 10.0
PAGE = 200
"""Events read at once: what a slow client makes this process hold."""
PAUSE_S = 0.1
"""Least time between two looks at the store for one client."""
BLOCK = 64 * 1024


async def follow(
    store: JobStore, bell: Bell, job_id: str, after: int, heartbeat_s: float = HEARTBEAT_S
) -> AsyncIterator[str]:
    """Events of a job after number `after`, as they happen, until it has ended."""
    yield "retry: 1000\n\n"
    with bell.listen(job_id) as listener:
        ended, unsure = False, True
        while True:
            looked = time.monotonic()
            page = await run_in_threadpool(store.events, job_id, after, PAGE)
            for event in page:
                after = event.seq
                unsure = unsure or event.kind == "status"
                yield encode(event)
            if len(page) == PAGE:
                continue
            if ended:
                return
            if unsure:
                # Its last events were written before it ended: one more look has them all.
                ended = (await run_in_threadpool(store.get, None, job_id)).status.ended
                unsure = False
                if ended:
                    continue
            if not await listener.wait(heartbeat_s):
                unsure = True
                yield ": still here\n\n"
            elif (early := PAUSE_S - (time.monotonic() - looked)) > 0:
                await asyncio.sleep(early)


def encode(event: JobEvent) -> str:
    data = json.dumps({"ts": to_rfc3339(event.ts_ms), **event.data})
    return f"id: {event.seq}\nevent: {event.kind}\ndata: {data}\n\n"


def tail(path: Path, lines: int | None) -> Iterator[bytes]:
    """The last lines of a file (None: all of it) as it is now, in blocks; nothing when there is
    no file. The file may grow meanwhile: what comes later is not sent."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        end = file.seek(0, os.SEEK_END)
        at = 0 if lines is None else _start_of(file.fileno(), end, lines)
        while at < end and (block := os.pread(file.fileno(), min(BLOCK, end - at), at)):
            at += len(block)
            yield block


def _start_of(fd: int, end: int, lines: int) -> int:
    """Where the last `lines` lines before `end` begin, found from the end."""
    if lines == 0:
        return end
    at, wanted = end, lines
    if end and os.pread(fd, 1, end - 1) != b"\n":
        wanted -= 1  # the last line is not closed
    while at > 0:
        size = min(BLOCK, at)
        block = os.pread(fd, size, at - size)
        place = len(block)
        while (place := block.rfind(b"\n", 0, place)) >= 0:
            if wanted == 0:
                return at - size + place + 1
            wanted -= 1
        at -= size
    return 0
