"""The one function beneath all inference protocols: who, where, what, run, record, answer.

Works on memory and one local append: no database, no lock, no wait but for the replica. A
request is admitted when its key, its target and its inputs are good and there is room for it;
from then on exactly one usage record is written, before the first byte of the answer. Knows
no protocol.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from meuse.core.clock import now_ms
from meuse.core.errors import Code, MeuseError
from meuse.core.ids import uuid7_bytes
from meuse.gateway.counters import Counters
from meuse.gateway.link import Answer, FailedError, Flight
from meuse.gateway.links import Links, MovedError
from meuse.gateway.routes import Caller, Route, Routes, Target
from meuse.gateway.statistics import Statistics, of_target
from meuse.meter.cells import BusyError
from meuse.meter.limits import Grant, Limits
from meuse.meter.record import RecordError, UsageRecord
from meuse.serve.frames import DATATYPES, HIGH, NORMAL, size_of
from meuse.serve.snapshot import EMPTY, Snapshot, TensorEntry

if TYPE_CHECKING:
    from meuse.gateway.observe import Observation, Observer

logger = logging.getLogger(__name__)

_BUSY_S = (0.002, 0.01, 0.05, 0.2)
"""Waits for the limits file before a request is refused as busy; the loop serves meanwhile."""

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
    timeout_ms: int | None = None
    """What the caller is willing to wait, at most; the deployment's own holds as well."""
    priority: int = NORMAL


@dataclass(frozen=True, slots=True)
class Result:
    """What came out, in the order of the target's outputs."""

    target: Target
    outputs: list[tuple[str, NDArray[Any]]]
    rows: int


class Work:
    """One call under way. `outcome` is None until it is answered, `flight` until it is admitted."""

    __slots__ = (
        "began", "call", "caller", "done", "flight", "grant", "id", "outcome", "pauses", "rows",
        "seen", "target",
    )  # fmt: skip

    caller: Caller
    target: Target
    began: float

    def __init__(self, call: Call, done: Callable[[Work], None]) -> None:
        self.call = call
        self.done = done
        self.id = uuid7_bytes()
        self.rows = 0
        self.pauses = 0
        self.seen: Observation | None = None
        self.grant: Grant | None = None
        self.flight: Flight | None = None
        self.outcome: Result | MeuseError | None = None

    def result(self) -> Result:
        """What came out. Raises `MeuseError`."""
        if isinstance(self.outcome, Result):
            return self.outcome
        assert self.outcome is not None
        raise self.outcome


class DataPlane:
    """Routes, links, limits and the journal of one worker."""

    def __init__(
        self, links: Links, journal: Journal, limits: Limits, counters: Counters, pepper: bytes
    ) -> None:
        self._links = links
        self._journal = journal
        self._limits = limits
        self.counters = counters
        self._pepper = pepper
        self._routes = Routes(EMPTY, pepper, links.pool, counters)
        self.observer: Observer | None = None
        self.recorded = 0
        """How many records were appended: whether there is anything to sync."""

    @property
    def snapshot_number(self) -> int:
        return self._routes.snapshot.number

    @property
    def is_ready(self) -> bool:
        """Whether this worker takes requests: it has a snapshot.

        A worker that drains still does: while it is replaced the platform is ready.
        """
        return self._routes.snapshot.number > 0

    def swap(self, snapshot: Snapshot) -> None:
        """From now on everything follows this snapshot; what is in flight goes on."""
        self._links.update(snapshot)
        self._routes = Routes(snapshot, self._pepper, self._links.pool, self.counters)
        self._limits.load(snapshot.limits, snapshot.number)
        self._links.leave_old()
        self.counters.follow(snapshot)

    def connected(self) -> dict[tuple[str, str], int]:
        """This worker's connected replicas by deployment and version."""
        return self._links.connected()

    def authenticate(self, authorization: bytes | None, scope: str) -> Caller:
        """The caller. Raises `unauthenticated` or `forbidden`."""
        caller = self._routes.authenticate(authorization)
        caller.require(scope)
        return caller

    def describe(self, caller: Caller, model: str, version: str | None) -> Target:
        """The target that metadata and readiness are about."""
        return self._routes.find(caller, model).main(version)

    def route(self, caller: Caller, model: str) -> Route:
        """The deployment that a name means to this caller. Raises `not_found`."""
        return self._routes.find(caller, model)

    def visible(self, caller: Caller) -> dict[str, Route]:
        """Every deployment that the caller may call, by the name that it would use."""
        return self._routes.visible(caller)

    def statistics(self, route: Route) -> list[tuple[str, Statistics]]:
        """What the targets of a deployment have done, by label, in their order."""
        slots = self.counters.slots()
        return [
            (t.label, of_target(slots, route.full_name, t.entry.version)) for t in route.targets
        ]

    async def infer(self, call: Call) -> Result:
        """Answer one call. Raises `MeuseError`."""
        ready = asyncio.get_running_loop().create_future()

        def wake(_: Work) -> None:
            if not ready.done():
                ready.set_result(None)

        work = self.start(call, wake)
        try:
            await ready
        except asyncio.CancelledError:
            self.abandon(work)
            raise
        return work.result()

    def start(self, call: Call, done: Callable[[Work], None]) -> Work:
        """Admit one call and send it on its way; `done` is called when it is answered.

        Raises `MeuseError` for what is not admitted; then `done` is not called.
        """
        work = Work(call, done)
        if self.observer is not None:
            work.seen = self.observer.current()
        try:
            self._admit(work)
        except BusyError:
            self._admit_later(work)
        return work

    def abandon(self, work: Work) -> None:
        """The caller has gone: stop what can be stopped, record what was admitted."""
        if work.outcome is not None:
            return
        gone = MeuseError(Code.CANCELLED, "the caller has gone")
        if work.flight is None:
            work.outcome = gone
        else:
            work.flight.abandon()
            self._end(work, gone, None)

    def _admit(self, work: Work) -> None:
        """Raises `MeuseError`, and then nothing is held."""
        call = work.call
        # Again, not only at the door: reading a body takes time, and keys get revoked.
        caller = self.authenticate(call.caller.authorization, "infer")
        route = self._routes.find(caller, call.model)
        try:
            target = route.choose(call.version)
            inputs = call.read(target)
            work.rows = check(target.entry.inputs, target.input_at, inputs)
            work.caller, work.target = caller, target
            timeout_ms = route.deployment.timeout_ms
            if call.timeout_ms is not None:
                timeout_ms = min(timeout_ms, call.timeout_ms)
            flight = Flight(
                work.id,
                now_ms() + timeout_ms,
                inputs,
                sum([size_of(array) for _, array in inputs]),
                functools.partial(self._answered, work),
                _priority(call, caller, target),
                caller.tenant,
            )
            self._reserve(work)
            try:
                target.pool.submit(flight)
            except MeuseError:
                self._release(work)
                raise
        except MeuseError as error:
            if not isinstance(error, BusyError) or work.pauses == len(_BUSY_S):
                self._refused(work, route, error)
            raise
        work.flight = flight
        work.began = self.counters.begin(route.stats)

    def _admit_later(self, work: Work) -> None:
        """Another worker was taken off its core while it held the limits: the loop goes on."""
        asyncio.get_running_loop().call_later(_BUSY_S[work.pauses], self._admit_again, work)
        work.pauses += 1

    def _admit_again(self, work: Work) -> None:
        if work.outcome is not None:  # the caller has gone meanwhile
            return
        try:
            self._admit(work)
        except BusyError as error:
            if work.pauses < len(_BUSY_S):
                self._admit_later(work)
                return
            work.outcome = error
            work.done(work)
        except MeuseError as error:
            work.outcome = error
            work.done(work)

    def _reserve(self, work: Work) -> None:
        """Room under every limit that the caller meets here; no grant where there is none."""
        caller, route = work.caller, work.target.route
        try:
            plan = caller.limits[route]
        except KeyError:
            plan = self._limits.plan(caller.tenant, caller.project, caller.key, route.full_name)
            caller.limits[route] = plan
        if plan is not None:
            work.grant = self._limits.admit(plan, {"requests": 1, "rows": work.rows})

    def _release(self, work: Work) -> None:
        if work.grant is not None:
            self._limits.release(work.grant)
            work.grant = None

    def _answered(self, work: Work, outcome: Answer | Exception) -> None:
        if work.outcome is not None:  # abandoned between its failure and now
            return
        try:
            if isinstance(outcome, Answer):
                target = work.target
                outputs = _in_order(target, outcome)
                # A model may merge rows, but what was asked is what is counted.
                self._record(work, "ok", work.rows, outcome.compute_us)
                self._end(work, Result(target, outputs, work.rows), outcome)
            elif isinstance(outcome, MovedError):
                # Not started: it is admitted anew under the routes of now.
                self.counters.leave(work.target.route.stats, work.began)
                self._release(work)
                work.flight = None
                self._admit_again(work)
                return
            else:
                raise outcome
        except FailedError as error:
            self._end(work, error, error)
        except MeuseError as error:
            self._end(work, error, outcome if isinstance(outcome, Answer) else None)
        except Exception:
            logger.exception("an answer could not be taken")
            ours = MeuseError(Code.INTERNAL, "something went wrong on our side")
            self._end(work, ours, None)
        work.done(work)

    def _end(
        self, work: Work, outcome: Result | MeuseError, paid: Answer | FailedError | None
    ) -> None:
        """Count it; a failure is recorded with what the engine spent on it all the same."""
        work.outcome = outcome
        target, code = work.target, None
        rows = work.rows
        if isinstance(outcome, MeuseError):
            code, rows = outcome.code, 0
            outcome.is_counted = True
            try:
                self._record(work, "error", 0, paid.compute_us if paid is not None else 0)
            except MeuseError:
                # The caller gets an error either way; the first one tells more.
                logger.error("no usage record for a request that failed: %r", outcome)
        self.counters.end(target.route.stats, target.stats, work.began, rows, paid, code)
        if work.seen is not None:
            work.seen.ran(target.route.full_name, target.entry.version, rows, paid, code)

    def _refused(self, work: Work, route: Route, error: MeuseError) -> None:
        """Before admission: no record, but it is counted."""
        self.counters.refused(error, route.stats)
        if work.seen is not None:
            work.seen.refused(route.full_name, error.code)

    def _record(self, work: Work, status: str, rows: int, compute_us: int) -> None:
        caller, target = work.caller, work.target
        record = UsageRecord(
            id=work.id,
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
            protocol=work.call.protocol,
            status=status,  # type: ignore[arg-type]  # one of two literals
            ts=now_ms(),
            lease=None,
            quantities={"requests": 1, "rows": rows, "compute_ms": -(-compute_us // 1000)},
        )
        if work.grant is not None:
            # First: a death in between must not give back what a record says was used.
            self._limits.settle(work.grant, record.quantities)
        try:
            self._journal.append(record)
            self.recorded += 1
        except (OSError, RecordError, ValueError) as error:
            logger.error("the usage journal refuses records: %s", error)
            raise MeuseError(
                Code.UNAVAILABLE, "usage cannot be recorded", hint="Try again later."
            ) from error


def _priority(call: Call, caller: Caller, target: Target) -> int:
    """As asked; before all others only on what is one's own."""
    if call.priority == HIGH and caller.tenant != target.route.deployment.tenant:
        return NORMAL
    return call.priority


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
