"""Pricing models by example: what is used, under which plan, and what it comes to."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from billing.make_plans import END, MONTH, TIERS, Event, invoice, one_price
from billing.make_usage import plan
from meuse.billing.plans.calendar import Month, Stint
from meuse.billing.plans.curve import cost, slices
from meuse.billing.statement import month_to_date
from meuse.core.plans import Credits, Discount, Fee, Price, Tax

GRADUATED = one_price(scheme="graduated", tiers=TIERS)
VOLUME = one_price(scheme="volume", tiers=TIERS)
PACKAGE = one_price(scheme="package", amount="5", per=1000, free=100)
SUBSCRIPTION = plan(Price("rows", "0.0006", free=100_000), fees=(Fee("base", "49"),))
MINIMUM = plan(Price("rows", "1"), minimum="500")
CAPPED = plan(Price("rows", "312.40"), Price("images", "120"), maximum="400")
PREPAID = plan(Price("rows", "1"), credits=Credits("40"))
TAXED = plan(Price("rows", "1"), credits=Credits("40"), tax=Tax("VAT", "21"))


def tokens(stacking: str, *discounts: Discount):
    """$3 and $15 per million; a cached token costs as much as another, less a discount."""
    prices = (
        Price("prompt_tokens", "3", 1_000_000),
        Price("cached_tokens", "3", 1_000_000),
        Price("completion_tokens", "15", 1_000_000),
    )
    return plan(*prices, currency="USD", discounts=discounts, stacking=stacking)


CACHED = Discount("cached", "90", meter="cached_tokens")
BATCH = Discount("batch", "50", tier="batch")


def asked(tier: str) -> list[Event]:
    counts = {"prompt_tokens": 400_000, "cached_tokens": 800_000, "completion_tokens": 300_000}
    return [Event(n, meter=meter, tier=tier) for meter, n in counts.items()]


@pytest.mark.parametrize(
    ("model", "quantity", "amount"),
    [
        (one_price(amount="0.01"), 15_000, "150.00"),
        (GRADUATED, 15_000, "107.00"),
        (GRADUATED, 10_001, "82.005"),
        (GRADUATED, 0, "0"),
        (VOLUME, 15_000, "75.00"),
        (VOLUME, 10_000, "80.00"),
        (VOLUME, 10_001, "50.005"),
        (VOLUME, 1_000, "10.00"),
        (VOLUME, 1_001, "8.008"),
        (PACKAGE, 2_350, "15"),
        (PACKAGE, 100, "0"),
        (PACKAGE, 101, "5"),
        (PACKAGE, 1_100, "5"),
        (PACKAGE, 1_101, "10"),
    ],
)
def test_prices(model, quantity, amount):
    """What a quantity costs by itself, before rounding."""
    (price,) = model.prices
    exact = cost(slices(price, 0, quantity, quantity)) / price.per
    assert exact == Decimal(amount)


@pytest.mark.parametrize(
    ("name", "events", "terms", "total"),
    [
        ("flat, quota and overage", [Event(130_000)], SUBSCRIPTION, "67.00"),
        ("within the quota", [Event(100_000)], SUBSCRIPTION, "49.00"),
        ("minimum commitment", [Event(312), Event(0)], MINIMUM, "500.00"),
        ("above the minimum", [Event(501)], MINIMUM, "501.00"),
        ("maximum", [Event(1), Event(1, meter="images")], CAPPED, "400.00"),
        ("below the maximum", [Event(1)], CAPPED, "312.40"),
        ("prepaid credits", [Event(100)], PREPAID, "60.00"),
        ("credits are not paid out", [Event(30)], PREPAID, "0.00"),
        ("tax comes after credits", [Event(100)], TAXED, "72.60"),
        ("cached tokens", asked("standard"), tokens("stack", CACHED, BATCH), "5.94"),
        ("batch, stacked", asked("batch"), tokens("stack", CACHED, BATCH), "2.97"),
        ("batch, the best", asked("batch"), tokens("best_of", BATCH, CACHED), "3.09"),
        ("batch, cached first", asked("batch"), tokens("precedence", CACHED, BATCH), "3.09"),
        ("batch, batch first", asked("batch"), tokens("precedence", BATCH, CACHED), "4.05"),
        ("reserved", [], plan(fees=(Fee("r", "0.90", "hour", 2),)), "1296.00"),  # 720 hours
    ],
)  # fmt: skip
def test_months(name, events, terms, total):
    """What a whole month comes to, rounded once per line."""
    assert f"{invoice(events, terms).total:.2f}" == total


def test_the_lines_of_bounds():
    """The minimum adds what is lacking, the maximum takes off what is above."""
    low = plan(Price("rows", "312.40"), minimum="500", currency="USD")
    lines = [(line.kind, line.amount) for line in invoice([Event(1)], low).lines]
    assert lines == [("usage", "312.40"), ("minimum", "187.60")]
    high = invoice([Event(1), Event(1, meter="images")], CAPPED)
    assert [(line.kind, line.amount) for line in high.lines] == [
        ("usage", "120.00"), ("usage", "312.40"), ("maximum", "-32.40"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("hours", "seconds", "amount"), [(730, 0, "1314.00"), (0, 37 * 60 + 20, "1.12")]
)
def test_reserved_capacity(hours, seconds, amount):
    """Two replicas at $0.90 an hour, by the second that they were reserved."""
    terms = plan(fees=(Fee("reserved", "0.90", "hour", 2, "acme/digits"),), currency="USD")
    end = MONTH + (hours * 3600 + seconds) * 1000
    month = Month(MONTH, max(end, END))
    (line,) = month_to_date([], {}, (Stint(MONTH, end, terms),), month, month.end_ms, "USD")
    assert (line.amount, line.model, line.name) == (amount, "acme/digits", "reserved")
    assert line.quantity == 2 * (hours * 3600 + seconds)


def test_a_flat_amount_is_due_once_a_tier_is_entered():
    """Each tier's flat amount is added with its first unit."""
    steps = tuple(replace(step, flat=flat) for step, flat in zip(TIERS, "137", strict=True))
    terms = one_price(scheme="graduated", tiers=steps)
    for quantity, total in ((0, "0.00"), (1, "1.01"), (1_000, "11.00"), (1_001, "14.01"),
                            (10_001, "93.00"), (15_000, "118.00")):  # fmt: skip
        assert f"{invoice([Event(quantity)], terms).total:.2f}" == total


def test_a_time_rounded_up_to_its_granule():
    """Milliseconds of a replica at $0.90 an hour, by whole seconds of the month."""
    price = Price("replica_ms", "0.90", 3_600_000, round_up_to=1000)
    terms = plan(price, currency="USD")
    (line,) = invoice([Event(2_239_001, meter="replica_ms")], terms).lines
    assert (line.quantity, line.exact) == (2_239_001, Decimal("0.56"))
