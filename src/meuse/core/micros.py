"""Money as the ledger keeps it: integers of 10⁻⁶ of the currency, exact, never a float."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal, localcontext

from meuse.core.errors import invalid
from meuse.core.money import parse_amount, round_money

UNIT = 1_000_000
MOST = 10**18
"""A million millions of the currency: a sum of some of these fits 64 bits."""
_DIGITS = 120


def to_micros(amount: Decimal) -> int:
    """Rounded half-even to a millionth: `0.0000005` → 0. Raises ArithmeticError beyond `MOST`."""
    with localcontext(prec=_DIGITS):
        micros = int((amount * UNIT).quantize(Decimal(1), rounding=ROUND_HALF_EVEN))
    if abs(micros) > MOST:
        raise ArithmeticError(f"{amount} is more than the ledger can hold")
    return micros


def from_micros(micros: int) -> Decimal:
    """Of the currency."""
    with localcontext(prec=_DIGITS):
        return Decimal(micros) / UNIT


def minor_micros(currency: str) -> int:
    """The smallest amount that can be paid: 10,000 for EUR, 1,000,000 for JPY."""
    parts: int = 10 ** _places(currency)
    return UNIT // parts


def money_text(micros: int, currency: str) -> str:
    """`40000000`, EUR → `"40.00"`; more places only where there is something in them."""
    whole, rest = divmod(abs(micros), UNIT)
    digits = f"{rest:06d}".rstrip("0").ljust(_places(currency), "0")
    return f"{'-' if micros < 0 else ''}{whole}" + (f".{digits}" if digits else "")


def parse_money(text: object, field: str, currency: str) -> int:
    """Decimal text of an amount above zero that can be paid in this currency."""
    amount = parse_amount(text, field)
    with localcontext(prec=_DIGITS):
        micros = amount * UNIT
    if not micros:
        raise invalid(field, f"{text!r} is nothing", "Use an amount above zero.")
    if micros > MOST:
        most = money_text(MOST, currency)
        raise invalid(field, f"{text!r} is too much", f"Use at most {most}.")
    if micros % minor_micros(currency):
        least = money_text(minor_micros(currency), currency)
        raise invalid(
            field,
            f"{text!r} cannot be paid in {currency}",
            f"Use a multiple of {least} {currency}.",
        )
    return int(micros)


def _places(currency: str) -> int:
    """Digits after the point of what can be paid."""
    exponent = round_money(Decimal(0), currency).as_tuple().exponent
    assert isinstance(exponent, int)
    return -exponent
