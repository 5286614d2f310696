"""The baseline: a bare ASGI app that only parses, infers in-process and encodes.

No key, no limit, no meter, no isolation. Started as `uvicorn bare:app` with as many workers
as the platform has; BARE_MODEL names the ONNX file.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import numpy as np
import onnxruntime


class _Body(msgspec.Struct):
    input_data: list[list[float]]


_options = onnxruntime.SessionOptions()
_options.intra_op_num_threads = 1
_session = onnxruntime.InferenceSession(os.environ["BARE_MODEL"], _options)
_decode = msgspec.json.Decoder(_Body).decode
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
    rows = np.array(_decode(body).input_data, np.float32)
    output = _session.run(None, {"input": rows})[0]
    answer = _encode({"output_data": output.tolist()})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(answer)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
