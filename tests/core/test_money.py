"""core.money"""

from decimal import Decimal

import pytest

from meuse.core.errors import MeuseError
from meuse.core.money import check_currency, parse_amount, parse_sum, round_money


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


@pytest.mark.parametrize(
    ("text", "currency", "told"),
    [("0", "EUR", "zero"), ("0.00", "EUR", "zero"), ("1.001", "EUR", "2 decimals"),
     ("1.5", "JPY", "0 decimals"), ("-1", "EUR", "not an amount"), (1, "EUR", "not an amount")],
)  # fmt: skip
def test_a_sum_is_paid_in_whole_minor_units(text: object, currency: str, told: str) -> None:
    """Above zero, and no finer than the currency's smallest coin."""
    with pytest.raises(MeuseError, match=told) as caught:
        parse_sum(text, currency, "amount")
    assert caught.value.field == "amount"
    assert (parse_sum("1.5", "EUR", "x"), parse_sum("1.500", "BHD", "x")) == (
        Decimal("1.5"), Decimal("1.5"),
    )  # fmt: skip
