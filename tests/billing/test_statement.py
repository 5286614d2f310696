"""What is owed for a period: months, splits, changes of plan, currencies, what-if."""

from __future__ import annotations

from decimal import Decimal

import pytest

from billing.make_plans import (
    BUCKET_MS,
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
from meuse.billing.lines import decimal_text
from meuse.billing.plans.calendar import Month, Stint, months, projected, stints, until, windows
from meuse.billing.rating import NO_PLAN, NO_PRICE, UNKNOWN_PLAN
from meuse.billing.statement import as_under, assess, what_if
from meuse.core.errors import Code, MeuseError
from meuse.core.plans import Credits, Discount, Fee, Price, Step, Tax

DAY_MS = 86_400_000
MID = MONTH + 15 * DAY_MS
GRADUATED = one_price(scheme="graduated", tiers=TIERS)


def test_months_are_utc():
    """A range touches each month that it has a moment of; windows start where counters do."""
    december = Month(END, END + 31 * DAY_MS)
    assert months(MONTH, END) == [Month(MONTH, END)]
    assert months(MONTH + 1, END + 1) == [Month(MONTH, END), december]
    assert months(END - 1, END) == [Month(MONTH, END)]
    assert Month(MONTH, END).seconds == 30 * 86_400
    assert windows(MONTH, END) == [(MONTH, END)]
    assert windows(MID, END + 5) == [(MONTH, MID), (MID, END), (END, END + 5)]
    january = months(december.end_ms, december.end_ms + 1)[0]
    assert january.seconds == 31 * 86_400
    leap = months(1_709_164_800_000, 1_709_164_800_001)[0]  # 2024-02-29
    assert leap.seconds == 29 * 86_400


def test_a_calendar_knows_tenants_and_versions():
    """Who had which plan, and which version of it was the latest then."""
    one, two = plan(made=MONTH - 5), plan(version=2, made=MID)
    other = plan(name="pro", made=MONTH - 9)
    known = {"basic": [two, one], "pro": [other], "none": []}
    changes = [(MONTH - 1, None), (MONTH + 10, "basic"), (MID + 7, "pro"), (MID + 9, "none")]
    found = stints(changes, known.__getitem__, MONTH, END)
    assert found == (
        Stint(MONTH + 10, MID, one), Stint(MID, MID + 7, two), Stint(MID + 7, MID + 9, other),
    )  # fmt: skip
    assert stints([(0, "basic:1")], known.__getitem__, MONTH, END) == (Stint(MONTH, END, one),)
    assert stints([(0, "basic")], known.__getitem__, MONTH - 99, MID) == (
        Stint(MONTH - 5, MID, one),
    )
    assert stints([], known.__getitem__, MONTH, END) == ()


def test_stints_by_the_second():
    """Seconds of adjacent stints add up, wherever the border lies; cut and projected."""
    terms = plan()
    for border in (MONTH + 1, MONTH + 999, MONTH + 1000, MONTH + 1001):
        one, other = Stint(MONTH, border, terms), Stint(border, MONTH + 5000, terms)
        assert one.seconds + other.seconds == 5
    whole = (Stint(MONTH, MID, terms), Stint(MID, END, terms))
    assert until(whole, MID) == whole[:1]
    assert until(whole, MID + 1) == (whole[0], Stint(MID, MID + 1, terms))
    assert projected(until(whole, MID + 1), MID + 1, END) == whole
    assert projected(whole[:1], MID + 1, END) == whole[:1]
    assert projected((), MID, END) == ()


def test_a_change_of_currency_waits_for_the_quarter():
    """An invoice in each currency ends where the other begins, and nothing is lost."""
    euros = plan(fees=(Fee("base", "30"),), made=0)
    dollars = plan(name="us", currency="USD", fees=(Fee("base", "30"),), made=0)
    changes = [(0, "basic"), (MID + 7, "us")]
    calendar = stints(changes, {"basic": [euros], "us": [dollars]}.__getitem__, MONTH, END)
    border = MID + BUCKET_MS
    assert [(s.start_ms, s.end_ms) for s in calendar] == [(MONTH, border), (border, END)]
    with pytest.raises(MeuseError, match=r"EUR \(plan basic:1\) and USD \(plan us:1\)") as caught:
        assess([], {}, calendar, MONTH, END)
    assert (caught.value.code, caught.value.field) == (Code.CONFLICT, "period")
    assert "two periods" in str(caught.value.hint)
    first = assess([], {}, calendar, MONTH, border)
    second = assess([], {}, calendar, border, END)
    assert (first.currency, second.currency) == ("EUR", "USD")
    assert first.total + second.total == 30
    assert second.lines[0].before is None


def test_a_fee_is_pro_rata_by_second():
    """A plan that is left after half a month costs half of its fee, and the other its half."""
    old, new = plan(fees=(Fee("base", "49"),)), plan(version=2, fees=(Fee("base", "99"),))
    calendar = (Stint(MONTH, MID, old), Stint(MID, END, new))
    rating = invoice([], old, new, calendar=calendar)
    assert [(line.plan, line.amount, line.quantity) for line in rating.lines] == [
        ("basic:1", "24.50", 15 * 86_400), ("basic:2", "49.50", 15 * 86_400),
    ]  # fmt: skip
    line = rating.lines[0]
    assert (line.per, line.unit_price, line.name, line.meter) == (30 * 86_400, "49", "base", "")
    assert line.period == (MONTH, END)


def test_bounds_and_credits_are_pro_rata():
    """Half a month under a plan has half of its maximum, minimum and credits."""
    terms = plan(Price("rows", "1"), maximum="400", minimum="100", credits=Credits("40"))
    half = (Stint(MID, END, terms),)
    high = invoice([Event(1_000)], terms, calendar=half)
    assert {kind: str(n) for kind, n in sums(high).items()} == {
        "usage": "1000", "maximum": "-800.00", "credit": "-20.00",
    }  # fmt: skip
    low = invoice([Event(10)], terms, calendar=half)
    assert {kind: str(n) for kind, n in sums(low).items()} == {
        "usage": "10", "minimum": "40.00", "credit": "-20.00",
    }  # fmt: skip


def test_a_plan_that_was_never_in_force_has_no_bounds():
    """Usage that still bears a plan's name is not capped to nothing once the plan is gone."""
    terms = plan(Price("rows", "1"), maximum="400", minimum="100", credits=Credits("40"))
    rating = invoice([Event(1_000)], terms, calendar=())
    assert [(line.kind, line.amount) for line in rating.lines] == [("usage", "1000.00")]


def test_a_maximum_holds_for_the_plans_that_have_one():
    """Usage under a plan without maximum is not capped, and does not use up another's."""
    capped, free = plan(Price("rows", "1"), maximum="400"), plan(Price("rows", "1"), name="free")
    calendar = (Stint(MONTH, MID, capped), Stint(MID, END, free))
    used = [Event(300), Event(900, bucket=2000, plan_version="free:1")]
    rating = invoice(used, capped, free, calendar=calendar)
    assert [(line.plan, line.amount) for line in rating.lines] == [
        ("basic:1", "300.00"), ("free:1", "900.00"), ("basic:1", "-100.00"),
    ]  # fmt: skip


def test_the_minimum_waits_for_the_end_of_the_month():
    """Before, nothing is added; the last invoice has what the whole month lacks."""
    terms = plan(Price("rows", "1"), minimum="500")
    used = [Event(100), Event(112, bucket=2000)]
    first = invoice(used, terms, end=MID)
    assert [(line.kind, line.amount) for line in first.lines] == [("usage", "100.00")]
    second = invoice(used, terms, start=MID)
    assert [(line.kind, line.amount) for line in second.lines] == [
        ("usage", "112.00"), ("minimum", "288.00"),
    ]  # fmt: skip
    assert first.total + second.total == 500


def test_a_split_month_goes_on_in_its_tiers():
    """The second invoice starts in the tier where the first one ended, and says so."""
    used = [Event(1_500), Event(9_000, bucket=2000)]
    first, second = invoice(used, GRADUATED, end=MID), invoice(used, GRADUATED, start=MID)
    assert (first.total, second.total) == (Decimal("14.00"), Decimal("70.50"))
    (line,) = second.lines
    assert line.to_dict() == {
        "meter": "rows", "model": "*", "plan": "basic:1", "quantity": 9_000, "per": 1,
        "unit_price": None, "amount": "70.50", "kind": "usage", "tier": "*", "exact": "70.5",
        "scheme": "graduated",
        "tiers": [
            {"up_to": 10_000, "quantity": 8_500, "unit_price": "0.008", "exact": "68"},
            {"up_to": None, "quantity": 500, "unit_price": "0.005", "exact": "2.5"},
        ],
        "models": {"acme/digits": 9_000},
        "period": {"from": "2026-11-16T00:00:00.000Z", "to": "2026-12-01T00:00:00.000Z"},
        "before": {"quantity": 1_500, "amount": "14.00"},
    }  # fmt: skip
    assert invoice(used[:1], GRADUATED, start=MID).lines == ()


def test_a_volume_price_is_rated_again_when_a_tier_is_reached():
    """The second invoice gives back what the first took too much: the month is right."""
    terms = one_price(scheme="volume", tiers=TIERS)
    used = [Event(10_000), Event(1, bucket=2000)]
    second = invoice(used, terms, start=MID)
    assert (second.total, invoice(used, terms).total) == (Decimal("-30.00"), Decimal("50.00"))
    assert [(t.up_to, t.quantity) for t in second.lines[0].tiers] == [
        (None, 10_001), (10_000, -10_000),
    ]  # fmt: skip


def test_tiers_count_across_deployments_and_plan_changes():
    """One price rule has one counter, whatever it is used for and whichever version it is in."""
    dearer = plan(
        Price("rows", scheme="graduated", tiers=(TIERS[0], Step(None, "0.009"))), version=2
    )
    used = [
        Event(600), Event(600, deployment="acme/letters"),
        Event(9_000, bucket=2000, plan_version="basic:2"),
    ]  # fmt: skip
    rating = invoice(used, GRADUATED, dearer)
    assert [(line.plan, line.model, line.exact) for line in rating.lines] == [
        ("basic:1", "*", Decimal("11.600")), ("basic:2", "*", Decimal("81.000")),
    ]  # fmt: skip
    assert dict(rating.lines[0].models) == {"acme/digits": 600, "acme/letters": 600}


def test_usage_of_the_plan_used_first_comes_first():
    """Not of the one that was made first: a tenant may go back to an older plan."""
    old = plan(Price("rows", scheme="graduated", tiers=TIERS), name="old", made=1)
    new = plan(Price("rows", scheme="graduated", tiers=TIERS), name="new", made=2)
    used = [Event(1_000, plan_version="new:1"), Event(1_000, bucket=9, plan_version="old:1")]
    amounts = {line.plan: line.amount for line in invoice(used, old, new).lines}
    assert amounts == {"new:1": "10.00", "old:1": "8.00"}


def test_free_units_are_free_once():
    """Free units count over tiers of usage and deployments, and stand on the line."""
    terms = one_price(amount="0.5", free=100)
    used = [Event(60, tier="batch"), Event(70, deployment="acme/x"), Event(20, bucket=2000)]
    (line,) = invoice(used, terms).lines
    assert (line.quantity, line.free, line.amount, line.unit_price) == (150, 100, "25.00", "0.5")
    (first,) = invoice(used[::2], terms, end=MID).lines
    assert (first.quantity, first.free, first.amount) == (60, 60, "0.00")
    (second,) = invoice(used[::2], terms, start=MID).lines
    assert (second.quantity, second.free, second.amount) == (20, 20, "0.00")


def test_a_price_may_be_for_a_tier():
    """The model counts first, then the tier; usage of a tier without a price is unrated."""
    terms = plan(
        Price("rows", "8"), Price("rows", "4", tier="batch"), Price("rows", "2", model="digits"),
        Price("images", "1", tier="standard"),
    )  # fmt: skip
    used = [
        Event(1), Event(1, tier="batch"), Event(1, deployment="acme/x"),
        Event(1, deployment="acme/x", tier="batch"), Event(3, meter="images", tier="batch"),
    ]  # fmt: skip
    rating = invoice(used, terms)
    assert {(line.model, line.tier): line.unit_price for line in rating.lines} == {
        ("acme/digits", "standard"): "2", ("acme/digits", "batch"): "2",
        ("acme/x", "standard"): "8", ("acme/x", "batch"): "4",
    }  # fmt: skip
    (missing,) = rating.unrated
    assert (missing.meter, missing.tier, missing.quantity) == ("images", "batch", 3)


def test_discounts_stand_on_the_line():
    """Names and percentages of those that were applied, and only where they hold."""
    terms = plan(
        Price("rows", "1"), Price("images", "1"),
        discounts=(Discount("deal", "10"), Discount("digits", "20", model="digits"),
                   Discount("rows", "30", meter="rows")),
    )  # fmt: skip
    used = [Event(1000), Event(1000, deployment="acme/x"), Event(1000, meter="images")]
    lines = {(x.model, x.meter): (x.amount, x.discounts) for x in invoice(used, terms).lines}
    assert lines == {
        ("acme/digits", "rows"): ("504.00", (("deal", "10"), ("digits", "20"), ("rows", "30"))),
        ("acme/x", "rows"): ("630.00", (("deal", "10"), ("rows", "30"))),
        ("acme/digits", "images"): ("720.00", (("deal", "10"), ("digits", "20"))),
    }


def test_tax_is_that_of_the_plan_at_the_end():
    """One rate for what is left to pay; it is named, and an earlier invoice's is taken off."""
    low, high = plan(Price("rows", "1"), tax=Tax("VAT", "10")), plan(
        Price("rows", "1"), version=2, tax=Tax("VAT", "20"))  # fmt: skip
    calendar = (Stint(MONTH, MID, low), Stint(MID, END, high))
    used = [Event(100), Event(100, bucket=2000, plan_version="basic:2")]
    first = invoice(used, low, high, calendar=calendar, end=MID)
    assert [(x.kind, x.name, x.amount) for x in first.lines][1:] == [("tax", "VAT 10 %", "10.00")]
    second = invoice(used, low, high, calendar=calendar, start=MID)
    assert [(x.kind, x.name, x.amount) for x in second.lines][1:] == [("tax", "VAT 20 %", "30.00")]
    gone = invoice(used, low, high, calendar=())  # the plan of the last line
    assert gone.lines[-1].amount == "40.00"
    assert invoice([Event(0)], low).total == 0


def test_a_cap_that_was_lifted_is_given_back():
    """When a later plan has a higher maximum, what was taken off before is owed after all."""
    low, high = plan(Price("rows", "1"), maximum="100"), plan(
        Price("rows", "1"), version=2, maximum="900")  # fmt: skip
    calendar = (Stint(MONTH, MID, low), Stint(MID, END, high))
    first = invoice([Event(300)], low, high, calendar=calendar, end=MID)
    assert [(x.kind, x.amount) for x in first.lines] == [
        ("usage", "300.00"), ("maximum", "-200.00"),
    ]  # fmt: skip
    second = invoice([Event(300)], low, high, calendar=calendar, start=MID)
    assert [(x.kind, x.amount, x.quantity) for x in second.lines] == [("maximum", "200.00", 0)]
    assert second.lines[0].before.amount == "-200.00"


def test_two_months_are_two_periods():
    """Counters and fees start again with the month; lines say which one they are of."""
    terms = plan(
        Price("rows", scheme="graduated", tiers=TIERS), fees=(Fee("base", "31"),), minimum="50"
    )
    used = [Event(1_500), Event(1_500, bucket=30 * 96)]
    rating = invoice(used, terms, end=END + 31 * DAY_MS)
    assert [(x.kind, x.amount, x.period) for x in rating.lines] == [
        (kind, amount, period)
        for period in ((MONTH, END), (END, END + 31 * DAY_MS))
        for kind, amount in (("usage", "14.00"), ("fee", "31.00"), ("minimum", "5.00"))
    ]


def test_what_if_takes_all_usage_as_under_one_plan():
    """Also usage without a plan; fees are those of the whole period."""
    other = plan(Price("rows", "2"), name="other", fees=(Fee("base", "30"),))
    used = [Event(5), Event(5, plan_version=None), Event(5, bucket=2000, plan_version="gone:1")]
    rating = what_if(rows_of(used), other, MONTH, END)
    assert [(x.kind, x.quantity, x.amount) for x in rating.lines] == [
        ("usage", 15, "30.00"), ("fee", 30 * 86_400, "30.00"),
    ]  # fmt: skip
    half = what_if(rows_of(used, MID, END), other, MID, END)
    assert [(x.kind, x.amount) for x in half.lines] == [("usage", "10.00"), ("fee", "15.00")]


def test_only_what_has_no_price_is_rated_as_under_another_plan():
    """Usage with a price, and usage that is included, stay under their own plan."""
    mine, remedy = plan(Price("rows", "1")), plan(Price("rows", "3"), name="remedy")
    used = [Event(1), Event(2, plan_version=None), Event(4, meter="images")]
    moved = as_under(rows_of(used), remedy, only={"basic:1": mine})
    assert {(row.quantity, row.plan_version) for row in moved} == {
        (1, "basic:1"), (2, "remedy:1"), (4, "basic:1"),
    }  # fmt: skip


def test_every_kind_of_line_as_it_is_shown():
    """All that a line says, and nothing that it has not."""
    terms = plan(
        Price("rows", "1", 10, free=100), fees=(Fee("reserved", "0.5", "hour", 2, "acme/x"),),
        discounts=(Discount("deal", "10"),), maximum="800", credits=Credits("40"),
        tax=Tax("VAT", "21"),
    )  # fmt: skip
    usage, fee, maximum, credit, tax = [
        line.to_dict() for line in invoice([Event(2_105)], terms).lines
    ]
    period = {"from": "2026-11-01T00:00:00.000Z", "to": "2026-12-01T00:00:00.000Z"}
    assert usage == {
        "meter": "rows", "model": "*", "plan": "basic:1", "quantity": 2_105, "per": 10,
        "unit_price": "1", "amount": "180.45", "kind": "usage", "tier": "*", "exact": "180.45",
        "free": 100, "discounts": [{"name": "deal", "percent": "10"}],
        "models": {"acme/digits": 2_105}, "period": period,
    }  # fmt: skip
    assert fee == {
        "meter": "", "model": "acme/x", "plan": "basic:1", "quantity": 2 * 30 * 86_400,
        "per": 3600, "unit_price": "0.5", "amount": "720.00", "kind": "fee", "tier": "",
        "exact": "720", "name": "reserved", "period": period,
    }  # fmt: skip
    due = {
        "meter": "", "model": "", "plan": "basic:1", "quantity": 0, "per": 1, "unit_price": None,
        "tier": "", "period": period,
    }  # fmt: skip
    for line, kind, name, amount, exact in (
        (maximum, "maximum", "maximum", "-100.45", "-100.45"),
        (credit, "credit", "credit", "-40.00", "-40"),
        (tax, "tax", "VAT 21 %", "159.60", "159.6"),
    ):
        rate = {"unit_price": "21", "per": 100} if kind == "tax" else {}
        assert line == {**due, "kind": kind, "name": name, "amount": amount, "exact": exact, **rate}
    low = invoice([], plan(minimum="5")).lines[0].to_dict()
    assert low == {**due, "kind": "minimum", "name": "minimum", "amount": "5.00", "exact": "5"}


def test_exact_amounts_are_shown_to_eighteen_places():
    """Half-even at the last, without zeros at the end and without an exponent."""
    for value, text in (
        ("0", "0"), ("-0.0000000000000000001", "0"), ("1.500", "1.5"), ("1E+3", "1000"),
        ("0.0000000000000000015", "0.000000000000000002"), ("10", "10"), ("-0.5", "-0.5"),
        ("0.0000000000000000025", "0.000000000000000002"),
        ("123456789012345678901234567890.5", "123456789012345678901234567890.5"),
    ):  # fmt: skip
        assert decimal_text(Decimal(value)) == text


def test_flat_amounts_of_tiers_are_shown_once():
    """On the invoice of the part in which the tier was entered."""
    steps = (Step(10, "1", "3"), Step(None, "2", "5"))
    terms = one_price(scheme="graduated", tiers=steps, per=2)
    used = [Event(4), Event(2, bucket=1900), Event(8, bucket=2000)]
    first, second = invoice(used, terms, end=MID), invoice(used, terms, start=MID)
    assert first.lines[0].to_dict()["tiers"] == [
        {"up_to": 10, "quantity": 4, "unit_price": "1", "exact": "5", "flat": "3"}
    ]
    assert (first.lines[0].unit_price, first.lines[0].to_dict()["unit_price"]) == ("1", "1")
    assert second.lines[0].to_dict()["tiers"] == [
        {"up_to": 10, "quantity": 6, "unit_price": "1", "exact": "3"},
        {"up_to": None, "quantity": 4, "unit_price": "2", "exact": "9", "flat": "5"},
    ]


def test_included_and_unrated_say_where():
    """By deployment, meter, plan and tier, in that order."""
    terms = plan(Price("rows", "1", model="x"))
    used = [Event(1, meter="requests"), Event(2, tier="batch"), Event(3),
            Event(4, deployment="a/b"),
            Event(5, plan_version=None), Event(6, plan_version="gone:1")]  # fmt: skip
    rating = invoice(used, terms)
    assert [row.to_dict() for row in rating.included] == [
        {"meter": "requests", "model": "acme/digits", "plan": "basic:1", "quantity": 1,
         "reason": "", "tier": "standard"},
    ]  # fmt: skip
    assert [(r.model, r.plan, r.tier, r.quantity, r.reason) for r in rating.unrated] == [
        ("a/b", "basic:1", "standard", 4, NO_PRICE),
        ("acme/digits", None, "standard", 5, NO_PLAN),
        ("acme/digits", "basic:1", "batch", 2, NO_PRICE),
        ("acme/digits", "basic:1", "standard", 3, NO_PRICE),
        ("acme/digits", "gone:1", "standard", 6, UNKNOWN_PLAN),
    ]
