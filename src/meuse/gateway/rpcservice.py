"""Open Inference v2 over gRPC: messages to calls, results to messages. Knows no server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import numpy as np
from google.protobuf.message import Message

from meuse.core.errors import Code, MeuseError
from meuse.gateway import oip, rpctensor
from meuse.gateway.dataplane import Call, DataPlane, Result
from meuse.gateway.repository import Repository, check_parameters
from meuse.gateway.routes import Caller, Headers, Target
from meuse.gateway.rpcstream import InferStream, Readiness
from meuse.gateway.signature import Inputs
from meuse.gateway.wire import inference_pb2 as pb

SERVICE = "inference.GRPCInferenceService"

metadata: ContextVar[Headers] = ContextVar("metadata", default=())
"""Of the call that runs: gRPC gives each a context of its own."""


class Service:
    """The methods of `SERVICE`. Each is given the caller, None where it is public."""

    def __init__(
        self, plane: DataPlane, repository: Repository, readiness: Readiness, stream_bytes: int
    ) -> None:
        self._plane = plane
        self._repository = repository
        self._readiness = readiness
        self._stream_bytes = stream_bytes

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

    async def ModelInfer(  # noqa: N802
        self, request: Any, caller: Caller | None
    ) -> pb.ModelInferResponse:
        _check(request)

        def read(target: Target) -> Inputs:
            for i, output in enumerate(request.outputs):
                if output.name not in target.outputs:
                    raise oip.no_output(i, output.name, target)
            return rpctensor.read(request)

        # An empty name is no name: then the only deployment is meant.
        model, version = request.model_name or None, request.model_version or None
        call = Call(_known(caller), model, version, "oip-grpc", read, headers=metadata.get())
        return _response(request, await self._plane.infer(call))

    async def ModelStreamInfer(  # noqa: N802
        self, requests: AsyncIterator[Any], caller: Caller | None
    ) -> AsyncIterator[Message]:
        async def answer(request: Any) -> Message:
            try:
                found = await self.ModelInfer(request, caller)
                return pb.ModelStreamInferResponse(infer_response=found)
            except MeuseError as error:
                # In place of its answer, so that the stream and its order go on.
                about = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
                return pb.ModelStreamInferResponse(error_message=str(error), infer_response=about)

        async for response in InferStream(requests, answer, self._readiness, self._stream_bytes):
            yield response

    async def ModelStatistics(self, request: Any, caller: Caller | None) -> Message:  # noqa: N802
        known, version = _known(caller), request.version or None
        stats = oip.statistics(self._plane, known, request.name or None, version)
        return pb.ModelStatisticsResponse(model_stats=stats)

    async def RepositoryIndex(self, request: Any, caller: Caller | None) -> Message:  # noqa: N802
        index = self._repository.index(_known(caller), ready_only=request.ready)
        return pb.RepositoryIndexResponse(models=index)

    async def RepositoryModelLoad(self, request: Any, caller: Caller | None) -> Message:  # noqa: N802
        check_parameters(list(request.parameters))
        await self._repository.load(_known(caller), request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: Any, caller: Caller | None) -> Message:  # noqa: N802
        await self._repository.unload(_known(caller), request.model_name)
        return pb.RepositoryModelUnloadResponse()


def _known(caller: Caller | None) -> Caller:
    if caller is None:
        raise MeuseError(Code.INTERNAL, "a public method asked for its caller")
    return caller


def _check(request: Any) -> None:
    if request.outputs:
        oip.check_twice([output.name for output in request.outputs])
    for what, tensors in (("inputs", request.inputs), ("outputs", request.outputs)):
        for i, tensor in enumerate(tensors):
            for name in tensor.parameters:
                if name in oip.NOT_SERVED:
                    raise oip.not_served(f"{what}[{i}]", name)


def _response(request: Any, result: Result) -> pb.ModelInferResponse:
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
