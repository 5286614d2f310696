"""What never changes what is owed: order, splits, rating again, a version that says the same."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from decimal import Decimal, localcontext
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.make_plans import (
    BUCKET_MS,
    BUCKETS,
    END,
    MONTH,
    TIERS,
    Event,
    invoice,
    one_price,
    rows_of,
    sums,
)
from billing.make_usage import plan
from meuse.billing.lines import difference, total_of
from meuse.billing.plans.budget import budget_base, budget_price
from meuse.billing.plans.calendar import Stint
from meuse.billing.plans.curve import PRECISION, cost, slices
from meuse.billing.rating import rate
from meuse.billing.statement import assess, what_if
from meuse.core.plans import Credits, Discount, Fee, Price, Step, Tax

METERS = ("rows", "requests", "images", "replica_ms")
CENT = Decimal("0.01")
EXAMPLES = int(os.environ.get("HYPOTHESIS_EXAMPLES", "40"))

amounts = st.decimals(0, 5, places=4).map(lambda n: f"{n:f}")
small = st.integers(1, 60)


@st.composite
def steps(draw, flat: bool = False):
    ends = sorted(draw(st.sets(st.integers(1, 120), max_size=3)))
    flats = amounts if flat else st.just("0")
    return tuple(Step(end, draw(amounts), draw(flats)) for end in [*ends, None])


@st.composite
def prices(draw, meter: str = "rows", model: str = "*", tier: str = "*"):
    scheme = draw(st.sampled_from(["unit", "graduated", "volume", "package"]))
    stepped = scheme in ("graduated", "volume")
    return Price(
        meter,
        "0" if stepped else draw(amounts),
        draw(small),
        model,
        tier,
        scheme,
        draw(steps(scheme == "graduated")) if stepped else (),
        draw(st.integers(0, 30)),
        draw(st.integers(1, 7)),
    )


@st.composite
def plans(draw, name: str = "basic", version: int = 1):
    """Prices of every scheme with one counter or several, and terms of every kind."""
    rules = [
        draw(prices("rows")),
        draw(prices("rows", "letters")),
        draw(prices("requests")),
        Price("images", draw(amounts), draw(small)),
        Price("images", draw(amounts), 1, "*", "batch"),
    ]
    bound = st.none() | amounts
    return plan(
        *rules,
        name=name,
        version=version,
        fees=draw(st.sampled_from([(), (Fee("base", "4.90"), Fee("r", "0.01", "hour", 3))])),
        discounts=draw(st.sampled_from([(), (Discount("deal", "12.5"),),
                                        (Discount("a", "10"), Discount("b", "50", "images"))])),
        stacking=draw(st.sampled_from(["stack", "best_of", "precedence"])),
        maximum=draw(bound),
        minimum=draw(bound),
        credits=draw(st.none() | st.builds(Credits, amounts)),
        tax=draw(st.none() | st.builds(Tax, st.just("VAT"), st.sampled_from(["5", "21", "7.7"]))),
    )  # fmt: skip


@st.composite
def events(draw, refs=("basic:1",)):
    return draw(
        st.lists(
            st.builds(
                Event,
                st.integers(0, 90),
                st.integers(0, BUCKETS - 1),
                st.sampled_from(METERS),
                st.sampled_from(["acme/digits", "acme/letters", "guest/letters"]),
                st.sampled_from(refs),
                st.sampled_from(["standard", "batch"]),
            ),
            max_size=8,
        )
    )


cuts = st.sets(st.integers(1, BUCKETS - 1), max_size=3).map(
    lambda at: [MONTH, *(MONTH + n * BUCKET_MS for n in sorted(at)), END]
)


def total_of_parts(borders, used, *terms, calendar=None):
    ratings = [
        invoice(used, *terms, start=low, end=high, calendar=calendar)
        for low, high in pairwise(borders)
    ]
    return sum((rating.total for rating in ratings), Decimal(0)), ratings


@settings(max_examples=EXAMPLES)
@given(plans(), events(), cuts)
def test_a_split_month_owes_the_same(terms, used, borders):
    """To the last digit, with tiers, packages, fees, bounds, credits and tax; quantities too."""
    whole = invoice(used, terms)
    total, parts = total_of_parts(borders, used, terms)
    assert total == whole.total
    quantities: Counter = Counter()
    for rating in parts:
        for line in rating.lines:
            quantities[line.key] += line.quantity
    assert {k: n for k, n in quantities.items() if n} == {
        line.key: line.quantity for line in whole.lines if line.quantity
    }


@settings(max_examples=EXAMPLES)
@given(plans(), plans("pro"), plans("basic", 2), events(("basic:1", "pro:1", "basic:2")), cuts,
       st.integers(1, BUCKETS - 2))  # fmt: skip
def test_a_split_month_with_changes_of_plan_owes_the_same(a, b, c, used, borders, at):
    """Whatever plans there were, and wherever they changed."""
    change = MONTH + at * BUCKET_MS + 1234
    calendar = (Stint(MONTH, change, a), Stint(change, change + 777_000, b),
                Stint(change + 777_000, END, c))  # fmt: skip
    whole = invoice(used, a, b, c, calendar=calendar)
    assert total_of_parts(borders, used, a, b, c, calendar=calendar)[0] == whole.total


@settings(max_examples=EXAMPLES)
@given(plans(), events(), st.randoms(use_true_random=False))
def test_order_and_buckets_do_not_matter(terms, used, rng):
    """Usage in any order, cut into any pieces within its bucket, gives the same invoice."""
    pieces = []
    for event in used:
        part = rng.randint(0, event.quantity)
        pieces += [replace(event, quantity=n) for n in (part, event.quantity - part)]
    rng.shuffle(pieces)
    assert invoice(pieces, terms) == invoice(used, terms)


@settings(max_examples=EXAMPLES)
@given(plans(), events(), st.integers(1, BUCKETS - 2))
def test_a_new_version_that_says_the_same_owes_the_same(terms, used, at):
    """Before rounding to the last digit, and rounded by at most half a cent a line."""
    change = MONTH + at * BUCKET_MS
    again = replace(terms, version=2)
    calendar = (Stint(MONTH, change, terms), Stint(change, END, again))
    moved = [replace(e, plan_version="basic:2") if e.bucket >= at else e for e in used]
    before, after = invoice(used, terms), invoice(moved, terms, again, calendar=calendar)
    for kind in ("usage", "fee"):
        owed = (sums(rating).get(kind, Decimal(0)) for rating in (before, after))
        one, other = owed
        with localcontext(prec=PRECISION):
            apart = abs(one - other)
        assert apart < Decimal("1e-80")  # what the last of 120 digits leaves
    lines = len(before.lines) + len(after.lines)
    assert abs(before.total - after.total) <= lines * CENT / 2 * Decimal("1.21") + CENT


@settings(max_examples=EXAMPLES)
@given(plans(), events(), events())
def test_rating_what_is_added_gives_the_whole(terms, first, more):
    """rate(a) + difference(a → b) == rate(b), also for prices that fall."""
    known = {"basic:1": terms}
    a, b = rate(rows_of(first), known), rate(rows_of(first + more), known)
    assert total_of(a.lines) + total_of(difference(b.lines, a.lines, "EUR")) == total_of(b.lines)
    assert difference(b.lines, b.lines, "EUR") == ()
    back = difference((), b.lines, "EUR")
    assert total_of(back) == -b.total
    assert all(line.quantity == -old.quantity for line, old in zip(back, b.lines, strict=True))


@settings(max_examples=EXAMPLES)
@given(plans(), events(), plans("other"))
def test_rating_again_is_no_matter(terms, used, other):
    """Rated twice, and as if under its own plan, usage owes the same; under another it is
    what usage under that one owes."""
    assert invoice(used, terms) == invoice(used, terms)
    assert what_if(rows_of(used), terms, MONTH, END) == invoice(used, terms)
    theirs = [replace(event, plan_version="other:1") for event in used]
    assert what_if(rows_of(used), other, MONTH, END) == invoice(theirs, other)


@settings(max_examples=EXAMPLES)
@given(plans(), events(("basic:1", "gone:1", None)))
def test_nothing_gets_lost(terms, used):
    """Every quantity is on a line, included or unrated, and the total is that of the lines."""
    rating = invoice(used, terms)
    went_in: Counter = Counter()
    came_out: Counter = Counter()
    for event in used:
        went_in[event.meter] += event.quantity
    parts = [line for line in rating.lines if line.kind == "usage"]
    for part in (*parts, *rating.included, *rating.unrated):
        came_out[part.meter] += part.quantity
    if rating.currency is None:
        came_out -= Counter()
    assert +came_out == +went_in
    assert rating.total == sum(Decimal(line.amount) for line in rating.lines)
    assert all(row.meter == "replica_ms" for row in rating.included)


@settings(max_examples=EXAMPLES)
@given(plans(), events(), st.integers(0, 40).map(str))
def test_bounds_hold_to_the_cent(terms, used, bound):
    """A month comes to no more than the maximum and no less than the minimum."""
    open_ = replace(terms, credits=None, tax=None)
    assert invoice(used, replace(open_, minimum=None, maximum=bound)).total <= Decimal(bound)
    assert invoice(used, replace(open_, minimum=bound, maximum=None)).total >= Decimal(bound)


def by_unit(price: Price, counted: int) -> Decimal:
    """The rules of pricing said in the plainest way: one unit after the other."""
    while counted % price.round_up_to:
        counted += 1
    units = max(counted - price.free, 0)
    owed = Decimal(0)
    if price.scheme == "package":
        while units > 0:
            owed, units = owed + Decimal(price.amount), units - price.per
        return owed
    step_at = lambda n: next(s for s in price.tiers if s.up_to is None or n <= s.up_to)  # noqa: E731
    entered = set()
    for n in range(1, units + 1):
        if price.scheme == "graduated":
            step = step_at(n)
            owed += Decimal(step.amount) / price.per
            if step not in entered:
                entered.add(step)
                owed += Decimal(step.flat)
        elif price.scheme == "volume":
            owed += Decimal(step_at(units).amount) / price.per
        else:
            owed += Decimal(price.amount) / price.per
    return owed


@settings(max_examples=EXAMPLES)
@given(prices(), st.integers(0, 300))
def test_curves_say_what_counting_says(price, counted):
    """Each scheme, with free units and granules, against a count of one unit after the other."""
    exact = cost(slices(price, 0, counted, counted)) / price.per
    assert abs(exact - by_unit(price, counted)) < Decimal("1e-18")


@settings(max_examples=EXAMPLES)
@given(prices(), st.lists(st.integers(0, 100), min_size=1, max_size=4))
def test_curves_add_up(price, counts):
    """The parts of a count cost what the whole costs; slices hold all that is not free."""
    total = sum(counts)
    at, owed, units = 0, Decimal(0), 0
    for n in counts:
        parts = slices(price, at, at + n, total)
        owed += cost(parts)
        units += sum(part.quantity for part in parts)
        assert len(parts) >= 1
        at += n
    whole = slices(price, 0, total, total)
    assert owed == cost(whole)
    assert units == sum(part.quantity for part in whole)


@settings(max_examples=EXAMPLES)
@given(steps(), st.integers(1, 20), st.integers(0, 400))
def test_graduated_is_continuous_and_monotone(tiers, per, counted):
    """One unit more never costs less, and never more than the highest price of a unit."""
    price = Price("rows", per=per, scheme="graduated", tiers=tiers)
    now, then = (cost(slices(price, 0, n, n)) for n in (counted, counted + 1))
    assert 0 <= then - now <= max(Decimal(step.amount) for step in tiers)


@settings(max_examples=EXAMPLES)
@given(amounts, small, st.integers(0, 400))
def test_a_package_costs_no_less_than_its_units(amount, per, counted):
    """And at most one package more."""
    price = Price("rows", amount, per, scheme="package")
    exact = cost(slices(price, 0, counted, counted)) / per
    pro_rata = counted * Decimal(amount)
    assert pro_rata <= exact * per <= pro_rata + per * Decimal(amount)


@settings(max_examples=EXAMPLES)
@given(plans(), events())
def test_a_budget_counts_no_less_than_what_is_invoiced(terms, used):
    """Quantity × budget price, and what a period may owe besides, is never below the usage."""
    bound = Decimal(0)
    for meter in ("rows", "requests", "images"):
        models = {event.deployment for event in used if event.meter == meter}
        for model in models:
            quantity = sum(e.quantity for e in used if (e.meter, e.deployment) == (meter, model))
            price = budget_price(terms, meter, model)
            assert price is not None
            bound += quantity * price + budget_base(terms, meter, model)
    assert sums(invoice(used, terms)).get("usage", Decimal(0)) <= bound


@pytest.mark.parametrize(
    ("terms", "model", "price", "base"),
    [
        (one_price(amount="0.50", per=1000), "acme/m", "0.0005", "0"),
        (one_price(amount="1", per=3), "acme/m", "0.3333333333333333333333333333333333333334", "0"),
        (one_price(scheme="graduated", tiers=TIERS), "acme/m", "0.010", "0"),
        (one_price(scheme="graduated", tiers=(Step(9, "1", "4"), Step(None, "2", "3"))), "m",
         "2", "7"),
        (one_price(scheme="volume", tiers=TIERS, per=10), "acme/m", "0.001", "0"),
        (one_price(scheme="package", amount="5", per=1000), "acme/m", "0.005", "4.995"),
        (one_price(amount="2", round_up_to=60), "acme/m", "2", "118"),
        (plan(Price("rows", "1"), Price("rows", "3", tier="batch")), "acme/m", "3", "0"),
        (plan(Price("rows", "9"), Price("rows", "3", model="m")), "acme/m", "3", "0"),
        (plan(Price("rows", "9"), Price("rows", "3", model="m", tier="batch")), "acme/m", "9", "0"),
        (plan(Price("rows", "9", model="m"), Price("rows", "3", model="acme/m")), "acme/m", "3",
         "0"),
        (plan(Price("images", "9")), "acme/m", "0", "0"),
    ],
)  # fmt: skip
def test_the_price_that_budgets_count(terms, model, price, base):
    """The highest price that a unit may have, rounded up, and what a period owes besides."""
    assert budget_price(terms, "rows", model) == Decimal(price)
    assert budget_base(terms, "rows", model) == Decimal(base)


def test_what_is_unrated_has_no_budget_price():
    """None is not 0: a plan that prices the meter for other models does not include it."""
    terms = plan(Price("rows", "1", model="other"))
    assert budget_price(terms, "rows", "acme/m") is None
    assert budget_base(terms, "rows", "acme/m") == 0


def test_no_plan_owes_nothing():
    """Without plan and usage there is no currency and no line."""
    rating = assess([], {}, (), MONTH, END)
    assert (rating.lines, rating.currency, rating.total) == ((), None, 0)
