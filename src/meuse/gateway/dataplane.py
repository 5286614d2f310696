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
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from meuse.core.clock import now_ms
from meuse.core.errors import Code, MeuseError
from meuse.core.ids import uuid7_bytes
from meuse.core.prices import Prices
from meuse.gateway.batches import TIER, record_id
from meuse.gateway.cache import Cache, Caches, Tensors, key_of
from meuse.gateway.counters import Counters
from meuse.gateway.durability import Durability
from meuse.gateway.link import Answer, FailedError, Flight
from meuse.gateway.links import Links, MovedError, late
from meuse.gateway.mirror import Mirror
from meuse.gateway.routes import Caller, Headers, Route, Routes, Target
from meuse.gateway.signature import Inputs, check, in_order
from meuse.gateway.statistics import Statistics, of_target
from meuse.gateway.usage import Journal, Status, Usage, work_of
from meuse.meter.cells import BusyError
from meuse.meter.checks import Grant, Plan, Standing
from meuse.meter.limits import Limits
from meuse.serve.frames import HIGH, NORMAL, size_of
from meuse.serve.snapshot import EMPTY, Snapshot, TargetEntry

if TYPE_CHECKING:
    from meuse.gateway.generation import Generation
    from meuse.gateway.observe import Observation, Observer

logger = logging.getLogger(__name__)

TOKENS = "tokens"
"""The output that counts them."""

_BUSY_S = (0.002, 0.01, 0.05, 0.2)
"""Waits for the limits file before a request is refused as busy; the loop serves meanwhile."""


def _good(_: Tensors) -> None:
    """Most inputs are judged before they run."""


@dataclass(slots=True)
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
    headers: Headers = ()
    most_tokens: int = 0
    """What its texts have at most, where the answer counts them; 0: they are no quantity of it."""
    judge: Callable[[Tensors], MeuseError | None] = _good
    """Why the inputs should not have been taken, where the outputs say so."""


@dataclass(slots=True)
class Result:
    """What came out, in the order of the target's outputs."""

    target: Target
    outputs: list[tuple[str, NDArray[Any]]]
    rows: int
    cached: bool | None = None  # None: the deployment has no cache


class Work:
    """One call under way. `outcome` is None until it is answered, `flight` until it is admitted.

    Where responses are kept it `leads` those who ask the same under this key, or waits for one
    that does until `timer`; if that one fails it goes on `until_ms`.
    """

    __slots__ = (
        "began", "call", "caller", "done", "flight", "grant", "id", "leads", "outcome", "pauses",
        "rows", "seen", "target", "timer", "until_ms",
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
        self.leads: bytes | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.until_ms = 0

    def result(self) -> Result:
        """What came out. Raises `MeuseError`."""
        if isinstance(self.outcome, Result):
            return self.outcome
        assert self.outcome is not None
        raise self.outcome


class DataPlane:
    """Routes, links, limits and the journal of one worker."""

    def __init__(
        self,
        links: Links,
        journal: Journal,
        limits: Limits,
        counters: Counters,
        pepper: bytes,
        durability: Durability | None = None,
    ) -> None:
        self._links = links
        self.limits = limits
        self.counters = counters
        self._pepper = pepper
        self._routes = Routes(EMPTY, pepper, links.pool, counters)
        self._caches = Caches()
        self.usage = Usage(journal, limits, durability)
        self.commits = self.usage.durability.commits
        """Who waits until records are on the disk; None where nobody does."""
        self._mirror = Mirror(counters, self._record_internal)
        self.observer: Observer | None = None
        self.texts: set[Generation] = set()
        """Texts that are being produced."""
        self.is_ending = False
        """Streams end in their own time; other workers take what is new."""

    @property
    def recorded(self) -> int:
        """How many records were appended: whether there is anything to sync."""
        return self.usage.recorded

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
        self.limits.load(snapshot.limits, snapshot.number)
        self._caches.follow(snapshot.deployments.values())
        for route in self._routes:
            route.cache = self._caches.of(route.deployment)
        self._links.leave_old()
        self.counters.follow(snapshot)

    def end_texts(self) -> None:
        """Stop what produces text; each says so to its caller, and is charged so far."""
        for text in tuple(self.texts):
            text.leave(
                MeuseError(
                    Code.UNAVAILABLE, "the gateway ends before the answer does", hint="Ask again."
                )
            )

    def connected(self) -> dict[tuple[str, str], int]:
        """This worker's connected replicas by deployment and version."""
        return self._links.connected()

    def authenticate(self, authorization: bytes | None, scope: str) -> Caller:
        """The caller. Raises `unauthenticated` or `forbidden`."""
        caller = self._routes.authenticate(authorization)
        caller.require(scope)
        return caller

    def current(self, caller: Caller, scope: str) -> Caller:
        """The caller under the routes of now. Raises `unauthenticated` or `forbidden`."""
        if caller.snapshot != self._routes.snapshot.number:
            return self.authenticate(caller.authorization, scope)
        caller.require(scope)
        return caller

    def plan(self, caller: Caller, route: Route) -> Plan | None:
        """The limits that a caller meets at a deployment."""
        if route not in caller.limits:
            caller.limits[route] = self.limits.plan(
                caller.tenant,
                caller.project,
                caller.key,
                route.full_name,
                lambda: self._prices(caller, route),
            )
        return caller.limits[route]

    def _prices(self, caller: Caller, route: Route) -> Prices | None:
        """What budgets of money count for a caller at a deployment; None: it has no plan."""
        version = caller.plan_version
        table = self._routes.snapshot.prices.get(version or "")
        if version is None or table is None:
            return None
        return Prices(version, table, route.full_name, caller.tier)

    def standings(self, caller: Caller, model: str) -> list[Standing]:
        """How the limits stand that a caller meets at a model; none where there is no such."""
        try:
            name, _ = self.adapted(caller, model)
            plan = self.plan(caller, self._routes.find(caller, name))
        except MeuseError:
            return []
        return [] if plan is None else self.limits.standings(plan)

    def adapted(self, caller: Caller, model: str) -> tuple[str, str]:
        """The deployment and the adapter that a name means to this caller, "" for none: as
        `deployment:adapter`, where it has that one. Raises `not_found`."""
        name, colon, adapter = model.rpartition(":")
        if not colon:
            return model, ""
        for target in self._routes.find(caller, name).targets:
            entry = target.entry.generation
            if entry is not None and adapter in entry.loras:
                return name, adapter
        raise MeuseError(
            Code.NOT_FOUND, f"there is no model {model!r}", field="model",
            hint="GET /v1/models lists those that you may call.",
        )  # fmt: skip

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
        caller = call.caller
        if caller.snapshot != self._routes.snapshot.number:
            # Again, not only at the door: reading a body takes time, and keys get revoked.
            caller = self.authenticate(caller.authorization, "infer")
        caller.require("infer")
        route = self._routes.find(caller, call.model)
        try:
            target = route.choose(call.version, caller.key, call.headers)
            inputs = call.read(target)
            work.rows = check(target.entry.inputs, target.input_at, inputs)
            size = 0
            for _, array in inputs:
                size += size_of(array)
            work.caller, work.target = caller, target
            timeout_ms = route.deployment.timeout_ms
            if call.timeout_ms is not None:
                timeout_ms = min(timeout_ms, call.timeout_ms)
            flight = Flight(
                work.id,
                work.until_ms or now_ms() + timeout_ms,
                inputs,
                size,
                functools.partial(self._answered, work),
                _priority(call, caller, target),
                caller.tenant,
            )
            self._reserve(work, timeout_ms)
            cache = route.cache
            if cache is not None and not work.until_ms and self._kept(work, cache, flight):
                return
            try:
                target.pool.submit(flight)
            except MeuseError:
                self._release(work)
                if work.leads is not None:
                    self._led(work, None)
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

    def _reserve(self, work: Work, timeout_ms: int) -> None:
        """Room under every limit that the caller meets here; no grant where there is none."""
        caller, route = work.caller, work.target.route
        try:
            plan = caller.limits[route]
        except KeyError:
            plan = self.plan(caller, route)
        self.usage.durability.check(plan)
        if plan is not None:
            needs = {"requests": 1, "rows": work.rows}
            if plan.prices is not None:
                if plan.counts_time:  # the engine's time for it is within its own
                    needs["compute_ms"] = timeout_ms + 1
                if route.cache is not None:
                    needs["cache_hits"] = 0  # paid in place of rows, if at all
            if work.call.most_tokens and counts_tokens(work.target.entry):
                needs["prompt_tokens"] = work.call.most_tokens
            work.grant = self.limits.admit(plan, needs)

    def _release(self, work: Work) -> None:
        if work.grant is not None:
            self.limits.release(work.grant)
            work.grant = None

    def _kept(self, work: Work, cache: Cache, flight: Flight) -> bool:
        """Whether it is answered without a run of its own: by what is kept, or by the same
        request that runs already. Otherwise it leads those who will ask the same."""
        stats, loop = work.target.route.stats, asyncio.get_running_loop()
        key = key_of(work.target.entry.version, flight.inputs)
        outputs = cache.get(key)
        if outputs is not None:
            work.began = self.counters.begin(stats)
            self._hit(work, outputs)
            loop.call_soon(self._tell, work)
            return True
        if not cache.join(key, work):
            stats.cache_misses += 1
            work.leads = key
            return False
        work.flight = flight  # never sent: it holds the place and the deadline
        work.began = self.counters.begin(stats)
        left_s = max(flight.deadline_ms - now_ms(), 0) / 1000
        work.timer = loop.call_later(left_s, flight.fail, late())
        return True

    def _led(self, work: Work, outputs: Tensors | None) -> None:
        """The run of a leader has ended: tell those who waited, each in a turn of its own."""
        key, cache, work.leads = work.leads, work.target.route.cache, None
        assert key is not None
        assert cache is not None
        loop = asyncio.get_running_loop()
        for waiting in cache.end(key, outputs):
            loop.call_soon(self._followed, waiting, outputs)

    def _followed(self, work: Work, outputs: Tensors | None) -> None:
        flight = work.flight
        if flight is None or flight.outcome is not None:  # its caller has gone, or it is too late
            return
        if work.timer is not None:
            work.timer.cancel()
        flight.abandon()
        if outputs is not None:
            self._hit(work, outputs)
            self._tell(work)
            return
        # Each goes on by itself, until its own deadline.
        work.until_ms = flight.deadline_ms
        self.counters.leave(work.target.route.stats, work.began)
        self._release(work)
        work.flight = None
        self._admit_again(work)

    def _hit(self, work: Work, outputs: Tensors) -> None:
        """Answered from the cache, under a meter of its own: `cache_hits` rows, and no `rows`."""
        stats = work.target.route.stats
        refusal = work.call.judge(outputs)
        try:
            if refusal is not None:
                self._record(work, "error", work_of(0, 0))
                raise refusal
            hit = {**work_of(0, 0), "cache_hits": work.rows}
            self._record(work, "ok", hit)
            work.outcome = Result(work.target, list(outputs), work.rows, cached=True)
        except MeuseError as error:
            work.outcome = error
        self.counters.leave(stats, work.began)
        stats.cache_hits += 1

    def _answered(self, work: Work, outcome: Answer | Exception) -> None:
        if work.outcome is not None:  # abandoned between its failure and now
            return
        try:
            if isinstance(outcome, Answer):
                target = work.target
                outputs = in_order(target, outcome)
                if (refusal := work.call.judge(outputs)) is not None:
                    raise refusal
                # A model may merge rows, but what was asked is what is counted.
                used = work_of(work.rows, outcome.compute_us)
                if work.call.most_tokens and counts_tokens(target.entry):
                    used["prompt_tokens"] = int(dict(outputs)[TOKENS].sum())
                self._record(work, "ok", used)
                cached = None if target.route.cache is None else False
                self._end(work, Result(target, outputs, work.rows, cached), outcome)
            elif isinstance(outcome, MovedError):
                # Not started: it is admitted anew under the routes of now.
                if work.leads is not None:
                    self._led(work, None)
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
        self._tell(work)
        if work.target.route.shadow is not None:
            self._show(work)

    def _tell(self, work: Work) -> None:
        """Let the caller have its outcome; in `strict` once the record is on the disk."""
        if self.commits is None:
            work.done(work)
            return

        def then(failure: MeuseError | None) -> None:
            if failure is not None and isinstance(work.outcome, Result):
                work.outcome = failure
            work.done(work)

        self.commits.after(then)

    def _show(self, work: Work) -> None:
        """Ask the shadow the same, now that the caller has an answer."""
        given, flight = work.outcome, work.flight
        if isinstance(given, Result) and flight is not None:
            self._mirror.show(
                given.target, work.call.protocol, flight.inputs, given.outputs, given.rows
            )

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
                self._record(work, "error", work_of(0, paid.compute_us if paid else 0))
            except MeuseError:
                # The caller gets an error either way; the first one tells more.
                logger.error("no usage record for a request that failed: %r", outcome)
        self.counters.end(target.route.stats, target.stats, work.began, rows, paid, code)
        if work.seen is not None:
            work.seen.ran(target.route.full_name, target.entry.version, rows, paid, code)
        if work.leads is not None:
            self._led(work, None if isinstance(outcome, MeuseError) else outcome.outputs)
        if work.timer is not None:
            work.timer.cancel()

    def _refused(self, work: Work, route: Route, error: MeuseError) -> None:
        """Before admission: no record, but it is counted."""
        self.counters.refused(error, route.stats)
        if work.seen is not None:
            work.seen.refused(route.full_name, error.code)

    def _record(self, work: Work, status: Status, quantities: dict[str, int]) -> None:
        caller, call = work.caller, work.call
        id = work.id if caller.tier != TIER else record_id(caller, call.headers, work.id)
        self.usage.request(caller, work.target, call.protocol, id, status, quantities, work.grant)

    def _record_internal(
        self, shadow: Target, ids: bytes, protocol: str, status: Status, rows: int, compute_us: int
    ) -> None:
        """What a shadow cost."""
        tenant = self._routes.snapshot.tenants.get(shadow.route.deployment.tenant)
        plan = tenant.plan_version if tenant else None
        self.usage.internal(shadow, plan, protocol, ids, status, work_of(rows, compute_us))


def counts_tokens(target: TargetEntry) -> bool:
    """Whether its answers say how many tokens each text had."""
    return any(output.name == TOKENS for output in target.outputs)


def _priority(call: Call, caller: Caller, target: Target) -> int:
    """As asked; before all others only on what is one's own."""
    if call.priority == HIGH and caller.tenant != target.route.deployment.tenant:
        return NORMAL
    return call.priority
