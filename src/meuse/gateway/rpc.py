"""Open Inference Protocol v2 over gRPC, on the worker's loop.

`METHODS` names every method that is served with the scope that it needs; a method that is not
in it is not served. One channel stays with one worker until its connection is renewed.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import numpy as np
from google.protobuf.message import Message

from meuse.core.errors import Code, MeuseError
from meuse.gateway import oip, rpctensor
from meuse.gateway.dataplane import Call, DataPlane, Inputs, Result
from meuse.gateway.routes import Caller, Target
from meuse.gateway.wire import inference_pb2 as pb

logger = logging.getLogger(__name__)

SERVICE = "inference.GRPCInferenceService"
METHODS: dict[str, str] = {
    "ServerLive": "public",
    "ServerReady": "public",
    "ServerMetadata": "public",
    "ModelReady": "infer",
    "ModelMetadata": "infer",
    "ModelInfer": "infer",
}
"""Method → "public", or the scope that the key must have."""

MAX_AGE_MS = 5 * 60 * 1000
_GRACE_MS = 60 * 1000
_MAX_RPCS = 4096
"""Calls at once, each with one message; beyond it they are refused by gRPC itself."""

Context = grpc.aio.ServicerContext[Any, Any]
Method = Callable[[Any, "Caller | None"], Awaitable[Message]]


def make_server(plane: DataPlane, address: str, max_message_bytes: int) -> grpc.aio.Server:
    """A server bound to `address`, shared with the other workers. Raises RuntimeError."""
    server = grpc.aio.server(
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
    server.add_generic_rpc_handlers((_Guard(plane),))
    server.add_insecure_port(address)
    return server


class _Guard(grpc.GenericRpcHandler):
    """Finds the method of a call, and checks its key by the metadata alone.

    gRPC receives the message of a unary call before it calls the method, so a call without a
    good key is given a streaming method that never asks for a message.
    """

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        service = Service(plane)
        self._methods = {
            f"/{SERVICE}/{name}": (
                scope,
                getattr(service, name),
                getattr(pb, f"{name}Request").FromString,
                getattr(pb, f"{name}Response").SerializeToString,
            )
            for name, scope in METHODS.items()
        }

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """How to handle a call; None for a method that is not served."""
        found = self._methods.get(details.method)
        if found is None:
            return None
        scope, method, read, write = found
        caller = None
        if scope != "public":
            try:
                caller = self._plane.authenticate(_authorization(details), scope)
            except MeuseError as error:
                return _denied(error)
        return grpc.unary_unary_rpc_method_handler(_called(method, caller), read, write)


def _denied(error: MeuseError) -> grpc.RpcMethodHandler[Any, Any]:
    async def deny(messages: Any, context: Context) -> None:
        await _abort(context, error)

    return grpc.stream_unary_rpc_method_handler(deny)


def _called(
    method: Method, caller: Caller | None
) -> Callable[[Any, Context], Awaitable[Message | None]]:
    """A method for one call of one caller, with its errors as statuses."""

    async def call(request: Any, context: Context) -> Message | None:
        try:
            return await method(request, caller)
        except MeuseError as error:
            failure = error
        except Exception:
            logger.exception("a gRPC call failed")
            failure = MeuseError(Code.INTERNAL, "something went wrong on our side")
        await _abort(context, failure)
        return None

    return call


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


class Service:
    """The methods of `METHODS`. Each is given the caller, None where it is public."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    async def ServerLive(self, request: Any, caller: Caller | None) -> Message:  # noqa: N802
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, caller: Caller | None) -> Message:  # noqa: N802
        return pb.ServerReadyResponse(ready=self._plane.is_ready)

    async def ServerMetadata(self, request: Any, caller: Caller | None) -> Message:  # noqa: N802
        return pb.ServerMetadataResponse(**oip.server_metadata())

    async def ModelReady(self, request: Any, caller: Caller | None) -> Message:  # noqa: N802
        target = self._plane.describe(_known(caller), request.name, request.version or None)
        return pb.ModelReadyResponse(ready=self._plane.is_ready and target.pool.is_ready)

    async def ModelMetadata(self, request: Any, caller: Caller | None) -> Message:  # noqa: N802
        target = self._plane.describe(_known(caller), request.name, request.version or None)
        return pb.ModelMetadataResponse(**oip.model_metadata(request.name, target))

    async def ModelInfer(self, request: Any, caller: Caller | None) -> Message:  # noqa: N802
        def read(target: Target) -> Inputs:
            for i, output in enumerate(request.outputs):
                if output.name not in target.outputs:
                    raise oip.no_output(i, output.name, target)
            return rpctensor.read(request)

        # An empty name is no name: then the only deployment is meant.
        model, version = request.model_name or None, request.model_version or None
        call = Call(_known(caller), model, version, "oip-grpc", read)
        return _response(request, await self._plane.infer(call))


def _known(caller: Caller | None) -> Caller:
    if caller is None:
        raise MeuseError(Code.INTERNAL, "a public method asked for its caller")
    return caller


def _response(request: Any, result: Result) -> Message:
    response = pb.ModelInferResponse(
        model_name=request.model_name or result.target.route.deployment.name,
        model_version=result.target.label,
        id=request.id,
    )
    outputs = result.outputs
    if request.outputs:
        by_name = dict(outputs)
        outputs = [(output.name, by_name[output.name]) for output in request.outputs]
    # Answered as asked; half floats have no typed field.
    raw = bool(request.raw_input_contents) or any(a.dtype == np.float16 for _, a in outputs)
    rpctensor.write(response, outputs, raw=raw)
    return response
