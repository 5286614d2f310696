"""The one function beneath all inference protocols: who, where, what, run, record, answer.

Works on memory and one local append: no database, no lock, no wait but for the replica. A
request is admitted when its key, its target and its inputs are good and there is room for it;
from then on exactly one usage record is written, before the first byte of the answer. Knows
no protocol.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from meuse.core.clock import now_ms
from meuse.core.errors import Code, MeuseError
from meuse.core.ids import uuid7_bytes
from meuse.gateway.cache import Cache, Caches, key_of
from meuse.gateway.counters import Counters
from meuse.gateway.link import Answer, FailedError, Flight
from meuse.gateway.links import Links, MovedError, late
from meuse.gateway.mirror import Mirror
from meuse.gateway.routes import Caller, Headers, Route, Routes, Target
from meuse.meter.record import RecordError, UsageRecord
from meuse.serve.frames import DATATYPES
from meuse.serve.snapshot import EMPTY, Snapshot, TensorEntry

logger = logging.getLogger(__name__)

Inputs = Sequence[tuple[str, NDArray[Any]]]
"""Tensors by name, in the order of the request."""


class Journal(Protocol):
    """Where usage goes (`meter.journal.JournalWriter`)."""

    def append(self, record: UsageRecord) -> None: ...


@dataclass(frozen=True, slots=True)
class Call:
    """One inference call. `read` makes the inputs once the target, so their types, is known."""

    caller: Caller
    model: str | None
    version: str | None
    protocol: str  # predict | oip-rest | oip-grpc
    read: Callable[[Target], Inputs]
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Result:
    """What came out, in the order of the target's outputs."""

    target: Target
    outputs: list[tuple[str, NDArray[Any]]]
    rows: int
    cached: bool | None = None  # None: the deployment has no cache


class _GoOnAloneError(Exception):
    """The same request, which was waited for, gave nothing; this one's deadline stands."""

    def __init__(self, deadline_ms: int) -> None:
        super().__init__()
        self.deadline_ms = deadline_ms


class DataPlane:
    """Routes, links and the journal of one worker."""

    def __init__(self, links: Links, journal: Journal, counters: Counters, pepper: bytes) -> None:
        self._links = links
        self._journal = journal
        self.counters = counters
        self._pepper = pepper
        self._routes = Routes(EMPTY, pepper, links.pool, counters)
        self._caches = Caches()
        self._mirror = Mirror(counters, self._record_internal)
        self.is_draining = False
        self.recorded = 0
        """How many records were appended: whether there is anything to sync."""

    @property
    def snapshot_number(self) -> int:
        return self._routes.snapshot.number

    @property
    def is_ready(self) -> bool:
        """Whether this worker takes requests: it has a snapshot and is not about to end."""
        return self._routes.snapshot.number > 0 and not self.is_draining

    def swap(self, snapshot: Snapshot) -> None:
        """From now on everything follows this snapshot; what is in flight goes on."""
        self._links.update(snapshot)
        self._routes = Routes(snapshot, self._pepper, self._links.pool, self.counters)
        self._caches.follow(snapshot.deployments.values())
        for route in self._routes:
            route.cache = self._caches.of(route.deployment)
        self._links.leave_old()

    def authenticate(self, authorization: bytes | None, scope: str) -> Caller:
        """The caller. Raises `unauthenticated` or `forbidden`."""
        caller = self._routes.authenticate(authorization)
        caller.require(scope)
        return caller

    def describe(self, caller: Caller, model: str, version: str | None) -> Target:
        """The target that metadata and readiness are about."""
        return self._routes.find(caller, model).main(version)

    async def infer(self, call: Call) -> Result:
        """Answer one call. Raises `MeuseError`."""
        ids = uuid7_bytes()
        deadline_ms: int | None = None
        while True:
            # Again, not only at the door: reading a body takes time, and keys get revoked.
            caller = self.authenticate(call.caller.authorization, "infer")
            route = self._routes.find(caller, call.model)
            target = route.choose(call.version, caller.key, call.headers)
            try:
                inputs = call.read(target)
                rows = check(target.entry.inputs, target.input_at, inputs)
            except MeuseError as error:
                self._refused(route, error)
                raise
            try:
                if route.cache is not None and deadline_ms is None:
                    return await self._cached(route.cache, call, caller, target, inputs, rows, ids)
                return await self._run(call, caller, target, inputs, rows, ids, deadline_ms)
            except MovedError:
                continue  # not started: it is admitted anew under the routes of now
            except _GoOnAloneError as alone:
                deadline_ms = alone.deadline_ms

    async def _cached(
        self,
        cache: Cache,
        call: Call,
        caller: Caller,
        target: Target,
        inputs: Inputs,
        rows: int,
        ids: bytes,
    ) -> Result:
        """Answer from what is kept, or from the same request that runs already, or run it.

        A hit is metered under its own meter: `cache_hits` rows instead of `rows`, no compute.
        Raises as `_run`, and `_GoOnAloneError`.
        """
        stats = target.route.stats
        key = key_of(target.entry.version, inputs)
        outputs = cache.get(key)
        if outputs is None:
            running = cache.running(key)
            if running is None:
                stats.cache_misses += 1
                return await self._lead(cache, key, call, caller, target, inputs, rows, ids)
            outputs = await self._follow(running, call, caller, target, ids)
        self._record(caller, target, ids, call.protocol, "ok", 0, 0, cache_hits=rows)
        self.counters.changes += 1
        stats.cache_hits += 1
        return Result(target, list(outputs), rows, cached=True)

    async def _lead(
        self,
        cache: Cache,
        key: bytes,
        call: Call,
        caller: Caller,
        target: Target,
        inputs: Inputs,
        rows: int,
        ids: bytes,
    ) -> Result:
        """Run a request whose answer is kept, also for those that wait for it."""
        running = cache.begin(key)
        outputs = None
        try:
            result = await self._run(call, caller, target, inputs, rows, ids)
            outputs = result.outputs
        finally:
            cache.end(key, running, outputs)
        return Result(target, outputs, rows, cached=False)

    async def _follow(
        self,
        running: asyncio.Future[Any],
        call: Call,
        caller: Caller,
        target: Target,
        ids: bytes,
    ) -> Any:
        """The outputs of the same request, waited for until our own deadline."""
        counters, stats = self.counters, target.route.stats
        timeout_ms = target.route.deployment.timeout_ms
        deadline_ms = now_ms() + timeout_ms
        began = counters.begin(stats)
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                # Shielded: who gives up takes nobody else along.
                outputs = await asyncio.shield(running)
        except TimeoutError:
            error = late()
            counters.end(stats, target.stats, began, 0, None, error.code)
            self._record_failure(caller, target, ids, call.protocol, 0, error)
            raise error from None
        except asyncio.CancelledError as gone:
            counters.end(stats, target.stats, began, 0, None, Code.CANCELLED)
            self._record_failure(caller, target, ids, call.protocol, 0, gone)
            raise
        counters.leave(stats, began)
        if outputs is None:
            raise _GoOnAloneError(deadline_ms)
        return outputs

    async def _run(
        self,
        call: Call,
        caller: Caller,
        target: Target,
        inputs: Inputs,
        rows: int,
        ids: bytes,
        deadline_ms: int | None = None,
    ) -> Result:
        """From admission to the record. Raises `MovedError` for what was not started."""
        counters, route = self.counters, target.route
        flight = Flight(
            ids,
            deadline_ms or now_ms() + route.deployment.timeout_ms,
            inputs,
            sum([array.nbytes for _, array in inputs]),
            asyncio.get_running_loop().create_future(),
            flow=caller.tenant,
        )
        try:
            target.pool.submit(flight)
        except MeuseError as error:
            self._refused(route, error)
            raise
        began = counters.begin(route.stats)
        answer: Answer | None = None
        try:
            answer = await flight.future
            outputs = _in_order(target, answer)
            # A model may merge rows, but what was asked is what is counted.
            self._record(caller, target, ids, call.protocol, "ok", rows, answer.compute_us)
        except MovedError:
            counters.leave(route.stats, began)
            raise
        except BaseException as error:
            work = error if isinstance(error, FailedError) else answer
            code = error.code if isinstance(error, MeuseError) else Code.CANCELLED
            counters.end(route.stats, target.stats, began, 0, work, code)
            spent_us = work.compute_us if work is not None else 0
            self._record_failure(caller, target, ids, call.protocol, spent_us, error)
            raise
        counters.end(route.stats, target.stats, began, rows, answer, None)
        if route.shadow is not None:
            self._mirror.show(target, call.protocol, inputs, outputs, rows)
        return Result(target, outputs, rows)

    def _refused(self, route: Route, error: MeuseError) -> None:
        """Before admission: no record, but it is counted."""
        code = str(error.code)
        self.counters.changes += 1
        route.stats.refused[code] = route.stats.refused.get(code, 0) + 1

    def _record_failure(
        self,
        caller: Caller,
        target: Target,
        ids: bytes,
        protocol: str,
        compute_us: int,
        error: BaseException,
    ) -> None:
        """No row was produced, but the engine may have worked."""
        try:
            self._record(caller, target, ids, protocol, "error", 0, compute_us)
        except MeuseError:
            # The caller gets an error either way; the first one tells more.
            logger.error("no usage record for a request that failed: %r", error)

    def _record(
        self,
        caller: Caller,
        target: Target,
        ids: bytes,
        protocol: str,
        status: str,
        rows: int,
        compute_us: int,
        cache_hits: int = 0,
    ) -> None:
        quantities = {"requests": 1, "rows": rows, "compute_ms": -(-compute_us // 1000)}
        if cache_hits:
            quantities["cache_hits"] = cache_hits
        self._append(
            UsageRecord(
                id=ids,
                seq=0,
                final=True,
                source="gateway",
                tenant=caller.tenant,
                owner=target.route.deployment.tenant,
                project=caller.project,
                key=caller.key,
                deployment=target.route.full_name,
                version=target.entry.version,
                plan_version=caller.plan_version,
                tier="standard",
                protocol=protocol,
                status=status,  # type: ignore[arg-type]  # one of two literals
                ts=now_ms(),
                lease=None,
                quantities=quantities,
            )
        )

    def _record_internal(
        self, shadow: Target, ids: bytes, protocol: str, status: str, rows: int, compute_us: int
    ) -> None:
        """What a shadow cost: its owner pays, and no key asked for it."""
        deployment = shadow.route.deployment
        tenant = self._routes.snapshot.tenants.get(deployment.tenant)
        self._append(
            UsageRecord(
                id=ids,
                seq=0,
                final=True,
                source="gateway",
                tenant=deployment.tenant,
                owner=deployment.tenant,
                project=deployment.project,
                key="",
                deployment=shadow.route.full_name,
                version=shadow.entry.version,
                plan_version=tenant.plan_version if tenant else None,
                tier="internal",
                protocol=protocol,
                status=status,  # type: ignore[arg-type]  # one of two literals
                ts=now_ms(),
                lease=None,
                quantities={"requests": 1, "rows": rows, "compute_ms": -(-compute_us // 1000)},
            )
        )

    def _append(self, record: UsageRecord) -> None:
        try:
            self._journal.append(record)
            self.recorded += 1
        except (OSError, RecordError, ValueError) as error:
            logger.error("the usage journal refuses records: %s", error)
            raise MeuseError(
                Code.UNAVAILABLE, "usage cannot be recorded", hint="Try again later."
            ) from error


def _in_order(target: Target, answer: Answer) -> list[tuple[str, NDArray[Any]]]:
    """Outputs as the target declares them. A replica that gives others is at fault."""
    names = [name for name, _ in answer.outputs]
    if names == list(target.outputs):
        return answer.outputs
    given = dict(answer.outputs)
    try:
        return [(name, given[name]) for name in target.outputs]
    except KeyError as missing:
        raise MeuseError(Code.ENGINE_ERROR, f"the model gave no output {missing}") from None


def check(specs: tuple[TensorEntry, ...], by_name: dict[str, TensorEntry], inputs: Inputs) -> int:
    """The number of rows of inputs that fit the signature. Raises `invalid_input`."""
    rows: int | None = None
    seen = set()
    for i, (name, array) in enumerate(inputs):
        spec = by_name.get(name)
        if spec is None:
            expected = ", ".join(by_name)
            raise _bad(f"inputs[{i}].name", f"the model has no input {name!r}", expected)
        if name in seen:
            raise _bad(f"inputs[{i}].name", f"input {name!r} is given twice")
        seen.add(name)
        datatype, shape = DATATYPES[array.dtype], array.shape
        if datatype != spec.datatype:
            raise _bad(f"inputs[{i}].datatype", f"got {datatype} for {name!r}", spec.datatype)
        wanted = spec.shape
        if len(shape) != len(wanted) or any(
            w not in (-1, g) for w, g in zip(wanted, shape, strict=True)
        ):
            raise _bad(f"inputs[{i}].shape", f"got {list(shape)} for {name!r}", str(list(wanted)))
        if shape:
            if shape[0] < 1:
                raise _bad(f"inputs[{i}].shape", f"input {name!r} has no rows", "at least one row")
            if rows is not None and shape[0] != rows:
                raise _bad(
                    f"inputs[{i}].shape", f"{shape[0]} rows of {name!r}", f"{rows} as before it"
                )
            rows = shape[0]
    if len(seen) != len(specs):
        missing = [name for name in by_name if name not in seen]
        raise _bad("inputs", f"inputs are missing: {', '.join(missing)}")
    return rows or 1


def _bad(field: str, message: str, expected: str | None = None) -> MeuseError:
    hint = f"Expected: {expected}." if expected else None
    return MeuseError(Code.INVALID_INPUT, message, field=field, hint=hint)
