"""Exact money: Decimal in between, decimal text at the edges, never a float."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, Decimal, localcontext

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


def round_money(amount: Decimal, currency: str) -> Decimal:
    """Round half-even to the currency's minor unit: `0.125` EUR → `0.12`."""
    quantum = Decimal(1).scaleb(-_MINOR_UNITS.get(currency, 2))
    return amount.quantize(quantum, rounding=ROUND_HALF_EVEN)


# --- integers of a millionth of the currency: what the ledger keeps ---

MICROS = 1_000_000
MOST_MICROS = 10**18
"""A million millions of the currency: sums of some of these fit 64 bits."""
_DIGITS = 120


def to_micros(amount: Decimal) -> int:
    """Rounded half-even to a millionth: `0.0000005` → 0. Raises ArithmeticError beyond 64 bits."""
    with localcontext(prec=_DIGITS):
        micros = int((amount * MICROS).quantize(Decimal(1), rounding=ROUND_HALF_EVEN))
    if abs(micros) > MOST_MICROS:
        raise ArithmeticError(f"{amount} is more than the ledger can hold")
    return micros


def from_micros(micros: int) -> Decimal:
    with localcontext(prec=_DIGITS):
        return Decimal(micros) / MICROS


def minor_micros(currency: str) -> int:
    """What the smallest amount that can be paid has: 10,000 of EUR, 1,000,000 of JPY."""
    return MICROS // 10 ** _MINOR_UNITS.get(currency, 2)


def micros_text(micros: int, currency: str) -> str:
    """`40000000`, EUR → `"40.00"`; more places only where there is something in them."""
    places = _MINOR_UNITS.get(currency, 2)
    whole, rest = divmod(abs(micros), MICROS)
    digits = f"{rest:06d}".rstrip("0").ljust(places, "0")
    return f"{'-' if micros < 0 else ''}{whole}" + (f".{digits}" if digits else "")


def parse_micros(text: object, field: str, currency: str) -> int:
    """Decimal text of an amount above zero that can be paid in this currency."""
    amount = parse_amount(text, field)
    with localcontext(prec=_DIGITS):
        micros = amount * MICROS
    minor = minor_micros(currency)
    if not micros:
        raise invalid(field, f"{text!r} is nothing", "Use an amount above zero.")
    if micros > MOST_MICROS:
        most = micros_text(MOST_MICROS, currency)
        raise invalid(field, f"{text!r} is too much", f"Use at most {most}.")
    if micros % minor:
        least = micros_text(minor, currency)
        raise invalid(
            field,
            f"{text!r} cannot be paid in {currency}",
            f"Use a multiple of {least} {currency}.",
        )
    return int(micros)
