"""The model repository of Open Inference: an index of deployments, and load and unload.

A deployment is "loaded" while a replica answers for it. What starts and stops replicas is
control's: `Scaler` is the way there. Knows no protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol
from urllib.parse import quote

from meuse.core.errors import Code, MeuseError
from meuse.gateway.dataplane import DataPlane
from meuse.gateway.routes import Caller, Route

_POLL_S = 0.05

Post = Callable[[str, bytes], Awaitable[None]]
"""(path, Authorization header) → asks control's API. Raises its refusal."""


class Scaler(Protocol):
    """Who is asked for replicas."""

    def wake(self, deployment: str) -> None:
        """Have at least one replica of "owner/name", soon. Returns at once."""

    async def release(self, name: str, authorization: bytes) -> None:
        """Stop the replicas of the caller's own deployment. Raises `conflict` where it is in
        use or may not go to zero."""


class ControlScaler:
    """Asks control: `wake` tells it that a deployment is waited for, `post` calls its API."""

    def __init__(self, wake: Callable[[str], None], post: Post) -> None:
        self.wake = wake
        self._post = post

    async def release(self, name: str, authorization: bytes) -> None:
        await self._post(f"/api/deployments/{quote(name, safe='')}/unload", authorization)


class Repository:
    """One per worker."""

    def __init__(self, plane: DataPlane, scaler: Scaler) -> None:
        self._plane = plane
        self._scaler = scaler

    def index(self, caller: Caller, *, ready_only: bool = False) -> list[dict[str, str]]:
        """Name, version, state and reason of everything that the caller may call."""
        found = []
        for name, route in self._plane.visible(caller).items():
            if not route.targets:
                found.append(_entry(name, "", "no version is ready"))
            for target in route.targets:
                reason = "" if target.pool.is_ready else "no replica is connected"
                found.append(_entry(name, target.label, reason))
        return [one for one in found if one["state"] == "READY" or not ready_only]

    async def load(self, caller: Caller, model: str) -> None:
        """Return once a replica of every target answers.

        Raises `unavailable` when that is not so within the deployment's timeout.
        """
        route = self._own(caller, model)
        if not self._is_up(route):
            self._scaler.wake(route.full_name)
        try:
            async with asyncio.timeout(route.deployment.timeout_ms / 1000):
                while not self._is_up(route):
                    await asyncio.sleep(_POLL_S)
                    route = self._own(caller, model)
        except TimeoutError:
            raise MeuseError(
                Code.UNAVAILABLE,
                f"no replica of {model!r} was there in time",
                field="model",
                hint="Try again later; GET /api/deployments/{name} says what is wrong.",
            ) from None

    async def unload(self, caller: Caller, model: str) -> None:
        """Have the deployment's replicas stopped. Raises `conflict`."""
        await self._scaler.release(self._own(caller, model).deployment.name, caller.authorization)

    def _own(self, caller: Caller, model: str) -> Route:
        # Again each time: a caller knows the routes of the snapshot that it was verified under.
        caller = self._plane.authenticate(caller.authorization, "deploy")
        route = self._plane.route(caller, model)
        if route.deployment.tenant != caller.tenant:
            raise MeuseError(
                Code.FORBIDDEN,
                f"{model!r} belongs to another tenant",
                field="model",
                hint="Only its owner may load or unload it.",
            )
        return route

    @staticmethod
    def _is_up(route: Route) -> bool:
        return bool(route.targets) and all(target.pool.is_ready for target in route.targets)


def _entry(name: str, version: str, reason: str) -> dict[str, str]:
    state = "UNAVAILABLE" if reason else "READY"
    return {"name": name, "version": version, "state": state, "reason": reason}


def check_parameters(names: list[str]) -> None:
    """Raises `invalid_field`: no model can be brought along, and none is kept by halves."""
    if names:
        raise MeuseError(
            Code.INVALID_FIELD,
            f"the parameter {names[0]!r} is not served",
            field="parameters",
            hint="What a deployment serves is set by PUT /api/deployments/{name}.",
        )
