"""The bare ASGI callable: dispatch, keys, body limits, errors.

`ROUTES` names every route of the data plane with the scope that it needs and is what dispatch
runs on. Everything else is handed to control. Knows no model and no engine.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import unquote

import msgspec

from meuse.core.errors import Code, MeuseError
from meuse.core.ids import uuid7_bytes
from meuse.gateway import metrics, oip, predict
from meuse.gateway.body import BodyReader, ClientGoneError, Receive, Scope, Send, decode, drain
from meuse.gateway.control_proxy import ControlProxy
from meuse.gateway.dataplane import DataPlane, Result
from meuse.gateway.repository import Repository, check_parameters
from meuse.gateway.routes import Caller

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


def _regex(pattern: str) -> re.Pattern[str]:
    named = pattern.replace("{version}", "(?P<version>[^/]+)")
    named = re.sub(r"\{(model|deployment)\}", r"(?P<model>[^/]+(?:/[^/]+)?)", named)
    return re.compile(named)


_PATTERNS = [(_regex(route.pattern), route) for route in ROUTES]


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
    headers: list[tuple[bytes, bytes]]
    header_length: bytes | None = None

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

Header = tuple[bytes, bytes]
Answer = tuple[int, bytes] | tuple[int, bytes, list[Header]]
"""Status, body, and headers where they are not those of JSON."""


class App:
    """One per worker."""

    def __init__(
        self, plane: DataPlane, proxy: ControlProxy, repository: Repository, max_body_bytes: int
    ) -> None:
        self._plane = plane
        self._proxy = proxy
        self._repository = repository
        self._exposition = metrics.Exposition(plane)
        self._bodies = BodyReader(max_body_bytes)
        self._handlers: dict[str, Callable[[Request], Awaitable[Answer]]] = {
            route.handler: getattr(self, "_" + route.handler) for route in ROUTES
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw_path: bytes = scope["raw_path"]
        found = match(raw_path) if len(raw_path) <= _MAX_PATH else None
        try:
            if found is None:
                if raw_path.startswith(_OURS):
                    raise MeuseError(Code.NOT_FOUND, "there is nothing here", field="path")
                await self._proxy(scope, receive, send, request_id(scope))
                return
            status, body, *more = await self._answer(scope, receive, found)
        except ClientGoneError:
            self._plane.counters.client_gone()
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
        authorization: bytes | None = None
        length, header_length, encoding = 0, None, None
        for name, value in scope["headers"]:
            if name == b"authorization":
                authorization = value
            elif name == b"content-length" and value.isdigit():
                length = int(value)
            elif name == _HEADER_LENGTH:
                header_length = value if header_length is None else b"several"
            elif name == b"content-encoding":
                encoding = value
        caller = None
        if route.scope != "public":
            caller = self._plane.authenticate(authorization, route.scope)
        if encoding is not None:
            check_encoding(encoding)
        body = b""
        if route.method == "POST":
            body = await self._bodies.read(receive, length)
        request = Request(found, body, caller, scope["headers"], header_length)
        return await self._handlers[route.handler](request)

    # Handlers, by the names in ROUTES.

    async def _predict(self, request: Request) -> Answer:
        call = predict.read_predict(request.body, request.known, request.headers)
        return _dressed(result := await self._plane.infer(call), predict.write(result))

    async def _predictions(self, request: Request) -> Answer:
        call = predict.read_predictions(
            request.body, request.known, request.match.model, request.headers
        )
        return _dressed(result := await self._plane.infer(call), predict.write(result))

    async def _infer(self, request: Request) -> Answer:
        wanted = request.match
        asked = oip.InferRequest(
            request.body, request.known, wanted.model, wanted.version, request.header_length,
            request.headers,
        )  # fmt: skip
        result = await self._plane.infer(asked.call)
        body, header = asked.write(result)
        if header is None:
            return _dressed(result, body)
        return _dressed(result, body, _BINARY, (_HEADER_LENGTH, str(header).encode()))

    async def _model_ready(self, request: Request) -> Answer:
        wanted = request.match
        target = self._plane.describe(request.known, wanted.model, wanted.version)
        ready = self._plane.is_ready and target.pool.is_ready
        return 200 if ready else 503, _encode({"name": wanted.model, "ready": ready})

    async def _model_metadata(self, request: Request) -> Answer:
        wanted = request.match
        target = self._plane.describe(request.known, wanted.model, wanted.version)
        return 200, _encode(oip.model_metadata(wanted.model, target))

    async def _model_statistics(self, request: Request) -> Answer:
        wanted = request.match
        given = oip.statistics(self._plane, request.known, wanted.model, wanted.version)
        return 200, _encode({"model_stats": given})

    async def _statistics(self, request: Request) -> Answer:
        return 200, _encode({"model_stats": oip.statistics(self._plane, request.known)})

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
        ready = self._plane.is_ready
        return 200 if ready else 503, _encode({"ready": ready})

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, error: MeuseError) -> None:
        self._plane.counters.refused(error)
        identity = request_id(scope)
        if scope["path"] == "/v2" or scope["path"].startswith("/v2/"):
            body = _encode({"error": str(error)})
        else:
            body = _encode({"error": {**error.to_dict(), "request_id": identity}})
        headers = [
            _JSON,
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", identity.encode()),
        ]
        if error.code is Code.UNAUTHENTICATED:
            headers.append((b"www-authenticate", b"Bearer"))
        if error.code is Code.METHOD_NOT_ALLOWED:
            found = match(scope["raw_path"])
            headers.append((b"allow", ", ".join(found.methods if found else ()).encode()))
        wait = error.retry_after_s
        if wait is None and error.code in (Code.OVERLOADED, Code.UNAVAILABLE):
            wait = 1
        if wait is not None:
            headers.append((b"retry-after", str(wait).encode()))
        too_large = error.code is Code.TOO_LARGE
        if too_large:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": error.http_status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": too_large})
        if too_large:
            # Closing while the client still sends would reset the connection, and it might
            # never read the answer: take some of the rest, throw it away, then close.
            await drain(receive)
            await send({"type": "http.response.body", "body": b""})


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


def request_id(scope: Scope) -> str:
    """The client's X-Request-Id where it is sane, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value.decode())
    return uuid7_bytes().hex()
