"""One line per request in the log, one span in a trace: both off unless an operator wants them.

Wraps the HTTP application and the gRPC server from outside, so that nothing is paid when all is
off; the data plane adds what it alone knows (`ran`, `refused`) to the observation that the calling
task carries. Knows no key, no caller and no input.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import msgspec

from meuse.core.errors import Code
from meuse.gateway import tracecontext
from meuse.gateway.body import Message, Receive, Scope, Send
from meuse.gateway.heads import request_id
from meuse.gateway.link import Answer, FailedError
from meuse.gateway.paths import match
from meuse.gateway.tracecontext import Trace

if TYPE_CHECKING:
    from meuse.gateway.otlp import Spans

Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_MAX_RUNS = 16
"""How many inferences of one gRPC stream are kept apart; of a plain request there is one."""
_MAX_PATH = 1024
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Run:
    """One inference that a replica answered at `ended_ns`."""

    ended_ns: int
    queue_us: int
    compute_us: int
    batch_rows: int


@dataclass(slots=True)
class Observation:
    """What became of one request. Times are Unix nanoseconds. `status` is HTTP's number or
    gRPC's name, None when nobody was there to be answered."""

    protocol: str  # http | grpc
    method: str
    route: str
    path: str
    request_id: str
    trace: Trace | None
    began_ns: int = field(default_factory=time.time_ns)
    ended_ns: int = 0
    status: int | str | None = None
    deployment: str | None = None
    version: str | None = None
    code: Code | None = None
    rows: int = 0
    runs: list[Run] = field(default_factory=list)

    def refused(self, deployment: str, code: Code) -> None:
        """It was not admitted."""
        self.deployment, self.code = deployment, code

    def ran(
        self,
        deployment: str,
        version: str,
        rows: int,
        work: Answer | FailedError | None,
        code: Code | None,
    ) -> None:
        """It was admitted and is over; as in `Counters.end`."""
        self.deployment, self.version, self.code = deployment, version, code
        self.rows += rows
        if work is not None and len(self.runs) < _MAX_RUNS:
            self.runs.append(Run(time.time_ns(), work.queue_us, work.compute_us, work.batch_rows))


_current: ContextVar[Observation | None] = ContextVar("observation", default=None)


class Observer:
    """One per worker that observes at all."""

    def __init__(self, slot: int, *, log: bool, spans: Spans | None) -> None:
        self._slot = slot
        self._log = _logger() if log else None
        self._spans = spans

    def current(self) -> Observation | None:
        """That of the task that calls."""
        return _current.get()

    def http(self, app: Application) -> Application:
        """The application with its inference requests observed."""

        async def observed(scope: Scope, receive: Receive, send: Send) -> None:
            seen = _of_http(scope)
            if seen is None:
                await app(scope, receive, send)
                return

            async def sent(message: Message) -> None:
                if message["type"] == "http.response.start":
                    seen.status = message["status"]
                await send(message)

            _current.set(seen)  # each request is a task of its own
            try:
                await app(scope, receive, sent)
            finally:
                self._end(seen)

        return observed

    def rpc(self) -> grpc.aio.ServerInterceptor:
        """What observes inference calls over gRPC."""
        return _Interceptor(self._end)

    async def close(self) -> None:
        if self._spans is not None:
            await self._spans.close()

    def _end(self, seen: Observation) -> None:
        seen.ended_ns = time.time_ns()
        trace_id = None if seen.trace is None else seen.trace.trace_id
        if self._spans is not None:
            trace_id = self._spans.record(seen)
        if self._log is not None:
            self._log.info("%s", _line(self._slot, seen, trace_id))


def _of_http(scope: Scope) -> Observation | None:
    raw_path: bytes = scope["raw_path"]
    found = match(raw_path) if len(raw_path) <= _MAX_PATH else None
    route = found.methods.get(scope["method"]) if found is not None else None
    if route is None or route.method != "POST" or route.scope != "infer":
        return None
    identity = request_id(scope["headers"])
    # The application makes another one where it finds none.
    if not any(name == b"x-request-id" for name, _ in scope["headers"]):
        scope["headers"] = [*scope["headers"], (b"x-request-id", identity.encode())]
    trace = tracecontext.read(scope["headers"])
    return Observation("http", route.method, route.pattern, scope["path"], identity, trace)


class _Interceptor(grpc.aio.ServerInterceptor):
    def __init__(self, end: Callable[[Observation], None]) -> None:
        self._end = end

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)
        service, _, method = details.method.strip("/").partition("/")
        if handler is None or not method.endswith("Infer"):
            return handler
        headers = [(n.encode(), v.encode() if isinstance(v, str) else v)
                   for n, v in details.invocation_metadata or ()]  # fmt: skip
        identity = request_id(headers)
        name = f"{service}/{method}"

        def begin() -> Observation:
            seen = Observation("grpc", name, name, name, identity, tracecontext.read(headers))
            _current.set(seen)  # each call is a task of its own
            return seen

        return _observed(handler, begin, self._end)


def _observed(
    handler: Any, begin: Callable[[], Observation], end: Callable[[Observation], None]
) -> Any:
    """The same handler, with an observation around each call of it."""

    async def one(request: Any, context: Any) -> Any:
        seen = begin()
        call = handler.stream_unary if handler.request_streaming else handler.unary_unary
        try:
            answer = await call(request, context)
            seen.status = _status(context)
            return answer
        except grpc.aio.AbortError:
            seen.status = _status(context)
            raise
        finally:
            end(seen)

    async def many(request: Any, context: Any) -> Any:
        seen = begin()
        call = handler.stream_stream if handler.request_streaming else handler.unary_stream
        try:
            async for answer in call(request, context):
                yield answer
            seen.status = _status(context)
        except grpc.aio.AbortError:
            seen.status = _status(context)
            raise
        finally:
            end(seen)

    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    return make(
        many if handler.response_streaming else one,
        handler.request_deserializer,
        handler.response_serializer,
    )


def _status(context: Any) -> str:
    code = context.code()
    if isinstance(code, grpc.StatusCode):
        return code.name
    return next((s.name for s in grpc.StatusCode if s.value[0] == code), "OK")


def _line(slot: int, seen: Observation, trace_id: str | None) -> str:
    at = datetime.fromtimestamp(seen.began_ns / 1e9, UTC).isoformat(timespec="milliseconds")
    runs = seen.runs
    return _encode(
        {
            "time": at,
            "worker": slot,
            "request_id": seen.request_id,
            "trace_id": trace_id,
            "protocol": seen.protocol,
            "route": seen.route,
            "deployment": seen.deployment,
            "version": seen.version,
            "status": seen.status,
            "code": seen.code,
            "duration_ms": (seen.ended_ns - seen.began_ns) / 1e6,
            "queue_ms": sum(run.queue_us for run in runs) / 1e3,
            "compute_ms": sum(run.compute_us for run in runs) / 1e3,
            "rows": seen.rows,
        }
    ).decode()


def _logger() -> logging.Logger:
    """Bare lines on standard error, which is the worker's log."""
    logger = logging.getLogger("meuse.requests")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return logger
