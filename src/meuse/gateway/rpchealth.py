"""`grpc.health.v1`: of this worker, and of the inference service, which is the same. No key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.message import Message

from meuse.core.errors import Code, MeuseError, not_found
from meuse.gateway.rpcservice import SERVICE
from meuse.gateway.rpcstream import Readiness
from meuse.gateway.wire import health_pb2 as pb

MAX_WATCHES = 64
"""Watches at once per worker: they need no key, and would use up the calls of those with one."""
_SERVICES = frozenset({"", SERVICE})


class Health:
    """The methods of the health service."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness
        self._watches = 0

    async def Check(self, request: Any, caller: None) -> Message:  # noqa: N802
        if request.service not in _SERVICES:
            raise not_found("service", request.service)
        return self._status()

    async def Watch(self, request: Any, caller: None) -> AsyncIterator[Message]:  # noqa: N802
        """The status, and again whenever it changes; ends when the worker does."""
        if self._watches >= MAX_WATCHES:
            raise MeuseError(Code.OVERLOADED, "too many watches are open", hint="Use Check.")
        changed, known = asyncio.Event(), request.service in _SERVICES
        self._watches += 1
        self._readiness.add(changed, changed.set)
        try:
            was_ready = False
            while True:
                changed.clear()
                is_ready = self._readiness.is_ready
                if known:
                    yield self._status()
                elif not was_ready:
                    yield pb.HealthCheckResponse(status="SERVICE_UNKNOWN")
                if was_ready and not is_ready:
                    return
                was_ready = is_ready
                await changed.wait()
        finally:
            self._watches -= 1
            self._readiness.remove(changed)

    def _status(self) -> Message:
        return pb.HealthCheckResponse(
            status="SERVING" if self._readiness.is_ready else "NOT_SERVING"
        )
