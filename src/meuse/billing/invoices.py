"""A tenant's period → an invoice: a draft while anything may still change, else issued.

Knows when an invoice may be issued and what it says; prices are `rating`'s, numbers and
immutability the store's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from meuse.billing.invoice_ports import Alarm, Invoice, InvoiceDraft, InvoiceStore, RollupRow
from meuse.billing.issued import Issued, issued_in
from meuse.billing.lines import Line, Unpriced, amount_text
from meuse.billing.plans.calendar import Stint, months, stints, until, windows
from meuse.billing.ports import LedgerStore, Plans, Postings, Tenants
from meuse.billing.rating import Rating, is_unrated
from meuse.billing.snapshot import (
    dates,
    details,
    parties,
    plans_of,
    sums,
    taxed,
    taxed_stints,
)
from meuse.billing.statement import as_under, assess, what_if
from meuse.billing.terms import Terms, series
from meuse.core.clock import Clock, now_ms, parse_period, to_rfc3339
from meuse.core.errors import Code, MeuseError, not_found
from meuse.core.nouns import PlanVersion, Tenant

SETTLE_MS = 1_000
"""A record is stamped right before it is journaled; this long it may be under way."""

DEFAULT = Terms()

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
    issue_now: bool = False,
    unrated_as: str | None = None,
    terms: Terms = DEFAULT,
    postings: Postings | None = None,
    clock: Clock = now_ms,
) -> tuple[Invoice, bool]:
    """(invoice, whether it is new). `period` is "2026-11" or {"from": …, "to": …}.

    A draft when the period is open, not wholly ingested (`complete_to_ms`), within the grace
    for late records (`terms`) or has unrated usage: the body's `draft_because` says which. With
    `issue_now` neither ingestion nor grace is waited for; `issued_early` says for what was not.
    Otherwise issued with the next number, from then on unchanging: asking again returns the
    same. It keeps who it is from and for, its plans and its tax, and is in the ledger
    (`postings`) from the same moment on. Without `issue` it is a preview: a
    draft without an id, of which nothing is stored, not even an alarm; a period that is issued
    gives its invoice all the same. A draft is rated anew each time; with `unrated_as`, a plan
    version such as `basic:2`, usage that has no price is rated by that, and the body says so.
    What the issued invoices of the month say stays: the amounts, and by what they rated usage
    without a price. What it bills of an earlier time, whose month was invoiced, stands in `late`
    with its own quarter of an hour. Raises `not_found` for the tenant or that plan,
    `conflict` without plan and usage, for two currencies, and for a part of the period that is
    invoiced already, `invalid_field` for bounds inside a quarter of an hour.
    """
    start, end = parse_period(period)
    payer = tenants.tenant(tenant)
    customer = details(tenant, tenants.billing(tenant))
    now = clock()

    calendar = taxed_stints(calendar_of(tenant, tenants, plans, start, end), customer)
    held = [stint.plan for stint in until(calendar, end) if stint.end_ms > start]
    issued = issued_before(store, tenant, start, end)
    remedy = None if unrated_as is None else known_plan(unrated_as, plans)
    late = store.late_usage(tenant, start, end)

    def build(rows: Sequence[RollupRow]) -> InvoiceDraft:
        rows, found = remedied(rows, plans, issued, start, remedy)
        known = {ref: taxed(plan, customer) for ref, plan in found.items()}
        rating = assess(rows, known, calendar, start, end, issued)
        fallback = held[-1] if held else current_plan(payer, plans)
        used = any(row.from_ms >= start for row in rows)
        if fallback is None and not rating.lines and not used:
            raise MeuseError(
                Code.CONFLICT,
                f"tenant {tenant!r} has no plan and no usage in this period",
                field="tenant",
                hint=f'Put a plan on the tenant: PUT /api/tenants/{tenant} {{"plan": …}}.',
            )
        currency = rating.currency or (fallback.currency if fallback else NO_CURRENCY)
        because = _draft_because(now, end, rating)
        early = _too_early(now, end, complete_to_ms, terms.grace_ms)
        because += [] if issue_now else early
        if any(_is_open(row.from_ms, start, issued) and is_unrated(row, known) for row in rows):
            because.append("usage of an earlier part of the month is unrated: invoice that first")
        if not issue:
            because.append("it was not asked to be issued")
        body = _body(tenant, (start, end), rating, currency)
        body |= dates(now, terms, customer) | parties(terms, customer)
        named = known | {stint.plan.ref: stint.plan for stint in calendar}
        body |= sums(rating.lines, named, currency)
        body["plans"] = plans_of(rating.lines, named)
        if late:
            body["late"] = [{k: v for k, v in row.items() if k != "tenant"} for row in late]
        if remedy is not None:
            body["unrated_as"] = remedy.ref
        body |= {"draft_because": because, "complete_to": to_rfc3339(complete_to_ms)}
        if because:
            body |= {"issued": None, "due_on": None}
        elif early:
            body["issued_early"] = early
        alarms = tuple(unrated_alarm(tenant, start, end, missing) for missing in rating.unrated)
        return InvoiceDraft(
            currency, body["total"], body, not because, alarms,
            series=series(terms.invoice_series, now), due_on=body["due_on"],
            book=_booking(postings, tenant, currency, rating.lines, (start, end), now),
        )  # fmt: skip

    spans = windows(start, end, cuts_of(issued))
    return store.put_invoice(tenant, start, end, build, windows=spans, keep=issue)


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
    wanted = known_plan(plan, plans)
    issued = issued_before(store, tenant, start, end)
    rows = store.rollup_rows(tenant, start, end, windows=windows(start, end, cuts_of(issued)))
    customer = details(tenant, tenants.billing(tenant))
    calendar = taxed_stints(calendar_of(tenant, tenants, plans, start, end), customer)
    current = current_plan(payer, plans)
    was, found = remedied(rows, plans, issued, start)
    known = {ref: taxed(plan, customer) for ref, plan in found.items()}
    actual = assess(was, known, calendar, start, end, issued)
    other = what_if(rows, taxed(wanted, customer), start, end)
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


def _booking(
    postings: Postings | None,
    tenant: str,
    currency: str,
    lines: Sequence[Line],
    period: tuple[int, int],
    now: int,
) -> Callable[[Any, str, str], dict[str, Any]] | None:
    """What puts an invoice into the books, and says what a wallet has paid of it."""
    if postings is None:
        return None

    def book(books: Any, invoice: str, number: str) -> dict[str, Any]:
        paid = postings.post_invoice(
            books, invoice=invoice, number=number, tenant=tenant, currency=currency,
            lines=lines, start_ms=period[0], end_ms=period[1], now_ms=now,
        )  # fmt: skip
        return {"from_wallet": amount_text(paid, currency)} if paid else {}

    return book


def _draft_because(now: int, end: int, rating: Rating) -> list[str]:
    """Why this cannot be issued, whoever asks; empty when it can."""
    reasons = {
        "the period is still open": now < end,
        "some usage is unrated": bool(rating.unrated),
    }
    return [reason for reason, holds in reasons.items() if holds]


def _too_early(now: int, end: int, complete_to: int, grace: int) -> list[str]:
    """What would be waited for before it is issued."""
    waited = to_rfc3339(end + grace)
    reasons = {
        "not all usage of the period is ingested yet": complete_to < end + SETTLE_MS,
        f"late records are waited for until {waited}": end <= now < end + grace,
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


def unrated_alarm(tenant: str, start: int, end: int, missing: Unpriced) -> Alarm:
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


def calendar_of(
    tenant: str, tenants: Tenants, plans: Plans, start: int, end: int
) -> tuple[Stint, ...]:
    touched = months(start, end)
    begin, after = touched[0].start_ms, touched[-1].end_ms
    return stints(tenants.plan_changes(tenant), plans.versions, begin, after)


def issued_before(store: InvoiceStore, tenant: str, start: int, end: int) -> tuple[Issued, ...]:
    """The issued invoices of the first month before this period.

    Read before the transaction that makes the invoice: one that is issued in between says what
    is computed for its part, or that part has unrated usage and this one stays a draft.
    """
    begin = months(start, end)[0].start_ms
    return issued_in(store.list_invoices(tenant), begin, start) if begin < start else ()


def cuts_of(issued: Iterable[Issued]) -> list[int]:
    return [moment for one in issued for moment in (one.start_ms, one.end_ms)]


def _is_open(moment: int, start: int, issued: Iterable[Issued]) -> bool:
    """Whether it lies in an earlier part of the month that has no invoice yet."""
    return moment < start and not any(one.has(moment) for one in issued)


def remedied(
    rows: Sequence[RollupRow],
    plans: Plans,
    issued: Sequence[Issued],
    start: int,
    remedy: PlanVersion | None = None,
) -> tuple[list[RollupRow], dict[str, PlanVersion]]:
    """(rows, the plans that they name). Usage without a price is as under the plan version that
    its issued invoice names, else under `remedy`; of parts without an invoice it stays as it is.
    """
    named: list[tuple[Callable[[int], bool], PlanVersion]] = [
        (one.has, known_plan(one.unrated_as, plans)) for one in issued if one.unrated_as
    ]
    if remedy is not None:
        named.append((lambda moment: not _is_open(moment, start, issued), remedy))
    known, found = plan_versions(rows, plans), list(rows)
    for holds, plan in named:
        mine = [row for row in found if holds(row.from_ms)]
        others = [row for row in found if not holds(row.from_ms)]
        found = others + as_under(mine, plan, only=known)
        known[plan.ref] = plan
    return found, known


def plan_versions(rows: Iterable[RollupRow], plans: Plans) -> dict[str, PlanVersion]:
    found: dict[str, PlanVersion] = {}
    for ref in {row.plan_version for row in rows if row.plan_version}:
        plan = _plan(ref, plans)
        if plan is not None:
            found[ref] = plan
    return found


def current_plan(tenant: Tenant, plans: Plans) -> PlanVersion | None:
    return None if tenant.plan is None else _plan(tenant.plan, plans)


def known_plan(ref: str, plans: Plans) -> PlanVersion:
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
