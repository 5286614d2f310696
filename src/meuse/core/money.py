"""Exact money: Decimal in between, decimal text at the edges, never a float."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, Decimal

from meuse.core.errors import invalid

AMOUNT_PATTERN = r"[0-9]{1,18}(\.[0-9]{1,18})?"
"""Decimal text without sign and exponent, eighteen digits on each side of the point."""
_AMOUNT = re.compile(AMOUNT_PATTERN)
# ISO 4217: what money is kept in today; funds, metals and codes for testing are left out.
_CODES = """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD
    CAD CDF CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS
    GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW
    KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR
    MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR
    SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX
    USD UYU UZS VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG
"""
CURRENCIES = frozenset(_CODES.split())
# ISO 4217 minor units that differ from two.
_MINOR_UNITS = {
    "BHD": 3, "CLP": 0, "IQD": 3, "ISK": 0, "JOD": 3, "JPY": 0, "KRW": 0, "KWD": 3,
    "LYD": 3, "OMR": 3, "PYG": 0, "TND": 3, "UGX": 0, "VND": 0, "XAF": 0, "XOF": 0,
    "BIF": 0, "DJF": 0, "GNF": 0, "KMF": 0, "RWF": 0, "VUV": 0, "XPF": 0,
}  # fmt: skip


def parse_amount(text: object, field: str) -> Decimal:
    """A non-negative decimal given as text; a JSON number is refused, it may be inexact."""
    if not isinstance(text, str) or _AMOUNT.fullmatch(text) is None:
        raise invalid(field, f"{text!r} is not an amount", 'Use decimal text such as "0.50".')
    return Decimal(text)


def check_currency(code: object, field: str = "currency") -> str:
    """A currency's ISO 4217 code."""
    if not isinstance(code, str) or code not in CURRENCIES:
        raise invalid(field, f"{code!r} is not a currency", "Use an ISO 4217 code such as EUR.")
    return code


def minor_units(currency: str) -> int:
    """How many decimals an amount of a currency has: 2 for EUR, 0 for JPY."""
    return _MINOR_UNITS.get(currency, 2)


def parse_sum(text: object, currency: str, field: str) -> Decimal:
    """A sum of money that can be paid: above zero, in whole minor units of the currency."""
    amount = parse_amount(text, field)
    places = minor_units(currency)
    if amount == 0:
        raise invalid(field, "the amount is zero", "Say how much; it must be above zero.")
    if amount != round_money(amount, currency):
        raise invalid(
            field, f"{text} {currency} has more than {places} decimals",
            "Money changes hands in whole minor units of its currency.",
        )  # fmt: skip
    return amount


def round_money(amount: Decimal, currency: str) -> Decimal:
    """Round half-even to the currency's minor unit: `0.125` EUR → `0.12`."""
    quantum = Decimal(1).scaleb(-minor_units(currency))
    return amount.quantize(quantum, rounding=ROUND_HALF_EVEN)
