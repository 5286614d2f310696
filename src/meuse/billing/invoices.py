"""A tenant's period → an invoice: a draft while anything may still change, else issued.

Knows when an invoice may be issued and what it says; prices are `rating`'s, numbers and
immutability the store's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from meuse.billing.lines import Unpriced, amount_text
from meuse.billing.plans.calendar import Stint, months, stints, windows
from meuse.billing.ports import (
    Alarm,
    Invoice,
    InvoiceDraft,
    InvoiceStore,
    LedgerStore,
    Plans,
    RollupRow,
    Tenants,
)
from meuse.billing.rating import Rating
from meuse.billing.statement import as_under, assess, what_if
from meuse.core.clock import Clock, now_ms, parse_period, to_rfc3339
from meuse.core.errors import Code, MeuseError, not_found
from meuse.core.nouns import PlanVersion, Tenant

SETTLE_MS = 1_000
"""A record is stamped right before it is journaled; this long it may be under way."""

NO_CURRENCY = "XXX"
"""ISO 4217's code for "none": a draft whose usage has no plan, for a tenant without one."""


def make_invoice(
    store: InvoiceStore,
    plans: Plans,
    tenants: Tenants,
    *,
    tenant: str,
    period: object,
    complete_to_ms: int,
    issue: bool = True,
    unrated_as: str | None = None,
    clock: Clock = now_ms,
) -> tuple[Invoice, bool]:
    """(invoice, whether it is new). `period` is "2026-11" or {"from": …, "to": …}.

    A draft when the period is open, not wholly ingested (`complete_to_ms`) or has unrated
    usage: the body's `draft_because` says which. Otherwise issued with the next number, from
    then on unchanging: asking again returns the same. Without `issue` it is a preview: a
    draft without an id, of which nothing is stored, not even an alarm; a period that is issued
    gives its invoice all the same. A draft is rated anew each time; with `unrated_as`, a plan
    version such as `basic:2`, usage that has no price is rated by that, and the body says so.
    Raises `not_found` for the tenant or that plan,
    `conflict` without plan and usage, for two currencies, and for a part of the period that is
    invoiced already, `invalid_field` for bounds inside a quarter of an hour.
    """
    start, end = parse_period(period)
    payer = tenants.tenant(tenant)
    now = clock()

    calendar = _calendar(tenant, tenants, plans, start, end)
    remedy = None if unrated_as is None else _known_plan(unrated_as, plans)

    def build(rows: Sequence[RollupRow]) -> InvoiceDraft:
        known = _plans_of(rows, plans)
        if remedy is not None:
            rows = as_under(rows, remedy, only=known)
            known[remedy.ref] = remedy
        rating = assess(rows, known, calendar, start, end)
        current = _current_plan(payer, plans)
        if current is None and not any(row.from_ms >= start for row in rows):
            raise MeuseError(
                Code.CONFLICT,
                f"tenant {tenant!r} has no plan and no usage in this period",
                field="tenant",
                hint=f'Put a plan on the tenant: PUT /api/tenants/{tenant} {{"plan": …}}.',
            )
        currency = rating.currency or (current.currency if current else NO_CURRENCY)
        because = _draft_because(now, end, complete_to_ms, rating)
        if not issue:
            because.append("it was not asked to be issued")
        body = _body(tenant, (start, end), rating, currency)
        if remedy is not None:
            body["unrated_as"] = remedy.ref
        body |= {"draft_because": because, "complete_to": to_rfc3339(complete_to_ms)}
        alarms = tuple(_unrated(tenant, start, end, missing) for missing in rating.unrated)
        return InvoiceDraft(currency, body["total"], body, not because, alarms)

    return store.put_invoice(tenant, start, end, build, windows=windows(start, end), keep=issue)


def preview_plan(
    store: LedgerStore,
    plans: Plans,
    tenants: Tenants,
    *,
    tenant: str,
    period: object,
    plan: str,
) -> dict[str, Any]:
    """What a period would have come to under a plan ("basic" or "basic:2"), beside what it came
    to: {tenant, plan, period, actual, what_if, difference}. Nothing is stored.

    `difference` is the one total less the other; None when they are in two currencies. Raises
    `not_found` for the tenant or the plan, else as `make_invoice`.
    """
    start, end = parse_period(period)
    payer = tenants.tenant(tenant)
    wanted = _known_plan(plan, plans)
    rows = store.rollup_rows(tenant, start, end, windows=windows(start, end))
    calendar = _calendar(tenant, tenants, plans, start, end)
    current = _current_plan(payer, plans)
    actual = assess(rows, _plans_of(rows, plans), calendar, start, end)
    other = what_if(rows, wanted, start, end)
    paid_in = actual.currency or (current.currency if current else wanted.currency)
    same = paid_in == wanted.currency
    return {
        "tenant": tenant,
        "plan": wanted.ref,
        "period": {"from": to_rfc3339(start), "to": to_rfc3339(end)},
        "actual": _sum(actual, paid_in),
        "what_if": _sum(other, wanted.currency),
        "difference": amount_text(other.total - actual.total, paid_in) if same else None,
    }


def _draft_because(now: int, end: int, complete_to: int, rating: Rating) -> list[str]:
    """Why this cannot be issued yet; empty when it can."""
    reasons = {
        "the period is still open": now < end,
        "not all usage of the period is ingested yet": complete_to < end + SETTLE_MS,
        "some usage is unrated": bool(rating.unrated),
    }
    return [reason for reason, holds in reasons.items() if holds]


def _body(tenant: str, period: tuple[int, int], rating: Rating, currency: str) -> dict[str, Any]:
    head = {
        "tenant": tenant,
        "period": {"from": to_rfc3339(period[0]), "to": to_rfc3339(period[1])},
    }
    return head | _sum(rating, currency)


def _sum(rating: Rating, currency: str) -> dict[str, Any]:
    return {
        "currency": currency,
        "lines": [line.to_dict() for line in rating.lines],
        "total": amount_text(rating.total, currency),
        "unrated": [missing.to_dict() for missing in rating.unrated],
    }


def _unrated(tenant: str, start: int, end: int, missing: Unpriced) -> Alarm:
    detail = missing.to_dict() | {"from": to_rfc3339(start), "to": to_rfc3339(end)}
    key = (
        tenant,
        str(start),
        str(end),
        missing.model,
        missing.meter,
        missing.plan or "",
        *([missing.tier] if missing.tier != "standard" else []),
    )
    return Alarm("unrated_usage", detail, "unrated:" + ":".join(key), tenant)


def _calendar(
    tenant: str, tenants: Tenants, plans: Plans, start: int, end: int
) -> tuple[Stint, ...]:
    begin = months(start, end)[0].start_ms
    return stints(tenants.plan_changes(tenant), plans.versions, begin, end)


def _plans_of(rows: Iterable[RollupRow], plans: Plans) -> dict[str, PlanVersion]:
    found: dict[str, PlanVersion] = {}
    for ref in {row.plan_version for row in rows if row.plan_version}:
        plan = _plan(ref, plans)
        if plan is not None:
            found[ref] = plan
    return found


def _current_plan(tenant: Tenant, plans: Plans) -> PlanVersion | None:
    return None if tenant.plan is None else _plan(tenant.plan, plans)


def _known_plan(ref: str, plans: Plans) -> PlanVersion:
    plan = _plan(ref, plans)
    if plan is None:
        raise not_found("plan", ref, "Make it with PUT /api/plans/{name}.")
    return plan


def _plan(ref: str, plans: Plans) -> PlanVersion | None:
    """A plan by `name:version`, or the latest by `name`; None when there is none."""
    name, _, version = ref.partition(":")
    if version and not version.isdecimal():
        return None
    try:
        return plans.plan(name, int(version) if version else None)
    except MeuseError as error:
        if error.code is Code.NOT_FOUND:
            return None
        raise
