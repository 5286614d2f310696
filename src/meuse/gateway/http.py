"""The bare ASGI callable: dispatch, keys, body limits, errors.

`ROUTES` names every route of the data plane with the scope that it needs and is what dispatch
runs on. Everything else is handed to control. Inference requests that are whole at once do not
come here as ASGI but by `short`, over the same readers and writers. Knows no model, no engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

import msgspec

from meuse.core.errors import Code, MeuseError
from meuse.core.ids import uuid7_bytes
from meuse.gateway import metrics, oip, predict
from meuse.gateway.body import (
    BodyReader,
    ClientGoneError,
    Receive,
    Scope,
    Send,
    decode,
    drain,
    too_large,
)
from meuse.gateway.control_proxy import ControlProxy
from meuse.gateway.dataplane import Call, DataPlane, Result
from meuse.gateway.repository import Repository, check_parameters
from meuse.gateway.routes import Caller
from meuse.serve.frames import HIGH, LOW, NORMAL

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """`{model}` and `{deployment}` take one segment, or `owner/name`."""

    method: str
    pattern: str
    scope: str  # "public", or the scope that the key must have
    handler: str  # a method of `App`


_V2 = "/v2/models/{model}"
# Paths are read from the right: the first pattern that matches wins.
ROUTES = (
    HttpRoute("POST", "/predict", "infer", "predict"),
    HttpRoute("POST", "/predictions/{deployment}", "infer", "predictions"),
    HttpRoute("POST", _V2 + "/versions/{version}/infer", "infer", "infer"),
    HttpRoute("POST", _V2 + "/infer", "infer", "infer"),
    HttpRoute("GET", _V2 + "/versions/{version}/ready", "infer", "model_ready"),
    HttpRoute("GET", _V2 + "/ready", "infer", "model_ready"),
    HttpRoute("GET", "/v2/models/stats", "infer", "statistics"),
    HttpRoute("GET", _V2 + "/versions/{version}/stats", "infer", "model_statistics"),
    HttpRoute("GET", _V2 + "/stats", "infer", "model_statistics"),
    HttpRoute("GET", _V2 + "/versions/{version}", "infer", "model_metadata"),
    HttpRoute("GET", _V2, "infer", "model_metadata"),
    HttpRoute("POST", "/v2/repository/index", "infer", "repository_index"),
    HttpRoute("POST", "/v2/repository/models/{model}/load", "deploy", "load"),
    HttpRoute("POST", "/v2/repository/models/{model}/unload", "deploy", "unload"),
    HttpRoute("GET", "/metrics", "usage", "metrics"),
    HttpRoute("GET", "/v2", "public", "server_metadata"),
    HttpRoute("GET", "/v2/health/live", "public", "live"),
    HttpRoute("GET", "/v2/health/ready", "public", "ready"),
    HttpRoute("GET", "/health/live", "public", "live"),
    HttpRoute("GET", "/health/ready", "public", "ready"),
)

_OURS = (b"/v2/", b"/predictions/")
_MAX_PATH = 1024
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_JSON = (b"content-type", b"application/json")
_HIT, _MISS = (b"x-meuse-cache", b"hit"), (b"x-meuse-cache", b"miss")
_BINARY = (b"content-type", b"application/octet-stream")
_HEADER_LENGTH = oip.HEADER_LENGTH.lower().encode()
_encode = msgspec.json.Encoder().encode

Header = tuple[bytes, bytes]
Headers = Sequence[Header]
"""Names in lower case."""


def _regex(pattern: str) -> re.Pattern[str]:
    named = pattern.replace("{version}", "(?P<version>[^/]+)")
    named = re.sub(r"\{(model|deployment)\}", r"(?P<model>[^/]+(?:/[^/]+)?)", named)
    return re.compile(named)


_PATTERNS = [(_regex(route.pattern), route) for route in ROUTES]

# What is looked for in a head; headers have lower-case names.
_LOOKED_FOR = frozenset(
    {
        b"authorization", b"content-length", b"content-encoding", _HEADER_LENGTH,
        b"x-timeout-ms", b"x-priority",
    }
)  # fmt: skip
_PRIORITIES = {b"high": HIGH, b"normal": NORMAL, b"low": LOW}
_MAX_TIMEOUT_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Match:
    """A path: what it may be asked for by method, and the names in it."""

    methods: dict[str, HttpRoute]
    model: str
    version: str | None


@functools.lru_cache(1024)
def match(raw_path: bytes) -> Match | None:
    """The routes of an undecoded path; each segment is decoded by itself."""
    path = raw_path.decode("latin-1")
    for pattern, route in _PATTERNS:
        if found := pattern.fullmatch(path):
            same = {r.method: r for _, r in _PATTERNS if r.pattern == route.pattern}
            names = found.groupdict()
            version = names.get("version")
            return Match(
                same, unquote(names.get("model") or ""), unquote(version) if version else None
            )
    return None


@dataclass(frozen=True, slots=True)
class Request:
    """What a handler is given. `caller` is None on public routes only."""

    match: Match
    body: bytes
    caller: Caller | None
    headers: Headers
    found: dict[bytes, bytes]
    """Of the headers, those that are looked for."""

    @property
    def known(self) -> Caller:
        if self.caller is None:
            raise MeuseError(Code.INTERNAL, "a public route asked for its caller")
        return self.caller


class _IndexRequest(msgspec.Struct):
    ready: bool = False


class _LoadRequest(msgspec.Struct):
    parameters: dict[str, msgspec.Raw] = {}


_index_request = msgspec.json.Decoder(_IndexRequest)
_load_request = msgspec.json.Decoder(_LoadRequest)

Answer = tuple[int, bytes] | tuple[int, bytes, list[Header]]
"""Status, body, and headers where they are not those of JSON."""


@dataclass(slots=True)
class Asked:
    """An inference request that was read: the call, and how its result is dressed."""

    call: Call
    write: Callable[[Result], Answer]


@dataclass(frozen=True, slots=True)
class ShortRoute:
    """An inference route that may go the short way."""

    raw_path: bytes
    match: Match
    scope: str
    read: Callable[[Request], Asked]


class App:
    """One per worker."""

    def __init__(
        self, plane: DataPlane, proxy: ControlProxy, repository: Repository, max_body_bytes: int
    ) -> None:
        self.plane = plane
        self.json = [_JSON]
        self._proxy = proxy
        self._repository = repository
        self._exposition = metrics.Exposition(plane)
        self._bodies = BodyReader(max_body_bytes)
        self._max_body_bytes = max_body_bytes
        self._handlers: dict[str, Callable[[Request], Awaitable[Answer]]] = {
            route.handler: getattr(self, "_" + route.handler)
            for route in ROUTES
            if route.handler not in READERS
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw_path: bytes = scope["raw_path"]
        found = match(raw_path) if len(raw_path) <= _MAX_PATH else None
        try:
            if found is None:
                if raw_path.startswith(_OURS):
                    raise MeuseError(Code.NOT_FOUND, "there is nothing here", field="path")
                await self._proxy(scope, receive, send, request_id(scope["headers"]))
                return
            status, body, *more = await self._answer(scope, receive, found)
        except ClientGoneError:
            self.plane.counters.client_gone()
            return
        except MeuseError as error:
            await self._refuse(scope, receive, send, error)
            return
        except Exception:
            logger.exception("a request failed")
            ours = MeuseError(Code.INTERNAL, "something went wrong on our side")
            await self._refuse(scope, receive, send, ours)
            return
        length = (b"content-length", str(len(body)).encode())
        headers = [*more[0], length] if more else [_JSON, length]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive, found: Match) -> Answer:
        route = found.methods.get(scope["method"])
        if route is None:
            allowed = ", ".join(found.methods)
            raise MeuseError(
                Code.METHOD_NOT_ALLOWED,
                f"{scope['method']} is not possible here",
                field="method",
                hint=f"Use {allowed}.",
            )
        found_headers = look(scope["headers"])
        caller = None
        if route.scope != "public":
            caller = self.plane.authenticate(found_headers.get(b"authorization"), route.scope)
        if (encoding := found_headers.get(b"content-encoding")) is not None:
            check_encoding(encoding)
        body = b""
        if route.method == "POST":
            length = found_headers.get(b"content-length", b"")
            body = await self._bodies.read(receive, int(length) if length.isdigit() else 0)
        request = Request(found, body, caller, scope["headers"], found_headers)
        read = READERS.get(route.handler)
        if read is None:
            return await self._handlers[route.handler](request)
        asked = ask(read, request)
        return asked.write(await self._infer(asked.call, receive))

    async def _infer(self, call: Call, receive: Receive) -> Result:
        """The result, unless the client leaves before: then nobody works for it any more."""
        work = asyncio.ensure_future(self.plane.infer(call))
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
        finally:
            for task in (work, gone):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, MeuseError):
                    await task
        raise ClientGoneError

    # The short way, see `gateway.short`.

    def short(self, url: bytes) -> ShortRoute | None:
        """The route of a POST that may go the short way."""
        return _short(url)

    def read(self, route: ShortRoute, headers: Headers, body: bytes) -> Asked:
        """A request that is whole. Raises `MeuseError`."""
        found = look(headers)
        caller = self.plane.authenticate(found.get(b"authorization"), route.scope)
        if b"content-encoding" in found:
            check_encoding(found[b"content-encoding"])
        if len(body) > self._max_body_bytes:
            raise too_large(self._max_body_bytes)
        return ask(route.read, Request(route.match, body, caller, headers, found))

    def refusal(
        self, error: MeuseError, raw_path: bytes, headers: Headers
    ) -> tuple[int, bytes, list[Header]]:
        """Status, body and headers of an error, as the protocol of the path dresses them."""
        self.plane.counters.refused(error)
        identity = request_id(headers)
        if raw_path == b"/v2" or raw_path.startswith(b"/v2/"):
            body = _encode({"error": str(error)})
        else:
            body = _encode({"error": {**error.to_dict(), "request_id": identity}})
        dressed = [_JSON, (b"x-request-id", identity.encode())]
        if error.code is Code.UNAUTHENTICATED:
            dressed.append((b"www-authenticate", b"Bearer"))
        if error.code is Code.METHOD_NOT_ALLOWED:
            found = match(raw_path)
            dressed.append((b"allow", ", ".join(found.methods if found else ()).encode()))
        wait = error.retry_after_s
        if wait is None and error.code in (Code.OVERLOADED, Code.UNAVAILABLE):
            wait = 1
        if wait is not None:
            dressed.append((b"retry-after", str(wait).encode()))
        return error.http_status, body, dressed

    # Handlers, by the names in ROUTES.

    async def _model_ready(self, request: Request) -> Answer:
        wanted = request.match
        target = self.plane.describe(request.known, wanted.model, wanted.version)
        ready = self.plane.is_ready and target.pool.is_ready
        return 200 if ready else 503, _encode({"name": wanted.model, "ready": ready})

    async def _model_metadata(self, request: Request) -> Answer:
        wanted = request.match
        target = self.plane.describe(request.known, wanted.model, wanted.version)
        return 200, _encode(oip.model_metadata(wanted.model, target))

    async def _model_statistics(self, request: Request) -> Answer:
        wanted = request.match
        given = oip.statistics(self.plane, request.known, wanted.model, wanted.version)
        return 200, _encode({"model_stats": given})

    async def _statistics(self, request: Request) -> Answer:
        return 200, _encode({"model_stats": oip.statistics(self.plane, request.known)})

    async def _repository_index(self, request: Request) -> Answer:
        asked = decode(_index_request, request.body or b"{}")
        return 200, _encode(self._repository.index(request.known, ready_only=asked.ready))

    async def _load(self, request: Request) -> Answer:
        check_parameters(list(decode(_load_request, request.body or b"{}").parameters))
        await self._repository.load(request.known, request.match.model)
        return 200, b"{}"

    async def _unload(self, request: Request) -> Answer:
        # `unload_dependents` is about ensembles, which there are none of.
        await self._repository.unload(request.known, request.match.model)
        return 200, b"{}"

    async def _metrics(self, request: Request) -> Answer:
        accept = b",".join(value for name, value in request.headers if name == b"accept")
        body, kind = await self._exposition.answer(request.known, accept.decode("latin-1"))
        return 200, body, [(b"content-type", kind)]

    async def _server_metadata(self, request: Request) -> Answer:
        return 200, _encode(oip.server_metadata())

    async def _live(self, request: Request) -> Answer:
        return 200, b'{"live":true}'

    async def _ready(self, request: Request) -> Answer:
        ready = self.plane.is_ready
        return 200 if ready else 503, _encode({"ready": ready})

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, error: MeuseError) -> None:
        status, body, headers = self.refusal(error, scope["raw_path"], scope["headers"])
        headers.append((b"content-length", str(len(body)).encode()))
        too_large = error.code is Code.TOO_LARGE
        if too_large:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": too_large})
        if too_large:
            # Closing while the client still sends would reset the connection, and it might
            # never read the answer: take some of the rest, throw it away, then close.
            await drain(receive)
            await send({"type": "http.response.body", "body": b""})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def look(headers: Headers) -> dict[bytes, bytes]:
    """Those of the headers that are looked for; one that must not be repeated is spoilt by it."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _LOOKED_FOR:
            found[name] = b"several" if name == _HEADER_LENGTH and name in found else value
    return found


def ask(read: Callable[[Request], Asked], request: Request) -> Asked:
    """Read an inference request, with what its headers ask of all protocols alike."""
    asked = read(request)
    found = request.found
    if b"x-timeout-ms" in found:
        asked.call.timeout_ms = _timeout_ms(found[b"x-timeout-ms"])
    if b"x-priority" in found:
        asked.call.priority = priority_of(found[b"x-priority"])
    return asked


def _timeout_ms(value: bytes) -> int:
    if not (value.isdigit() and len(value) < 10 and 0 < int(value) <= _MAX_TIMEOUT_MS):
        raise MeuseError(
            Code.INVALID_FIELD,
            f"{value[:40].decode('latin-1')!r} is no time to wait",
            field="X-Timeout-Ms",
            hint=f"A whole number of milliseconds from 1 to {_MAX_TIMEOUT_MS}.",
        )
    return int(value)


def priority_of(value: bytes) -> int:
    """high, normal or low."""
    found = _PRIORITIES.get(value.strip().lower())
    if found is None:
        raise MeuseError(
            Code.INVALID_FIELD,
            f"there is no priority {value[:40].decode('latin-1')!r}",
            field="X-Priority",
            hint="high (on deployments of your own), normal or low.",
        )
    return found


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
        request.found.get(_HEADER_LENGTH), request.headers,
    )  # fmt: skip

    def write(result: Result) -> Answer:
        body, header = asked.write(result)
        if header is None:
            return _dressed(result, body)
        return _dressed(result, body, _BINARY, (_HEADER_LENGTH, str(header).encode()))

    return Asked(asked.call, write)


READERS: dict[str, Callable[[Request], Asked]] = {
    "predict": _read_predict,
    "predictions": _read_predictions,
    "infer": _read_infer,
}
"""How each inference route is read, by its name in ROUTES."""


@functools.lru_cache(1024)
def _short(url: bytes) -> ShortRoute | None:
    found = match(url) if len(url) <= _MAX_PATH and b"?" not in url and b"#" not in url else None
    route = found.methods.get("POST") if found is not None else None
    if found is None or route is None or route.handler not in READERS:
        return None
    return ShortRoute(url, found, route.scope, READERS[route.handler])


def _dressed(result: Result, body: bytes, *headers: Header) -> Answer:
    if result.cached is None and not headers:
        return 200, body
    more = [] if result.cached is None else [_HIT if result.cached else _MISS]
    return 200, body, [*(headers or (_JSON,)), *more]


def check_encoding(value: bytes) -> None:
    """Raises `unsupported_media_type`: bodies are read as they are."""
    if value.strip().lower() not in (b"", b"identity"):
        raise MeuseError(
            Code.UNSUPPORTED_MEDIA_TYPE,
            f"a body encoded as {value[:40].decode('latin-1')!r} cannot be read",
            field="Content-Encoding",
            hint="Send the body as it is.",
        )


def request_id(headers: Headers) -> str:
    """The client's X-Request-Id where it is sane, else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value.decode())
    return uuid7_bytes().hex()
