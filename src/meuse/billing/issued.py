"""What the issued invoices of a month say already: the `before` of its later parts. Pure.

They are read, not computed again: usage that came in late for an issued part is billed with the
next part, and a price that an invoice gave to unrated usage stays.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Any

from meuse.billing.invoice_ports import Invoice
from meuse.billing.lines import Line, difference, total_of
from meuse.billing.plans.curve import PRECISION, Slice
from meuse.core.clock import parse_period
from meuse.core.states import InvoiceStatus


@dataclass(frozen=True, slots=True)
class Issued:
    """The part [start, end) of a month on an issued invoice, and its lines there.

    `unrated_as` is the plan version by which it rated what had no price. `lines` None: it was
    issued before lines said enough to go on from.
    """

    start_ms: int
    end_ms: int
    currency: str
    unrated_as: str | None
    lines: tuple[Line, ...] | None

    @property
    def tax(self) -> str | None:
        """The name of the tax that it has; "" when nothing was owed that could be taxed."""
        lines = self.lines or ()
        named = [line.name for line in lines if line.kind == "tax"]
        if named:
            return named[0]
        return None if total_of(lines) else ""

    def has(self, moment_ms: int) -> bool:
        return self.start_ms <= moment_ms < self.end_ms


def issued_in(invoices: Iterable[Invoice], start_ms: int, end_ms: int) -> tuple[Issued, ...]:
    """Those of [start, end), which begins with a month and ends within it, in order of time."""
    found: list[Issued] = []
    for invoice in invoices:
        if not InvoiceStatus(invoice.status).is_final:
            continue
        body = json.loads(invoice.body)
        begun, after = parse_period(body["period"])
        if start_ms < after <= end_ms:
            lines = _lines(body["lines"], start_ms)
            low = max(begun, start_ms)
            found.append(Issued(low, after, body["currency"], body.get("unrated_as"), lines))
    return tuple(sorted(found, key=lambda one: one.start_ms))


def as_issued(
    computed: Sequence[Line],
    issued: Iterable[Issued],
    part: Callable[[int, int], Sequence[Line]],
    currency: str,
) -> tuple[Line, ...]:
    """`computed` (all that is owed up to a moment), with what the invoices up to then said in
    place of what they would say now; `part` computes the lines of [start, end)."""
    lines = tuple(computed)
    for one in issued:
        if one.lines is None or one.currency != currency:
            continue
        more = difference(part(one.start_ms, one.end_ms), one.lines, currency)
        # `exact` alone may differ in what an invoice does not show of it.
        moved = [line for line in more if line.quantity or Decimal(line.amount)]
        lines = difference(lines, moved, currency)
    return lines


def _lines(bodies: Sequence[Mapping[str, Any]], since_ms: int) -> tuple[Line, ...] | None:
    if not all("exact" in body and "period" in body for body in bodies):
        return None
    lines = [_line(body) for body in bodies]
    return tuple(line for line in lines if line.period and line.period[0] >= since_ms)


def _line(body: Mapping[str, Any]) -> Line:
    """The reverse of `Line.to_dict`, but for `before`."""
    return Line(
        meter=body["meter"],
        model=body["model"],
        plan=body["plan"],
        quantity=body["quantity"],
        per=body["per"],
        unit_price=body["unit_price"],
        amount=body["amount"],
        kind=body["kind"],
        name=body.get("name", ""),
        tier=body["tier"],
        exact=Decimal(body["exact"]),
        scheme=body.get("scheme", "unit"),
        tiers=tuple(_slice(tier, body["per"]) for tier in body.get("tiers", ())),
        free=body.get("free", 0),
        discounts=tuple((one["name"], one["percent"]) for one in body.get("discounts", ())),
        models=tuple(body.get("models", {}).items()),
        period=parse_period(body["period"]),
    )


def _slice(tier: Mapping[str, Any], per: int) -> Slice:
    with localcontext(prec=PRECISION):
        cost = Decimal(tier["exact"]) * per
    flat = Decimal(tier.get("flat", "0"))
    return Slice(tier["up_to"], tier["quantity"], tier["unit_price"], cost, flat)
