"""core.money"""

from decimal import Decimal

import pytest

from meuse.core.errors import MeuseError
from meuse.core.money import check_currency, parse_amount, round_money


@pytest.mark.parametrize(
    ("amount", "currency", "rounded"),
    [
        ("0.125", "EUR", "0.12"),
        ("0.135", "EUR", "0.14"),
        ("2.5", "JPY", "2"),
        ("3.5", "JPY", "4"),
        ("0.0005", "KWD", "0.000"),
    ],
)
def test_rounding_is_half_even_in_minor_units(amount: str, currency: str, rounded: str) -> None:
    """Halves go to the even neighbour, in the currency's own smallest unit."""
    assert Decimal(rounded) == round_money(Decimal(amount), currency)


@pytest.mark.parametrize("amount", [0.5, -1, "-1", "1e3", "NaN", "", "1,5", None, " 1"])
def test_only_plain_decimal_text_is_an_amount(amount: object) -> None:
    """Floats, signs, exponents and locale commas are refused: they hide rounding."""
    with pytest.raises(MeuseError) as refusal:
        parse_amount(amount, "prices[0].amount")
    assert refusal.value.field == "prices[0].amount"


@pytest.mark.parametrize("code", ["eur", "EURO", "", None, 978])
def test_currency_is_three_capitals(code: object) -> None:
    """A currency is an ISO 4217 code."""
    with pytest.raises(MeuseError):
        check_currency(code)
