"""gRPC on the worker's loop: which methods are served, who may call them, how errors look.

`METHODS` names every method that is served with the scope that it needs; a method that is not
in it is not served. One channel stays with one worker until its connection is renewed, and so
does a stream: it lasts at most `MAX_AGE_MS` and the grace. What the methods do is not known
here (`rpcservice`, `rpchealth`, `rpcreflection`).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from meuse.core.errors import Code, MeuseError
from meuse.gateway.counters import Counters
from meuse.gateway.dataplane import DataPlane
from meuse.gateway.repository import Repository
from meuse.gateway.routes import Caller
from meuse.gateway.rpchealth import Health
from meuse.gateway.rpcreflection import Reflection
from meuse.gateway.rpcservice import SERVICE, Service, metadata
from meuse.gateway.rpcstream import Readiness
from meuse.gateway.wire import health_pb2, reflection_pb2
from meuse.gateway.wire import inference_pb2 as pb

logger = logging.getLogger(__name__)


class Kind(Enum):
    """How many messages go which way."""

    UNARY = auto()  # one, one back
    WATCH = auto()  # one, many back
    STREAM = auto()  # many, many back


@dataclass(frozen=True, slots=True)
class Method:
    """`scope`: "public", or what the key must have."""

    scope: str
    request: type[Message]
    response: type[Message]
    kind: Kind = Kind.UNARY


METHODS: dict[str, Method] = {
    f"/{SERVICE}/ServerLive": Method("public", pb.ServerLiveRequest, pb.ServerLiveResponse),
    f"/{SERVICE}/ServerReady": Method("public", pb.ServerReadyRequest, pb.ServerReadyResponse),
    f"/{SERVICE}/ServerMetadata": Method(
        "public", pb.ServerMetadataRequest, pb.ServerMetadataResponse
    ),
    f"/{SERVICE}/ModelReady": Method("infer", pb.ModelReadyRequest, pb.ModelReadyResponse),
    f"/{SERVICE}/ModelMetadata": Method("infer", pb.ModelMetadataRequest, pb.ModelMetadataResponse),
    f"/{SERVICE}/ModelInfer": Method("infer", pb.ModelInferRequest, pb.ModelInferResponse),
    f"/{SERVICE}/ModelStreamInfer": Method(
        "infer", pb.ModelInferRequest, pb.ModelStreamInferResponse, Kind.STREAM
    ),
    f"/{SERVICE}/ModelStatistics": Method(
        "infer", pb.ModelStatisticsRequest, pb.ModelStatisticsResponse
    ),
    f"/{SERVICE}/RepositoryIndex": Method(
        "infer", pb.RepositoryIndexRequest, pb.RepositoryIndexResponse
    ),
    f"/{SERVICE}/RepositoryModelLoad": Method(
        "deploy", pb.RepositoryModelLoadRequest, pb.RepositoryModelLoadResponse
    ),
    f"/{SERVICE}/RepositoryModelUnload": Method(
        "deploy", pb.RepositoryModelUnloadRequest, pb.RepositoryModelUnloadResponse
    ),
    # Probes have no key, and learn no more than a connection that is refused would tell.
    "/grpc.health.v1.Health/Check": Method(
        "public", health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
    ),
    "/grpc.health.v1.Health/Watch": Method(
        "public", health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse, Kind.WATCH
    ),
    # The messages of both versions are the same on the wire.
    **{
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo": Method(
            "infer",
            reflection_pb2.ServerReflectionRequest,
            reflection_pb2.ServerReflectionResponse,
            Kind.STREAM,
        )
        for version in ("v1", "v1alpha")
    },
}
"""Path → what it takes, gives and needs."""

MAX_AGE_MS = 5 * 60 * 1000
_GRACE_MS = 60 * 1000
_MAX_RPCS = 4096
"""Calls at once, each with one message; beyond it they are refused by gRPC itself."""

Context = grpc.aio.ServicerContext[Any, Any]
if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[Any, Any]  # a class that can be subscripted in stubs only


def make_server(
    plane: DataPlane,
    repository: Repository,
    address: str,
    max_message_bytes: int,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
) -> grpc.aio.Server:
    """A server bound to `address`, shared with the other workers. Raises RuntimeError."""
    server = grpc.aio.server(
        interceptors=interceptors,
        options=[
            ("grpc.so_reuseport", 1),
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", -1),
            # Channels move on, so that load follows when workers come and go.
            ("grpc.max_connection_age_ms", MAX_AGE_MS),
            ("grpc.max_connection_age_grace_ms", _GRACE_MS),
        ],
        maximum_concurrent_rpcs=_MAX_RPCS,
    )
    server.add_generic_rpc_handlers((_Guard(plane, repository, max_message_bytes),))
    server.add_insecure_port(address)
    return server


class _Guard(grpc.GenericRpcHandler):
    """Finds the method of a call, and checks its key by the metadata alone.

    gRPC receives the message of a unary call before it calls the method, so a call without a
    good key is given a streaming method that never asks for a message.
    """

    def __init__(self, plane: DataPlane, repository: Repository, max_message_bytes: int) -> None:
        self._plane = plane
        readiness = Readiness(plane)
        parts: dict[str, Any] = {
            SERVICE: Service(plane, repository, readiness, max_message_bytes),
            "grpc.health.v1.Health": Health(readiness),
            "grpc.reflection.v1.ServerReflection": Reflection(),
        }
        parts["grpc.reflection.v1alpha.ServerReflection"] = parts[
            "grpc.reflection.v1.ServerReflection"
        ]
        self._methods = {}
        for path, method in METHODS.items():
            _, service, name = path.split("/")
            self._methods[path] = (method, getattr(parts[service], name))

    def service(self, details: grpc.HandlerCallDetails) -> Handler | None:
        """How to handle a call; None for a method that is not served."""
        found = self._methods.get(details.method)
        if found is None:
            return None
        method, function = found
        caller = None
        if method.scope != "public":
            try:
                caller = self._plane.authenticate(_authorization(details), method.scope)
            except MeuseError as error:
                self._plane.counters.refused(error)
                return _denied(error)
        counters = self._plane.counters
        codec = (method.request.FromString, method.response.SerializeToString)
        if method.kind is Kind.UNARY:
            called = _called(function, caller, counters, details)
            return grpc.unary_unary_rpc_method_handler(called, *codec)
        streamed = _streamed(function, caller, counters, details)
        if method.kind is Kind.WATCH:
            return grpc.unary_stream_rpc_method_handler(streamed, *codec)
        return grpc.stream_stream_rpc_method_handler(streamed, *codec)


def _denied(error: MeuseError) -> Handler:
    async def deny(messages: Any, context: Context) -> None:
        await _abort(context, error)

    return grpc.stream_unary_rpc_method_handler(deny)


def _called(
    method: Callable[..., Any],
    caller: Caller | None,
    counters: Counters,
    details: grpc.HandlerCallDetails,
) -> Callable[..., Any]:
    """A method for one call of one caller, with its errors as statuses."""

    async def call(request: Any, context: Context) -> Message | None:
        metadata.set(details.invocation_metadata or ())
        try:
            answer: Message = await method(request, caller)
            return answer
        except Exception as error:
            failure = _known(error)
            counters.refused(failure)
            await _abort(context, failure)
            return None

    return call


def _streamed(
    method: Callable[..., Any],
    caller: Caller | None,
    counters: Counters,
    details: grpc.HandlerCallDetails,
) -> Callable[..., Any]:
    """The same for a method that gives messages one after the other."""

    async def call(request: Any, context: Context) -> AsyncIterator[Message]:
        metadata.set(details.invocation_metadata or ())
        try:
            async for message in method(request, caller):
                yield message
        except Exception as error:
            failure = _known(error)
            counters.refused(failure)
            await _abort(context, failure)

    return call


def _known(error: Exception) -> MeuseError:
    if isinstance(error, MeuseError):
        return error
    logger.error("a gRPC call failed", exc_info=error)
    return MeuseError(Code.INTERNAL, "something went wrong on our side")


def _authorization(details: grpc.HandlerCallDetails) -> bytes | None:
    for name, value in details.invocation_metadata or ():
        if name == "authorization":
            return value.encode() if isinstance(value, str) else value
    return None


async def _abort(context: Context, error: MeuseError) -> None:
    """Status and text for people, code and field in the trailing metadata for programs."""
    trailer = [("meuse-code", str(error.code))]
    if error.field:
        trailer.append(("meuse-field", error.field.encode("ascii", "replace").decode()))
    if error.retry_after_s is not None:
        trailer.append(("retry-after", str(error.retry_after_s)))
    status = grpc.StatusCode[error.grpc_status]
    await context.abort(status, str(error), trailing_metadata=tuple(trailer))
