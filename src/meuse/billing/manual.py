"""Payments that a person tells of: the adapter of `ports.Payments` for an account at a bank."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from meuse.billing.invoice_ports import NewPayment
from meuse.billing.lines import amount_text
from meuse.billing.settling import short_text
from meuse.billing.terms import date_of
from meuse.core.errors import invalid
from meuse.core.fields import known
from meuse.core.money import parse_sum

FIELDS = ("amount", "reference", "date")


class ManualPayments:
    """Takes {amount, reference, date?}: decimal text, what the statement of account says of it,
    and YYYY-MM-DD (today, if it is not said)."""

    name = "manual"

    def received(
        self, told: Mapping[str, Any], kind: str, currency: str, now_ms: int
    ) -> NewPayment:
        known(told, FIELDS)
        amount = amount_text(parse_sum(told.get("amount"), currency, "amount"), currency)
        reference = short_text(told.get("reference"), "reference", 200)
        if not reference:
            raise invalid(
                "reference", "the reference is missing",
                "Say by what the payment is known: told twice, it then counts once.",
            )  # fmt: skip
        day = _day(told.get("date"), now_ms)
        return NewPayment(kind, self.name, reference, amount, day)


def _day(value: object, now_ms: int) -> str:
    today = date_of(now_ms)
    if value is None:
        return today
    try:
        day = date.fromisoformat(value if isinstance(value, str) else "").isoformat()
    except ValueError:
        raise invalid("date", f"{value!r} is not a date", "Use YYYY-MM-DD.") from None
    if day > date_of(now_ms, 1):
        raise invalid("date", f"{day} lies in the future", f"Today is {today}.")
    return day
