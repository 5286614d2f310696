"""The forecast of a month: the mean of the days, rated as the invoice is, with an interval."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.make_plans import END, MONTH, TIERS
from billing.make_usage import Directory, plan, usage_record
from billing.test_invoices import used
from meuse.billing.forecast import DAY_MS, Forecast, forecast
from meuse.billing.plans.calendar import Month, Stint
from meuse.billing.reports import month_forecast
from meuse.billing.statement import Usage
from meuse.core.errors import Code, MeuseError
from meuse.core.plans import Fee, Price

KIND = ("rows", "acme/digits", "standard")
FLAT = plan(Price("rows", "0.01"))
NOVEMBER = Month(MONTH, END)


def told(quantities, days_in=None, terms=FLAT, now=None) -> Forecast:
    """A month of which so many whole days, from its first on, have these rows."""
    days_in = len(quantities) if days_in is None else days_in
    now = MONTH + days_in * DAY_MS if now is None else now
    begin = MONTH + (days_in - len(quantities)) * DAY_MS
    days = [(begin + n * DAY_MS, {KIND: q}) for n, q in enumerate(quantities)]
    so_far = sum(q for at, day in days for q in day.values() if at >= MONTH)
    rows = [Usage(*KIND[:2], terms.ref, so_far, KIND[2], MONTH, MONTH)]
    calendar = (Stint(MONTH, END, terms),)
    return forecast(rows, days, terms, {terms.ref: terms}, calendar, NOVEMBER, now)


def totals(found: Forecast) -> tuple[str, ...]:
    return tuple(str(r.total) if r else "-" for r in (found.so_far, found.low, found.expected,
                                                      found.high))  # fmt: skip


def test_equal_days_go_on_equally():
    """Ten days of 1,000 rows make thirty; days that do not differ leave no doubt."""
    assert totals(told([1000] * 10)) == ("100.00", "300.00", "300.00", "300.00")
    half = told([1000] * 10, now=MONTH + 10 * DAY_MS + DAY_MS // 2)
    assert half.expected.total == Decimal("295.00")  # half a day was seen and had nothing


def test_days_that_differ_make_an_interval():
    """500 and 1500 in turn: mean 1,000; s·t·√(D + D²/n) about it, by hand."""
    found = told([500, 1500] * 5)
    assert found.expected.total == Decimal("300.00")
    # s = 5.2705, t(9) = 1.383, √(20 + 400/10) = 7.7460: ± 56.46
    assert (found.low.total, found.high.total) == (Decimal("243.54"), Decimal("356.46"))
    assert found.days == 10


def test_days_of_the_week_are_told_apart():
    """With two weeks seen, Sundays without usage go on to have none: no doubt either."""
    # 2026-11-01 is a Sunday.
    weeks = [0 if n % 7 == 0 else 700 for n in range(14)]
    found = told([700, *weeks[1:], 0, *[700] * 6], days_in=21)
    assert found.days == 21
    regular = told([0, *[700] * 6] * 2 + [0, *[700] * 6], days_in=21)
    assert regular.days == 20  # from the first that had usage on
    sundays = sum(1 for n in range(30) if n % 7 == 0)
    assert regular.expected.total == regular.low.total == regular.high.total
    assert regular.expected.total == 7 * (30 - sundays)


def test_tiers_fees_and_minimum_are_those_of_the_invoice():
    """It is rated by the same code: 30,000 rows graduated, and the fee of the whole month."""
    terms = plan(Price("rows", scheme="graduated", tiers=TIERS), fees=(Fee("base", "49"),))
    found = told([1000] * 10, terms=terms)
    assert found.expected.total == Decimal("10") + 72 + 100 + 49
    least = plan(Price("rows", "0.01"), minimum="500")
    assert told([1000] * 10, terms=least).expected.total == 500


def test_little_is_said_of_little():
    """One day gives no interval, none nothing but the fees."""
    one = told([1000])
    assert (one.low, one.high, one.expected.total) == (None, None, 300)
    none = told([0, 0, 0])
    assert (none.days, none.expected.total, none.low) == (0, 0, None)


@given(st.lists(st.integers(0, 5000), min_size=2, max_size=29))
def test_the_interval_holds_what_is_expected(quantities):
    """so far ≤ low ≤ expected ≤ high."""
    found = told(quantities)
    if found.low is not None:
        assert found.so_far.total <= found.low.total <= found.expected.total <= found.high.total


def test_a_month_is_forecast_from_the_rollup(store):
    """Days of last month count too; the report says what it is made of."""
    directory = Directory(FLAT, acme="basic", bare=None)
    for day in range(-5, 10):
        used(store, usage_record(ts=MONTH + day * DAY_MS, quantities={"rows": 1000}))
    now = MONTH + 10 * DAY_MS + 1
    body = month_forecast(store, directory, directory, "acme", now)
    assert (body["so_far"], body["expected"], body["low"], body["high"]) == (
        "100.00", "300.00", "300.00", "300.00",
    )  # fmt: skip
    assert (body["days"], body["currency"], body["confidence"]) == (15, "EUR", "0.80")
    assert body["period"]["to"] == "2026-12-01T00:00:00.000Z"
    first = month_forecast(store, directory, directory, "acme", MONTH)
    assert (first["so_far"], first["expected"]) == ("0.00", "300.00")
    empty = month_forecast(store, directory, directory, "bare", now)
    assert (empty["expected"], empty["currency"], empty["lines"]) == (None, None, [])
    with pytest.raises(MeuseError) as caught:
        month_forecast(store, directory, directory, "ghost", now)
    assert caught.value.code is Code.NOT_FOUND
