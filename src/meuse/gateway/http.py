"""The bare ASGI callable: dispatch, keys, body limits, errors.

Dispatch runs on `paths.ROUTES`; everything else is handed to control. Inference requests that
are whole at once do not come here as ASGI but by `short`, over the same readers and writers.
Knows no model, no engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import msgspec

from meuse.core import openai_errors
from meuse.core.errors import Code, MeuseError
from meuse.gateway import metrics, oip
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
from meuse.gateway.dataplane import DataPlane
from meuse.gateway.events import send_events
from meuse.gateway.heads import (
    JSON,
    Header,
    Headers,
    Request,
    check_encoding,
    identified,
    look,
    priority_of,
    request_id,
    timeout_ms_of,
)
from meuse.gateway.openai import models as openai_models
from meuse.gateway.openai import rates
from meuse.gateway.openai.texts import Answer as TextAnswer
from meuse.gateway.openai.texts import Texts, Wanted
from meuse.gateway.paths import MAX_PATH, ROUTES, Match, match
from meuse.gateway.readers import READERS, RELAYED, Answer, Asked, ShortRoute, ask, short_route
from meuse.gateway.repository import Repository, check_parameters
from meuse.gateway.upstream import asked as upstream_asked
from meuse.gateway.upstream.awaited import Awaited
from meuse.gateway.upstream.relay import Relay, Sink, is_remote
from meuse.serve.frames import NORMAL

logger = logging.getLogger(__name__)

_OURS = (b"/v2/", b"/predictions/")
_encode = msgspec.json.Encoder().encode

T = TypeVar("T")
Produce = Callable[[Wanted, bytes], Awaitable[TextAnswer]]


class _IndexRequest(msgspec.Struct):
    ready: bool = False


class _LoadRequest(msgspec.Struct):
    parameters: dict[str, msgspec.Raw] = {}


_index_request = msgspec.json.Decoder(_IndexRequest)
_load_request = msgspec.json.Decoder(_LoadRequest)


class App:
    """One per worker."""

    def __init__(
        self, plane: DataPlane, proxy: ControlProxy, repository: Repository, max_body_bytes: int
    ) -> None:
        self.plane = plane
        self.json = [JSON]
        self._proxy = proxy
        self._repository = repository
        texts = Texts(plane)
        self._producers: dict[str, Produce] = {
            "chat": texts.chat, "completions": texts.completions,
        }  # fmt: skip
        self._exposition = metrics.Exposition(plane)
        self._bodies = BodyReader(max_body_bytes)
        self._max_body_bytes = max_body_bytes
        self._handlers: dict[str, Callable[[Request], Awaitable[Answer]]] = {
            route.handler: getattr(self, "_" + route.handler)
            for route in ROUTES
            if route.handler not in READERS and route.handler not in self._producers
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw_path: bytes = scope["raw_path"]
        found = match(raw_path) if len(raw_path) <= MAX_PATH else None
        try:
            if found is None:
                if raw_path.startswith(_OURS):
                    raise MeuseError(Code.NOT_FOUND, "there is nothing here", field="path")
                await self._proxy(scope, receive, send, request_id(scope["headers"]))
                return
            answer = await self._answer(scope, receive, found)
            if isinstance(answer, TextAnswer | Awaited):
                try:
                    await _while_there(send_events(answer, scope, send), receive)
                finally:
                    answer.leave()
                return
            status, body, *more = answer
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
        headers = [*more[0], length] if more else [JSON, length]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(
        self, scope: Scope, receive: Receive, found: Match
    ) -> Answer | TextAnswer | Awaited:
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
        request = Request(
            found, body, caller, scope["headers"], found_headers, self.plane.standings
        )
        if (produce := self._producers.get(route.handler)) is not None:
            return await _while_there(self._text(produce, request), receive)
        read = READERS.get(route.handler)
        if read is None:
            return await self._handlers[route.handler](request)
        if route.handler in RELAYED and (relayed := self._relayed(request)) is not None:
            return await _while_there(self._begun(request, relayed), receive)
        asked = ask(read, request)
        try:
            return asked.write(await _while_there(self.plane.infer(asked.call), receive))
        except MeuseError as error:
            raise asked.refused(error) from None

    async def _text(self, produce: Produce, request: Request) -> Answer | TextAnswer | Awaited:
        """What there is before the first byte: all of it, or the beginning of a stream."""
        if (relayed := self._relayed(request)) is not None:
            return await self._begun(request, relayed)
        answer = await produce(_wanted(request), request.body)
        answer.headers += identified(request.headers)
        return answer if answer.is_stream else (200, await answer.whole(), [JSON, *answer.headers])

    async def _begun(self, request: Request, answer: Awaited) -> Answer | Awaited:
        await answer.begun()
        answer.headers += identified(request.headers)
        if answer.is_stream:
            return answer
        return 200, await answer.whole_answer(), [JSON, *answer.headers]

    def _relayed(self, request: Request) -> Awaited | None:
        """Who waits for another server, where one answers."""
        sink = Awaited()
        relay = self._relay(request, sink)
        if relay is None:
            return None
        sink.relay = relay
        return sink

    def _relay(self, request: Request, sink: Sink) -> Relay | None:
        """The call, where another server answers it. Raises `MeuseError`; what is wrong before
        that is known is told by the way of all other texts."""
        caller = request.known
        protocol = RELAYED[request.match.methods["POST"].handler]
        try:
            model, fields = upstream_asked.model_of(request.body)
            route = self.plane.route(caller, self.plane.adapted(caller, model)[0])
        except MeuseError:
            return None
        if not is_remote(route, protocol):
            return None
        sent = upstream_asked.read(model, fields, len(request.body), protocol)
        asked = _wanted(request)
        return Relay(self.plane, caller, sent, protocol, sink, asked.timeout_ms, request.headers)

    # The short way, see `gateway.short`.

    def short(self, url: bytes) -> ShortRoute | None:
        """The route of a POST that may go the short way."""
        return short_route(url)

    def read(self, route: ShortRoute, headers: Headers, body: bytes) -> Asked:
        """A request that is whole. Raises `MeuseError`."""
        return ask(route.read, self._request(route, headers, body))

    def relay(self, route: ShortRoute, headers: Headers, body: bytes, sink: Sink) -> Relay | None:
        """As `read`, for a text; None where no other server answers it."""
        return self._relay(self._request(route, headers, body), sink)

    def _request(self, route: ShortRoute, headers: Headers, body: bytes) -> Request:
        found = look(headers)
        caller = self.plane.authenticate(found.get(b"authorization"), route.scope)
        if b"content-encoding" in found:
            check_encoding(found[b"content-encoding"])
        if len(body) > self._max_body_bytes:
            raise too_large(self._max_body_bytes)
        return Request(route.match, body, caller, headers, found, self.plane.standings)

    @staticmethod
    def identified(headers: Headers) -> list[Header]:
        """The header that names the request."""
        return identified(headers)

    def refusal(
        self, error: MeuseError, raw_path: bytes, headers: Headers
    ) -> tuple[int, bytes, list[Header]]:
        """Status, body and headers of an error, as the protocol of the path dresses them."""
        self.plane.counters.refused(error)
        identity = request_id(headers)
        if raw_path == b"/v2" or raw_path.startswith(b"/v2/"):
            body = _encode({"error": str(error)})
        elif raw_path.startswith(b"/v1/"):
            body = _encode(openai_errors.dress(error))
        else:
            body = _encode({"error": {**error.to_dict(), "request_id": identity}})
        dressed = [JSON, (b"x-request-id", identity.encode())]
        if isinstance(error, rates.LimitedError):
            dressed += error.headers
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

    async def _models(self, request: Request) -> Answer:
        listed = openai_models.listed(self.plane, request.known)
        return 200, _encode(listed), [JSON, *identified(request.headers)]

    async def _model(self, request: Request) -> Answer:
        found = openai_models.one(self.plane, request.known, request.match.model)
        return 200, _encode(found), [JSON, *identified(request.headers)]

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


async def _while_there(coroutine: Coroutine[Any, Any, T], receive: Receive) -> T:
    """The result, unless the client leaves before: then nobody works for it any more."""
    work = asyncio.ensure_future(coroutine)
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


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _wanted(request: Request) -> Wanted:
    """Who asks for a text, with what its headers say."""
    found = request.found
    return Wanted(
        request.known,
        request.headers,
        timeout_ms_of(found[b"x-timeout-ms"]) if b"x-timeout-ms" in found else None,
        priority_of(found[b"x-priority"]) if b"x-priority" in found else NORMAL,
    )
