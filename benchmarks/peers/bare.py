"""The baseline: a bare ASGI app that only parses, infers in-process and encodes.

No key, no limit, no meter, no isolation. Started as `uvicorn bare:app` with as many workers
as the platform has. `/` takes JSON, `/binary` the raw values of the model's only input.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import numpy as np
from engine import Engine

_engine = Engine()
_name, _dtype = next(iter(_engine.dtypes.items()))
_shape = (-1, *_engine.shapes[_name])
_run, _outputs = _engine.run, _engine.outputs[:1]


class _Rows(msgspec.Struct):
    input_data: list[list[float]]


class _Nested(msgspec.Struct):
    input_data: Any


_flat = len(_engine.dtypes) == 1 and len(_shape) == 2 and _dtype is np.float32
_decode: Callable[[bytes], Any] = msgspec.json.Decoder(_Rows if _flat else _Nested).decode
_encode = msgspec.json.Encoder().encode


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    if scope["path"] == "/binary":
        rows = np.frombuffer(body, _dtype).reshape(_shape)
        answer = _run(_outputs, {_name: rows})[0].tobytes()
        kind = b"application/octet-stream"
    else:
        given = _decode(body).input_data
        feeds = {_name: np.array(given, np.float32)} if _flat else _engine.feeds(given)
        answer = _encode({"output_data": _run(_outputs, feeds)[0].tolist()})
        kind = b"application/json"
    headers = [(b"content-type", kind), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
