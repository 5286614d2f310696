"""Millionths of a currency: exact both ways, and refused when they cannot be paid."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meuse.core.errors import Code, MeuseError
from meuse.core.micros import MOST, minor_micros, money_text, parse_money, to_micros


@pytest.mark.parametrize(
    ("amount", "micros"),
    [("0.0000005", 0), ("0.0000015", 2), ("-0.0000015", -2), ("12.345678", 12_345_678), ("0", 0)],
)
def test_amounts_are_rounded_half_even_to_a_millionth(amount, micros):
    """As every amount of money is."""
    assert to_micros(Decimal(amount)) == micros


def test_the_ledger_has_a_bound():
    """Beyond it an amount is refused, not wrapped."""
    assert to_micros(Decimal(10**12)) == MOST
    with pytest.raises(ArithmeticError, match="more than the ledger"):
        to_micros(Decimal(10**12) + Decimal("0.000001"))


@pytest.mark.parametrize(
    ("micros", "currency", "text"),
    [
        (40_000_000, "EUR", "40.00"), (123_456, "EUR", "0.123456"), (-5, "JPY", "-0.000005"),
        (5_000_000, "JPY", "5"), (1_500_000, "KWD", "1.500"), (-1_230_000, "EUR", "-1.23"),
        (0, "EUR", "0.00"),
    ],
)  # fmt: skip
def test_text_has_the_places_that_can_be_paid(micros, currency, text):
    """And more only where there is something in them."""
    assert money_text(micros, currency) == text


@given(st.integers(1, 10**14), st.sampled_from(["EUR", "JPY", "KWD"]))
def test_what_can_be_paid_comes_back(minor, currency):
    """Text and millionths say the same."""
    micros = minor * minor_micros(currency)
    if micros <= MOST:
        assert parse_money(money_text(micros, currency), "amount", currency) == micros


@pytest.mark.parametrize(
    ("text", "currency", "told"),
    [
        ("0.00", "EUR", "nothing"), ("0.001", "EUR", "cannot be paid in EUR"),
        ("1.5", "JPY", "cannot be paid in JPY"), ("1000000000000.01", "EUR", "too much"),
        (5, "EUR", "not an amount"), ("1e3", "EUR", "not an amount"),
        ("-1", "EUR", "not an amount"),
    ],
)  # fmt: skip
def test_what_cannot_be_paid_is_refused(text, currency, told):
    """The field is named."""
    with pytest.raises(MeuseError) as caught:
        parse_money(text, "amount", currency)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "amount")
    assert told in caught.value.message
