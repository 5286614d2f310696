"""Inference requests of tensors: how each is read and written, by its route.

Knows the protocols; knows no connection.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from meuse.core.errors import Code, MeuseError
from meuse.gateway import oip, predict
from meuse.gateway.dataplane import Call, Result
from meuse.gateway.heads import (
    HEADER_LENGTH,
    JSON,
    Header,
    Request,
    identified,
    priority_of,
    timeout_ms_of,
)
from meuse.gateway.openai import rates
from meuse.gateway.openai.embeddings import EmbeddingsRequest
from meuse.gateway.paths import MAX_PATH, Match, match
from meuse.gateway.short import Short
from meuse.gateway.upstream.asked import EMBEDDINGS
from meuse.gateway.upstream.short import ShortText, ShortVectors

_HIT, _MISS = (b"x-meuse-cache", b"hit"), (b"x-meuse-cache", b"miss")
_BINARY = (b"content-type", b"application/octet-stream")

Answer = tuple[int, bytes] | tuple[int, bytes, list[Header]]
"""Status, body, and headers where they are not those of JSON."""


TEXTS = {"chat": "openai-chat", "completions": "openai-completions"}
"""The protocols of texts, by their names in ROUTES."""
RELAYED = {**TEXTS, "embeddings": EMBEDDINGS}
"""Those that another server may answer."""


@dataclass(slots=True)
class Asked:
    """An inference request that was read: the call, and how its result is dressed."""

    call: Call
    write: Callable[[Result], Answer]
    left: Callable[[], list[Header]] | None = None
    """Headers of what is left under the limits, where the protocol has such."""

    def refused(self, error: MeuseError) -> MeuseError:
        """The error, as the protocol tells it."""
        return error if self.left is None else rates.limited(error, self.left)


@dataclass(frozen=True, slots=True)
class ShortRoute:
    """An inference route that may go the short way."""

    raw_path: bytes
    match: Match
    scope: str
    read: Callable[[Request], Asked]
    kind: type[Short] = Short


def ask(read: Callable[[Request], Asked], request: Request) -> Asked:
    """Read an inference request, with what its headers ask of all protocols alike."""
    asked = read(request)
    found = request.found
    if b"x-timeout-ms" in found:
        asked.call.timeout_ms = timeout_ms_of(found[b"x-timeout-ms"])
    if b"x-priority" in found:
        asked.call.priority = priority_of(found[b"x-priority"])
    return asked


def _read_predict(request: Request) -> Asked:
    call = predict.read_predict(request.body, request.known, request.headers)
    return Asked(call, _write_predict)


def _read_predictions(request: Request) -> Asked:
    call = predict.read_predictions(
        request.body, request.known, request.match.model, request.headers
    )
    return Asked(call, _write_predict)


def _write_predict(result: Result) -> Answer:
    return _dressed(result, predict.write(result))


def _read_infer(request: Request) -> Asked:
    wanted = request.match
    asked = oip.InferRequest(
        request.body, request.known, wanted.model, wanted.version,
        request.found.get(HEADER_LENGTH), request.headers,
    )  # fmt: skip

    def write(result: Result) -> Answer:
        body, header = asked.write(result)
        if header is None:
            return _dressed(result, body)
        return _dressed(result, body, _BINARY, (HEADER_LENGTH, str(header).encode()))

    return Asked(asked.call, write)


def _read_embeddings(request: Request) -> Asked:
    asked = EmbeddingsRequest(request.body, request.known, request.headers)

    def left() -> list[Header]:
        return rates.headers(request.standings(asked.call.caller, asked.model))

    def write(result: Result) -> Answer:
        headers = (JSON, *identified(request.headers), *left())
        return _dressed(result, asked.write(result), *headers)

    return Asked(asked.call, write, left)


READERS: dict[str, Callable[[Request], Asked]] = {
    "predict": _read_predict,
    "predictions": _read_predictions,
    "infer": _read_infer,
    "embeddings": _read_embeddings,
}
"""How each inference route is read, by its name in ROUTES."""


@functools.lru_cache(1024)
def short_route(url: bytes) -> ShortRoute | None:
    found = match(url) if len(url) <= MAX_PATH and b"?" not in url and b"#" not in url else None
    route = found.methods.get("POST") if found is not None else None
    if found is None or route is None:
        return None
    if route.handler in TEXTS:
        return ShortRoute(url, found, route.scope, _read_nothing, ShortText)
    if route.handler not in READERS:
        return None
    kind = ShortVectors if route.handler in RELAYED else Short
    return ShortRoute(url, found, route.scope, READERS[route.handler], kind)


def _read_nothing(request: Request) -> Asked:
    raise MeuseError(Code.INTERNAL, "texts are not read so")


def _dressed(result: Result, body: bytes, *headers: Header) -> Answer:
    if result.cached is None and not headers:
        return 200, body
    more = [] if result.cached is None else [_HIT if result.cached else _MISS]
    return 200, body, [*(headers or (JSON,)), *more]
