"""What a payer owes for a period of time: usage and fees, bounds, credits and tax. Pure.

A calendar month of UTC is the period in which tiers, free units, fees, maximum, minimum and
credits count. What an invoice of a part of it says is the month up to its end less the month
up to its begin, each rounded once per line: however a month is split, its invoices add up to
the same. What invoices are issued of it is taken as they say it (`issued`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, localcontext

from meuse.billing.invoice_ports import RollupRow
from meuse.billing.issued import Issued, as_issued
from meuse.billing.lines import Kind, Line, amount_text, difference, total_of
from meuse.billing.plans.calendar import Month, Stint, months, projected, until
from meuse.billing.plans.curve import PRECISION
from meuse.billing.rating import Rating, is_unrated, one_currency, rate
from meuse.core.nouns import PlanVersion
from meuse.core.plans import Fee

_HOUR_S = 3600


@dataclass(frozen=True, slots=True)
class Usage:
    """A `RollupRow` of its own: usage as if it had been recorded under another plan."""

    meter: str
    deployment: str
    plan_version: str | None
    quantity: int
    tier: str
    first_ms: int
    from_ms: int


def assess(
    rows: Sequence[RollupRow],
    plans: Mapping[str, PlanVersion],
    calendar: Sequence[Stint],
    start_ms: int,
    end_ms: int,
    issued: Sequence[Issued] = (),
) -> Rating:
    """The lines of [start, end), by month.

    `rows` are those of `calendar.windows(start, end)`, cut where the invoices `issued` of its
    first month begin and end; `calendar` is what is in force from the begin of the first month
    to the end of the last. The currency is the one in which something is owed for this time,
    else the one in which something earlier is still owed. Raises `conflict` when there are two.
    """
    here = rate([row for row in rows if row.from_ms >= start_ms], plans)
    late = [row for row in rows if any(one.has(row.from_ms) for one in issued)]
    missing = rate([row for row in late if is_unrated(row, plans)], plans).unrated

    def owed(currency: str) -> tuple[Line, ...]:
        return tuple(
            line
            for month in months(start_ms, end_ms)
            for line in _of_month(
                rows, plans, calendar, month,
                (max(start_ms, month.start_ms), min(end_ms, month.end_ms)), issued, currency,
            )
        )  # fmt: skip

    currency = _currency(here, plans, calendar, start_ms, end_ms)
    if currency is None:
        known = {**plans, **{stint.plan.ref: stint.plan for stint in calendar}}
        found = {plan.currency: plan for plan in known.values()}
        currency = one_currency(plan for code, plan in found.items() if owed(code))
    lines = owed(currency) if currency else ()
    return Rating(lines, here.included, (*here.unrated, *missing), currency)


def _of_month(
    rows: Sequence[RollupRow],
    plans: Mapping[str, PlanVersion],
    calendar: Sequence[Stint],
    month: Month,
    part: tuple[int, int],
    issued: Sequence[Issued],
    currency: str,
) -> Iterable[Line]:
    """The lines of a part of a month: the month up to its end less up to its begin."""

    def to(moment: int) -> tuple[Line, ...]:
        used = [row for row in rows if month.start_ms <= row.from_ms < moment]
        return month_to_date(used, plans, calendar, month, moment, currency)

    def between(start: int, end: int) -> tuple[Line, ...]:
        return difference(to(end), to(start), currency)

    begin, at = part
    now, then = to(at), to(begin)
    if begin > month.start_ms:
        then = as_issued(then, issued, between, currency)
    lines = difference(now, then, currency)
    if _is_taxed_anew(now, issued if begin > month.start_ms else (), currency):
        lines = difference(_untaxed(now), _untaxed(then), currency)
        lines += tuple(_tax_again(line, lines, currency) for line in now if line.kind == "tax")
    if lines and not any(line.kind == "tax" for line in lines):
        # No percentage comes to nothing in every part; its name and reason stand on all of them.
        lines += tuple(x for x in now if x.kind == "tax" and not Decimal(x.unit_price or "0"))
    return (replace(line, period=part) for line in lines)


def _is_taxed_anew(now: Iterable[Line], issued: Iterable[Issued], currency: str) -> bool:
    """Whether an earlier invoice has another tax than is due now. It keeps it: what is new is
    then taxed by itself, not as a part of the month."""
    name = next((line.name for line in now if line.kind == "tax"), None)
    said = {one.tax for one in issued if one.lines is not None and one.currency == currency}
    return bool(said - {name, ""})


def _untaxed(lines: Iterable[Line]) -> tuple[Line, ...]:
    return tuple(line for line in lines if line.kind != "tax")


def _tax_again(tax: Line, lines: Iterable[Line], currency: str) -> Line:
    """The same tax on these lines alone."""
    with localcontext(prec=PRECISION):
        exact = total_of(lines) * Decimal(tax.unit_price or "0") / tax.per
    return replace(tax, exact=exact, amount=amount_text(exact, currency))


def month_to_date(
    rows: Iterable[RollupRow],
    plans: Mapping[str, PlanVersion],
    calendar: Sequence[Stint],
    month: Month,
    at_ms: int,
    currency: str,
) -> tuple[Line, ...]:
    """All that is owed in a currency for a month up to a moment of it.

    `rows` are its usage so far. The minimum is due when the month is over, or before that when
    no plan in this currency is in force any more: nothing later might ask for it.
    """
    mine = [row for row in rows if _is_in(currency, plans.get(row.plan_version or ""))]
    held = [
        replace(stint, start_ms=max(stint.start_ms, month.start_ms))
        for stint in until(calendar, at_ms)
        if stint.end_ms > month.start_ms and stint.plan.currency == currency
    ]
    lines = [*rate(mine, plans).lines, *_fees(held, month)]
    if at_ms <= month.start_ms:
        return tuple(lines)
    known = {**plans, **{stint.plan.ref: stint.plan for stint in held}}
    last = max((s.end_ms for s in calendar if s.plan.currency == currency), default=month.end_ms)
    over = at_ms >= min(last, month.end_ms)
    whole = held if over else projected(held, at_ms, month.end_ms)
    lines += _maximum(lines, known, whole, month)
    if over:
        lines += _minimum(lines, held, month)
    lines += _credit(lines, whole, month)
    lines += _tax(lines, known, held)
    return tuple(lines)


def as_under(
    rows: Iterable[RollupRow], plan: PlanVersion, only: Mapping[str, PlanVersion] | None = None
) -> list[RollupRow]:
    """The same usage as if recorded under a plan version; with `only` (the plans that there
    are), what has no price under its own alone."""
    return [
        Usage(
            row.meter, row.deployment, plan.ref, row.quantity, row.tier, row.first_ms, row.from_ms
        )
        if only is None or is_unrated(row, only)
        else row
        for row in rows
    ]


def what_if(rows: Sequence[RollupRow], plan: PlanVersion, start_ms: int, end_ms: int) -> Rating:
    """What [start, end) would have come to, had `plan` been in force from the begin of its
    first month on. `rows` as for `assess`, under whatever plans they were recorded."""
    touched = months(start_ms, end_ms)
    calendar = (Stint(touched[0].start_ms, touched[-1].end_ms, plan),)
    return assess(as_under(rows, plan), {plan.ref: plan}, calendar, start_ms, end_ms)


def _currency(
    here: Rating,
    plans: Mapping[str, PlanVersion],
    calendar: Iterable[Stint],
    start: int,
    end: int,
) -> str | None:
    paying = [plans[line.plan] for line in here.lines]
    for stint in calendar:
        if stint.start_ms < end and stint.end_ms > start and _owes_unused(stint.plan):
            paying.append(stint.plan)
    return one_currency(paying)


def _owes_unused(plan: PlanVersion) -> bool:
    """Whether something may be due, or given back, for a time without usage."""
    terms = (plan.minimum, plan.maximum, plan.credits)
    return bool(plan.fees) or any(term is not None for term in terms)


def _is_in(currency: str, plan: PlanVersion | None) -> bool:
    return plan is not None and plan.currency == currency


def _fees(held: Iterable[Stint], month: Month) -> list[Line]:
    """Seconds in force × quantity, at the price of a month or an hour."""
    seconds: Counter[tuple[str, Fee]] = Counter()
    currencies: dict[str, str] = {}
    for stint in held:
        currencies[stint.plan.ref] = stint.plan.currency
        for fee in stint.plan.fees:
            seconds[stint.plan.ref, fee] += stint.seconds
    lines: list[Line] = []
    for (ref, fee), n in seconds.items():
        per = month.seconds if fee.per == "month" else _HOUR_S
        with localcontext(prec=PRECISION):
            exact = n * fee.quantity * Decimal(fee.amount) / per
        lines.append(
            Line(
                "", fee.model or "", ref, n * fee.quantity, per, fee.amount,
                amount_text(exact, currencies[ref]), "fee", fee.name, exact=exact,
            )
        )  # fmt: skip
    return lines


def _share(
    stints: Iterable[Stint], month: Month, amounts: Mapping[str, str | None]
) -> tuple[Decimal, PlanVersion] | None:
    """An amount per month of each plan that has one, by the seconds that it is in force, and
    the last of these plans. None: there is none."""
    total, last = Decimal(0), None
    with localcontext(prec=PRECISION):
        for stint in stints:
            amount = amounts[stint.plan.ref]
            if amount is not None and stint.seconds:
                total += Decimal(amount) * stint.seconds
                last = stint.plan
        return None if last is None else (total / month.seconds, last)


def _maximum(
    lines: Sequence[Line],
    plans: Mapping[str, PlanVersion],
    stints: Sequence[Stint],
    month: Month,
) -> list[Line]:
    """What the lines of plans with a maximum come to above it is taken off."""
    share = _share(stints, month, {stint.plan.ref: stint.plan.maximum for stint in stints})
    if share is None:
        return []
    most, plan = share
    capped = [line for line in lines if plans[line.plan].maximum is not None]
    over = total_of(capped) - Decimal(amount_text(most, plan.currency))
    return [_due("maximum", plan, -over)] if over > 0 else []


def _minimum(lines: Sequence[Line], stints: Sequence[Stint], month: Month) -> list[Line]:
    """What the month lacks to the minimum is added."""
    share = _share(stints, month, {stint.plan.ref: stint.plan.minimum for stint in stints})
    if share is None:
        return []
    least, plan = share
    lacks = Decimal(amount_text(least, plan.currency)) - total_of(lines)
    return [_due("minimum", plan, lacks)] if lacks > 0 else []


def _credit(lines: Sequence[Line], stints: Sequence[Stint], month: Month) -> list[Line]:
    """As much of the plans' credits as there is something to pay."""
    amounts = {s.plan.ref: s.plan.credits.amount if s.plan.credits else None for s in stints}
    share = _share(stints, month, amounts)
    if share is None:
        return []
    granted, plan = share
    spent = min(Decimal(amount_text(granted, plan.currency)), total_of(lines))
    return [_due("credit", plan, -spent)] if spent > 0 else []


def _tax(
    lines: Sequence[Line], plans: Mapping[str, PlanVersion], held: Sequence[Stint]
) -> list[Line]:
    """By the plan in force at the end; without one, by that of the last line."""
    owed = total_of(lines)
    if not lines or not owed:
        return []
    plan = held[-1].plan if held else plans[lines[-1].plan]
    if plan.tax is None:
        return []
    with localcontext(prec=PRECISION):
        exact = owed * Decimal(plan.tax.percent) / 100
    line = _due("tax", plan, exact, f"{plan.tax.name} {plan.tax.percent} %")
    return [replace(line, unit_price=plan.tax.percent, per=100)]


def _due(kind: Kind, plan: PlanVersion, exact: Decimal, name: str = "") -> Line:
    amount = amount_text(exact, plan.currency)
    return Line("", "", plan.ref, 0, 1, None, amount, kind, name or kind, exact=exact)
