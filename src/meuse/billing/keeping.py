"""The ledger's API of usage itself: events from outside, the journal's state, the recount.

Control has authorised the call, and says who calls: this checks shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from meuse.billing import events
from meuse.billing.events import EventsError, Reporter
from meuse.billing.ingest import Ingester
from meuse.billing.invoice_ports import Alarm
from meuse.billing.plans.calendar import stints
from meuse.billing.ports import Plans, Tenants
from meuse.core.clock import Clock, bucket_start, from_rfc3339, to_rfc3339
from meuse.core.errors import Code, MeuseError, invalid

MOST_RECOUNTED_MS = 92 * 86_400_000
_MOST_TOLD = 100


class Reported(Protocol):
    """What became of the events of a request, by their places in it."""

    @property
    def accepted(self) -> Sequence[int]: ...
    @property
    def duplicates(self) -> Sequence[int]: ...
    @property
    def conflicts(self) -> tuple[int, ...]: ...
    @property
    def late(self) -> Sequence[tuple[int, int]]: ...


class EventSink(Protocol):
    def report(self, events: Sequence[Any]) -> Reported:
        """Take what is new, all in one transaction; nothing where some conflict."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """The parts. `recount(from, to)` counts raw records again; `archived` says how much has left
    the database; `writers` how the gateway's workers stand; `alarm` raises one."""

    events: EventSink
    ingester: Ingester
    plans: Plans
    tenants: Tenants
    recount: Callable[[int, int], dict[str, Any]]
    archived: Callable[[], dict[str, Any]]
    writers: Callable[[], list[dict[str, Any]]]
    alarm: Callable[[Alarm], None]
    clock: Clock


def routes(keeping: Keeping) -> list[Route]:
    """`POST /events`, `GET /journal`, `POST /recount`."""

    async def report(request: Request) -> Response:
        body = await request.body()
        query = request.query_params
        by = Reporter(query["tenant"], query["project"], query["key"], query["all"] == "1")
        return await run_in_threadpool(_report, keeping, body, query["batched"] == "1", by)

    async def recount(request: Request) -> Response:
        start, end = _span(await request.body())
        return await run_in_threadpool(_recount, keeping, start, end)

    def journal(_request: Request) -> Response:
        return _json(standing(keeping))

    return [
        Route("/events", report, methods=["POST"]),
        Route("/recount", recount, methods=["POST"]),
        Route("/journal", journal, methods=["GET"]),
    ]


def standing(keeping: Keeping) -> dict[str, Any]:
    """How usage stands on its way: {complete_to, segments, behind_bytes, quarantined, writers,
    archive}."""
    complete_to = keeping.ingester.complete_to_ms
    return {
        "complete_to": to_rfc3339(complete_to) if complete_to else None,
        **keeping.ingester.standing(),
        "writers": keeping.writers(),
        "archive": keeping.archived(),
    }


def plan_at(plans: Plans, tenants: Tenants, tenant: str, ts_ms: int) -> str | None:
    """The plan version that a tenant had at a moment, "basic:3"; None: none."""
    changes = tenants.plan_changes(tenant)
    found = stints(changes, plans.versions, bucket_start(ts_ms), ts_ms + 1)
    return next((s.plan.ref for s in found if s.start_ms <= ts_ms < s.end_ms), None)


def _report(keeping: Keeping, body: bytes, batched: bool, by: Reporter) -> Response:
    try:
        found = events.read(
            body, batched, by, keeping.clock(), lambda name: _is_tenant(keeping, name)
        )
        rated = [
            events.rated_by(
                one, plan_at(keeping.plans, keeping.tenants, one.record.tenant, one.record.ts)
            )
            for one in found
        ]
        done = keeping.events.report(rated)
        if done.conflicts:
            raise events.conflict(found, done.conflicts)
    except EventsError as error:
        told = [fault.to_dict() for fault in error.faults[:_MOST_TOLD]]
        return _json({"error": error.to_dict(), "events": told}, error.http_status)
    late = [
        {
            "index": index,
            "id": found[index].event_id,
            "time": to_rfc3339(found[index].record.ts),
            "billed_in": to_rfc3339(bucket),
        }
        for index, bucket in done.late
    ]
    return _json({"accepted": len(done.accepted), "duplicates": len(done.duplicates), "late": late})


def _is_tenant(keeping: Keeping, name: str) -> bool:
    try:
        keeping.tenants.tenant(name)
    except MeuseError as error:
        if error.code is not Code.NOT_FOUND:
            raise
        return False
    return True


def _recount(keeping: Keeping, start: int, end: int) -> Response:
    keeping.ingester.run_once()
    report = keeping.recount(start, end)
    span = {"from": to_rfc3339(start), "to": to_rfc3339(end)}
    for row in report["differences"]:
        row["from"] = to_rfc3339(row.pop("bucket_ms"))
    if report["n_differences"] or report["daily_differences"]:
        first = report["differences"][0] if report["differences"] else None
        key = ":".join(str(value) for value in (first or span).values())
        counts = {name: report[name] for name in ("n_differences", "daily_differences")}
        keeping.alarm(Alarm("rollup_differs", {**span, **counts, "first": first}, f"recount:{key}"))
    return _json({**span, **report})


def _span(body: bytes) -> tuple[int, int]:
    try:
        asked = msgspec.json.decode(body, type=dict[str, str])
    except msgspec.MsgspecError as error:
        raise MeuseError(Code.INVALID_REQUEST, str(error), hint="Send {from, to}.") from None
    if set(asked) != {"from", "to"}:
        raise invalid("from", "from and to are needed, and nothing else", "Use RFC 3339.")
    start, end = from_rfc3339(asked["from"], "from"), from_rfc3339(asked["to"], "to")
    for field, bound in (("from", start), ("to", end)):
        if bound != bucket_start(bound):
            raise invalid(field, f"{asked[field]!r} is not on a quarter of an hour")
    if not start < end <= start + MOST_RECOUNTED_MS:
        raise invalid("to", "`to` must lie after `from`, by 92 days at most")
    return start, end


def _json(body: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")
