"""Exact money: Decimal in between, decimal text at the edges, never a float."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, Decimal

from meuse.core.errors import invalid

_AMOUNT = re.compile(r"\d{1,18}(\.\d{1,18})?")
_CURRENCY = re.compile(r"[A-Z]{3}")
# ISO 4217 minor units that differ from two.
_MINOR_UNITS = {
    "BHD": 3, "CLP": 0, "IQD": 3, "ISK": 0, "JOD": 3, "JPY": 0, "KRW": 0, "KWD": 3,
    "LYD": 3, "OMR": 3, "PYG": 0, "TND": 3, "UGX": 0, "VND": 0, "XAF": 0, "XOF": 0,
}  # fmt: skip


def parse_amount(text: object, field: str) -> Decimal:
    """A non-negative decimal given as text; a JSON number is refused, it may be inexact."""
    if not isinstance(text, str) or _AMOUNT.fullmatch(text) is None:
        raise invalid(field, f"{text!r} is not an amount", 'Use decimal text such as "0.50".')
    return Decimal(text)


def check_currency(code: object, field: str = "currency") -> str:
    """A three-letter ISO 4217 code."""
    if not isinstance(code, str) or _CURRENCY.fullmatch(code) is None:
        raise invalid(field, f"{code!r} is not a currency", "Use an ISO 4217 code such as EUR.")
    return code


def round_money(amount: Decimal, currency: str) -> Decimal:
    """Round half-even to the currency's minor unit: `0.125` EUR → `0.12`."""
    quantum = Decimal(1).scaleb(-_MINOR_UNITS.get(currency, 2))
    return amount.quantize(quantum, rounding=ROUND_HALF_EVEN)
