"""gRPC server reflection: what services there are, and their descriptors. Needs a key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message import Message

from meuse.gateway.routes import Caller
from meuse.gateway.wire import health_pb2, inference_pb2
from meuse.gateway.wire import reflection_pb2 as pb

_FILES: tuple[Any, ...] = (
    inference_pb2.DESCRIPTOR,
    health_pb2.DESCRIPTOR,
    pb.DESCRIPTOR,
)  # each in a pool of its own, none needs another


class Reflection:
    """The method of the reflection service, for v1 and v1alpha."""

    async def ServerReflectionInfo(  # noqa: N802
        self, requests: AsyncIterator[Any], caller: Caller | None
    ) -> AsyncIterator[Message]:
        async for request in requests:
            response = _answer(request)
            response.valid_host = request.host
            response.original_request.CopyFrom(request)
            yield response


def _answer(request: Any) -> Any:
    kind = request.WhichOneof("message_request")
    if kind == "list_services":
        names = sorted(s.full_name for f in _FILES for s in f.services_by_name.values())
        services = [pb.ServiceResponse(name=name) for name in names]
        return pb.ServerReflectionResponse(
            list_services_response=pb.ListServiceResponse(service=services)
        )
    if kind == "file_by_filename":
        return _file(lambda file: file.pool.FindFileByName(request.file_by_filename))
    if kind == "file_containing_symbol":
        symbol = request.file_containing_symbol
        return _file(lambda file: file.pool.FindFileContainingSymbol(symbol))
    if kind is None:
        return _error(grpc.StatusCode.INVALID_ARGUMENT, "the request asks for nothing")
    return _error(grpc.StatusCode.NOT_FOUND, "there are no extensions")


def _file(find: Any) -> Any:
    for file in _FILES:
        try:
            found = find(file)
        except (KeyError, UnicodeError):
            continue
        return pb.ServerReflectionResponse(
            file_descriptor_response=pb.FileDescriptorResponse(
                file_descriptor_proto=[found.serialized_pb]
            )
        )
    return _error(grpc.StatusCode.NOT_FOUND, "there is no such file or symbol")


def _error(status: grpc.StatusCode, message: str) -> Any:
    code = status.value[0]
    return pb.ServerReflectionResponse(
        error_response=pb.ErrorResponse(error_code=code, error_message=message)
    )
