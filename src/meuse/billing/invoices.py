"""A tenant's period → an invoice: a draft while anything may still change, else issued.

Knows when an invoice may be issued and what it says; prices are `rating`'s, numbers and
immutability the store's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from meuse.billing.ports import (
    Alarm,
    Invoice,
    InvoiceDraft,
    InvoiceStore,
    Plans,
    RollupRow,
    Tenants,
)
from meuse.billing.rating import Rating, Unpriced, amount_text, rate
from meuse.core.clock import Clock, now_ms, parse_period, to_rfc3339
from meuse.core.errors import Code, MeuseError
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
    clock: Clock = now_ms,
) -> tuple[Invoice, bool]:
    """(invoice, whether it is new). `period` is "2026-11" or {"from": …, "to": …}.

    A draft when the period is open, not wholly ingested (`complete_to_ms`) or has unrated
    usage: the body's `draft_because` says which. Otherwise issued with the next number, from
    then on unchanging: asking again returns the same. Without `issue` it is a preview: a
    draft without an id, of which nothing is stored, not even an alarm; a period that is issued
    gives its invoice all the same. Raises `not_found` for the tenant,
    `conflict` without plan and usage, for two currencies, and for a part of the period that is
    invoiced already, `invalid_field` for bounds inside a quarter of an hour.
    """
    start, end = parse_period(period)
    payer = tenants.tenant(tenant)
    now = clock()

    def build(rows: Sequence[RollupRow]) -> InvoiceDraft:
        rating = rate(rows, _plans_of(rows, plans))
        current = _current_plan(payer, plans)
        if not rows and current is None:
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
        body |= {"draft_because": because, "complete_to": to_rfc3339(complete_to_ms)}
        alarms = tuple(_unrated(tenant, start, end, missing) for missing in rating.unrated)
        return InvoiceDraft(currency, body["total"], body, not because, alarms)

    return store.put_invoice(tenant, start, end, build, keep=issue)


def _draft_because(now: int, end: int, complete_to: int, rating: Rating) -> list[str]:
    """Why this cannot be issued yet; empty when it can."""
    reasons = {
        "the period is still open": now < end,
        "not all usage of the period is ingested yet": complete_to < end + SETTLE_MS,
        "some usage is unrated": bool(rating.unrated),
    }
    return [reason for reason, holds in reasons.items() if holds]


def _body(tenant: str, period: tuple[int, int], rating: Rating, currency: str) -> dict[str, Any]:
    return {
        "tenant": tenant,
        "period": {"from": to_rfc3339(period[0]), "to": to_rfc3339(period[1])},
        "currency": currency,
        "lines": [line.to_dict() for line in rating.lines],
        "total": amount_text(rating.total, currency),
        "unrated": [missing.to_dict() for missing in rating.unrated],
    }


def _unrated(tenant: str, start: int, end: int, missing: Unpriced) -> Alarm:
    detail = missing.to_dict() | {"from": to_rfc3339(start), "to": to_rfc3339(end)}
    key = (tenant, str(start), str(end), missing.model, missing.meter, missing.plan or "")
    return Alarm("unrated_usage", detail, "unrated:" + ":".join(key), tenant)


def _plans_of(rows: Iterable[RollupRow], plans: Plans) -> dict[str, PlanVersion]:
    found: dict[str, PlanVersion] = {}
    for ref in {row.plan_version for row in rows if row.plan_version}:
        plan = _plan(ref, plans)
        if plan is not None:
            found[ref] = plan
    return found


def _current_plan(tenant: Tenant, plans: Plans) -> PlanVersion | None:
    return None if tenant.plan is None else _plan(tenant.plan, plans)


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
