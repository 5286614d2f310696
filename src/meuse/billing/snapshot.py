"""What an invoice keeps of the world it was made in: seller, customer, plans and taxes.

An invoice is read years later, when settings, addresses and prices are others. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from meuse.billing.lines import Line, amount_text, total_of
from meuse.billing.plans.calendar import Stint
from meuse.billing.terms import Terms, date_of
from meuse.core.billing import BillingDetails, Party, details_of
from meuse.core.clock import to_rfc3339
from meuse.core.plans import PlanVersion, price_body, terms_body


def details(tenant: str, kept: Mapping[str, Any] | None) -> BillingDetails:
    """How a tenant is invoiced; by its name alone when nobody has said more."""
    return BillingDetails(party=Party(name=tenant)) if kept is None else details_of(kept)


def taxed(plan: PlanVersion, customer: BillingDetails) -> PlanVersion:
    """A plan with the tax that holds for a customer: theirs, else its own."""
    return plan if customer.tax is None else replace(plan, tax=customer.tax)


def taxed_stints(stints: Iterable[Stint], customer: BillingDetails) -> tuple[Stint, ...]:
    return tuple(replace(stint, plan=taxed(stint.plan, customer)) for stint in stints)


def parties(terms: Terms, customer: BillingDetails) -> dict[str, Any]:
    """{seller, customer, payment_terms}."""
    return {
        "seller": terms.seller.to_dict(),
        "customer": customer.party.to_dict(),
        "payment_terms": terms.payment,
    }


def dates(now_ms: int, terms: Terms, customer: BillingDetails) -> dict[str, str]:
    """{issued, due_on}: the moment, and the last day on which it is paid in time."""
    days = terms.due_days if customer.due_days is None else customer.due_days
    return {"issued": to_rfc3339(now_ms), "due_on": date_of(now_ms, days)}


def plans_of(lines: Iterable[Line], plans: Mapping[str, PlanVersion]) -> dict[str, Any]:
    """By reference, each plan version that a line is priced by, as it was put."""
    return {ref: _plan(plans[ref]) for ref in sorted({x.plan for x in lines}) if ref in plans}


def sums(lines: Sequence[Line], plans: Mapping[str, PlanVersion], currency: str) -> dict[str, Any]:
    """{net, tax, taxes: [{name, percent, base, amount, text?}]}: a tax for each line of one.

    `base` is the sum of the lines of the same part of time. The tax of a part of a month is
    the month's up to its end less what was up to its begin, so that it may differ from percent ×
    base by a minor unit.
    """
    due = [line for line in lines if line.kind == "tax"]
    rest = [line for line in lines if line.kind != "tax"]
    taxes = []
    for line in due:
        base = total_of(other for other in rest if other.period == line.period)
        plan = plans.get(line.plan)
        tax = plan.tax if plan else None
        body = {
            "name": tax.name if tax else line.name,
            "percent": line.unit_price,
            "base": amount_text(base, currency),
            "amount": line.amount,
        }
        taxes.append(body | ({"text": tax.text} if tax and tax.text else {}))
    return {
        "net": amount_text(total_of(rest), currency),
        "tax": amount_text(total_of(due) if due else Decimal(0), currency),
        "taxes": taxes,
    }


def _plan(plan: PlanVersion) -> dict[str, Any]:
    return {
        "currency": plan.currency,
        "prices": [price_body(price) for price in plan.prices],
        **terms_body(plan),
        "created": to_rfc3339(plan.created_ms),
    }
