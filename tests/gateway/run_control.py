"""A stand-in for control's HTTP side: `run_control.py <socket>`. Says what it was asked."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from typing import Any

import uvicorn

left: list[str] = []  # paths of event streams whose clients have gone


async def app(scope: Any, receive: Any, send: Any) -> None:
    path = scope["path"]
    if path == "/api/early":
        await answer(send, 403, b'{"error":{"code":"forbidden"}}')
        return
    size, digest, more = 0, hashlib.sha256(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        digest.update(message["body"])
        more = message["more_body"]
    if path == "/api/events":
        await events(receive, send)
        return
    body = {
        "method": scope["method"],
        "path": scope["raw_path"].decode(),
        "query": scope["query_string"].decode(),
        "headers": {n.decode(): v.decode() for n, v in scope["headers"]},
        "size": size,
        "sha256": digest.hexdigest(),
        "left": len(left),
    }
    await answer(send, 201, json.dumps(body).encode())


async def answer(send: Any, status: int, body: bytes) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"connection", b"x-private"),
        (b"x-private", b"1"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def events(receive: Any, send: Any) -> None:
    """One event, then silence until the client goes."""
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
    await asyncio.wait_for(receive(), 20)
    left.append("/api/events")


if __name__ == "__main__":
    uvicorn.run(app, uds=sys.argv[1], log_level="warning", lifespan="off", timeout_keep_alive=75)
