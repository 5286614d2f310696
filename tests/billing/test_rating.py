"""Rating: which price a quantity meets, and that none gets lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.make_usage import DAY, plan
from meuse.billing.rating import (
    NO_PLAN,
    NO_PRICE,
    UNKNOWN_PLAN,
    Rating,
    amount_text,
    price_of,
    rate,
)
from meuse.core.errors import Code, MeuseError
from meuse.core.plans import Price, Step


@dataclass(frozen=True)
class Row:
    meter: str = "rows"
    deployment: str = "acme/digits"
    plan_version: str | None = "basic:1"
    quantity: int = 1000
    tier: str = "standard"
    first_ms: int = DAY
    from_ms: int = DAY


def rated(prices: list[Price], *rows: Row) -> Rating:
    return rate(rows, {"basic:1": plan(*prices)})


def test_a_line_is_quantity_times_price_per_unit():
    """A line states what was used, at what price per how many, and the rounded amount."""
    (line,) = rated([Price("rows", "0.50", 1000)], Row(quantity=2350)).lines
    assert line.to_dict() == {
        "meter": "rows", "model": "acme/digits", "plan": "basic:1", "quantity": 2350,
        "per": 1000, "unit_price": "0.50", "amount": "1.18", "kind": "usage", "tier": "standard",
        "exact": "1.175",
    }  # fmt: skip


def test_the_most_specific_price_wins():
    """owner/name beats the bare name, which beats the star, in whatever order they stand."""
    prices = [Price("rows", "1"), Price("rows", "2", model="digits"),
              Price("rows", "3", model="acme/digits")]  # fmt: skip
    rows = [Row(quantity=1, deployment=name) for name in ("acme/digits", "other/digits", "acme/x")]
    for order in (prices, prices[::-1]):
        lines = rated(order, *rows).lines
        assert {line.model: line.unit_price for line in lines} == {
            "acme/digits": "3", "other/digits": "2", "acme/x": "1",
        }  # fmt: skip


def test_included_and_unrated_are_told_apart():
    """No price for a meter is included; no plan or no price for the model is unrated."""
    rating = rated(
        [Price("rows", "1", model="digits")],
        Row("requests"),
        Row(deployment="acme/letters"),
        Row(plan_version=None),
        Row(plan_version="gone:4"),
    )
    assert (rating.lines, rating.currency, rating.total) == ((), None, 0)
    assert [row.meter for row in rating.included] == ["requests"]
    assert {row.reason for row in rating.unrated} == {NO_PRICE, NO_PLAN, UNKNOWN_PLAN}


def test_each_plan_version_rates_its_own_usage():
    """Usage under an old version of a plan keeps its price."""
    plans = {"basic:1": plan(Price("rows", "1")), "basic:2": plan(Price("rows", "2"), version=2)}
    lines = rate([Row(quantity=3), Row(quantity=5, plan_version="basic:2")], plans).lines
    assert [(line.plan, line.amount) for line in lines] == [
        ("basic:1", "3.00"),
        ("basic:2", "10.00"),
    ]


def test_two_currencies_are_refused():
    """Usage priced in two currencies cannot stand on one invoice; the error names both."""
    plans = {"a:1": plan(Price("rows", "1"), name="a"),
             "b:1": plan(Price("rows", "1"), name="b", currency="USD")}  # fmt: skip
    with pytest.raises(MeuseError) as caught:
        rate([Row(plan_version="a:1"), Row(plan_version="b:1")], plans)
    assert caught.value.code is Code.CONFLICT
    assert "EUR (plan a:1) and USD (plan b:1)" in caught.value.message
    # A plan that prices nothing of the usage has no say in the currency.
    assert (
        rate([Row(plan_version="a:1"), Row("images", plan_version="b:1")], plans).currency == "EUR"
    )


@pytest.mark.parametrize(
    ("quantity", "per", "price", "currency", "amount"),
    [
        (1, 8, "1", "EUR", "0.12"),  # 0.125: half to even
        (3, 8, "1", "EUR", "0.38"),  # 0.375
        (1, 3, "0.03", "EUR", "0.01"),
        (7, 2, "1", "JPY", "4"),
        (1, 10**12, "0.000000000001", "EUR", "0.00"),
        (10**18, 1, "123456789.123456789123456789", "EUR", "123456789123456789123456789.00"),
        (5 * 10**17 + 1, 10**20, "1", "EUR", "0.01"),  # 0.00500000000000000001: above the half
        (5 * 10**17, 10**20, "1", "EUR", "0.00"),
    ],
)
def test_amounts_are_exact_and_rounded_once(quantity, per, price, currency, amount):
    """Amounts are computed exactly and rounded half-even to the currency's minor unit."""
    rating = rate([Row(quantity=quantity)], {"basic:1": plan(Price("rows", price, per),
                                                             currency=currency)})  # fmt: skip
    assert rating.lines[0].amount == amount
    assert amount_text(rating.total, currency) == amount


ROWS = st.lists(
    st.builds(
        Row,
        meter=st.sampled_from(["rows", "requests", "images"]),
        deployment=st.sampled_from(["acme/digits", "acme/letters", "guest/digits"]),
        plan_version=st.sampled_from(["basic:1", "basic:2", "gone:1", None]),
        quantity=st.integers(0, 2**53),
    ),
    max_size=12,
)
PLANS = {
    "basic:1": plan(Price("rows", "0.333", 1000), Price("images", "7", 3, "digits")),
    "basic:2": plan(Price("rows", "0.1", 7, "acme/digits"), Price("requests", "0.0001"), version=2),
}


@given(ROWS, st.randoms(use_true_random=False))
def test_order_and_buckets_do_not_matter(rows, rng):
    """Any permutation and any splitting into more buckets gives the same lines."""
    pieces = []
    for row in rows:
        part = rng.randint(0, row.quantity)
        pieces += [Row(row.meter, row.deployment, row.plan_version, n)
                   for n in (part, row.quantity - part)]  # fmt: skip
    rng.shuffle(pieces)
    assert rate(pieces, PLANS) == rate(rows, PLANS)


@given(ROWS)
def test_nothing_gets_lost(rows):
    """The total is the sum of the lines; every quantity is in a line, included or unrated."""
    rating = rate(rows, PLANS)
    assert rating.total == sum(Decimal(line.amount) for line in rating.lines)
    went_in: Counter[str] = Counter()
    came_out: Counter[str] = Counter()
    for row in rows:
        went_in[row.meter] += row.quantity
    for part in (*rating.lines, *rating.included, *rating.unrated):
        came_out[part.meter] += part.quantity
    assert came_out == went_in


def test_the_price_of_a_unit_for_estimates():
    """The rule that rating would use; of tiers the dearest; None where it would use none."""
    steps = (Step(10, "3"), Step(None, "10"))
    listed = plan(
        Price("rows", "1"), Price("rows", "2", 5, "digits", "batch", free=9),
        Price("images", per=7, scheme="graduated", tiers=steps),
    )  # fmt: skip
    assert price_of(listed, "rows", "acme/digits", "batch") == Price(
        "rows", "2", 5, "digits", "batch"
    )
    assert price_of(listed, "rows", "acme/digits", "standard") == Price("rows", "1")
    assert price_of(listed, "images", "acme/x", "batch") == Price("images", "10", 7)
    assert price_of(listed, "requests", "acme/x", "batch") is None


def test_estimates_keep_packages_and_granules():
    """A unit of a package costs the package: an estimate by the unit would be too low."""
    listed = plan(
        Price("rows", "5", 1000, scheme="package", free=100), Price("images", "2", round_up_to=10)
    )
    assert price_of(listed, "rows", "acme/x", "batch") == Price("rows", "5", 1000, scheme="package")
    assert price_of(listed, "images", "acme/x", "batch") == Price("images", "2", round_up_to=10)
