"""What usage cost by dimension and interval: it adds up to the invoice, however it is cut."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.make_plans import BUCKET_MS, END, MONTH, TIERS, Event
from billing.make_usage import DAY, HOUR, Directory, plan, usage_record
from billing.test_invoices import used
from billing.test_owed import plans as any_plans
from meuse.billing.costs import MAX_STEPS, costs
from meuse.billing.rating import rate
from meuse.billing.reports import owed, usage_costs
from meuse.billing.statement import Usage
from meuse.core.errors import MeuseError
from meuse.core.plans import Fee, Price, Tax

FLAT = plan(Price("rows", "0.50", 1000), Price("requests", "0.01"))


def report(store, directory, by, *, start=MONTH, end=END, tenants=("acme",), **where):
    return usage_costs(store, directory, tenants, start, end, by.split(","), where)


def cost_of(rows):
    with localcontext(prec=120):
        return sum((Decimal(row["cost"]) for row in rows), Decimal(0))


def test_costs_stand_beside_quantities(store):
    """By model and key; unrounded, in the plan's currency; the rows are those of the usage."""
    directory = Directory(FLAT, acme="basic")
    used(store, usage_record(key="k1"), usage_record(key="k2", quantities={"rows": 1}),
         usage_record(key="k2", deployment="acme/other", ts=DAY + HOUR))  # fmt: skip
    rows = report(store, directory, "model,key")
    assert rows[1] == {
        "model": "acme/digits", "key": "k1", "meter": "rows", "quantity": 8, "cost": "0.004",
        "currency": "EUR",
    }  # fmt: skip
    bare = [{k: v for k, v in row.items() if k not in ("cost", "currency")} for row in rows]
    assert bare == store.usage(MONTH, END, ["model", "key"], tenant="acme")
    assert cost_of(rows) == Decimal("0.0285")


@pytest.mark.parametrize(
    ("by", "told"),
    [
        ("hour", ["2026-11-01T00:00:00Z", "2026-11-01T01:00:00Z", "2026-11-30T23:00:00Z"]),
        ("day", ["2026-11-01", "2026-11-01", "2026-11-30"]),
        ("week", ["2026-10-26", "2026-10-26", "2026-11-30"]),
        ("month", ["2026-11", "2026-11", "2026-11"]),
    ],
)
def test_intervals_are_told_by_their_begin(store, by, told):
    """Weeks begin on Monday; months are of the calendar; all of UTC."""
    directory = Directory(FLAT, acme="basic")
    moments = (DAY, DAY + HOUR, END - 1)
    used(store, *(usage_record(ts=ts, quantities={"rows": 1000}) for ts in moments))
    used(store, usage_record(ts=END), usage_record(ts=DAY - 1))
    counted = Counter(told)
    assert {r[by]: r["quantity"] for r in report(store, directory, by)} == {
        name: 1000 * n for name, n in counted.items()
    }
    assert {r[by]: Decimal(r["cost"]) for r in report(store, directory, by)} == {
        name: n * Decimal("0.5") for name, n in counted.items()
    }
    rows = store.usage(MONTH, END, [by], tenant="acme")
    assert {row[by]: row["quantity"] for row in rows} == {n: 1000 * c for n, c in counted.items()}


def test_months_of_years_are_told_apart(store):
    """The tiers of each month begin anew, and a period may begin inside of one."""
    tiers = plan(Price("rows", scheme="graduated", tiers=TIERS))
    directory = Directory(tiers, acme="basic")
    used(store, *(usage_record(ts=ts, quantities={"rows": 1500}) for ts in (DAY, END, END + HOUR)))
    used(store, usage_record(ts=END + 31 * 24 * HOUR, quantities={"rows": 1500}))
    rows = report(store, directory, "month", end=END + 40 * 24 * HOUR)
    assert [(r["month"], r["cost"]) for r in rows] == [
        ("2026-11", "14"), ("2026-12", "26"), ("2027-01", "14"),
    ]  # fmt: skip
    later = report(store, directory, "month", start=END + HOUR, end=END + 2 * HOUR)
    assert [(r["quantity"], r["cost"]) for r in later] == [(1500, "12")]


def test_a_common_cost_is_shared_out_by_quantity(store):
    """Who uses two thirds of what a package or a tier counts has two thirds of its cost."""
    tiers = plan(Price("rows", scheme="graduated", tiers=TIERS))
    directory = Directory(tiers, acme="basic")
    used(store, usage_record(key="k1", quantities={"rows": 1000}))
    used(store, usage_record(key="k2", quantities={"rows": 500}))
    rows = report(store, directory, "key")
    assert [(r["key"], r["shared"]) for r in rows] == [("k1", True), ("k2", True)]
    assert cost_of(rows) == 14  # 1,000 at 0.010 and 500 at 0.008
    assert [r["cost"] for r in rows] == ["9.333333333333333333", "4.666666666666666667"]
    assert [r["project"] for r in report(store, directory, "project", project="default")]
    assert report(store, directory, "key", project="elsewhere") == []
    assert [r["cost"] for r in report(store, directory, "key", key="k2")] == [rows[1]["cost"]]


def test_what_has_no_price_is_said(store):
    """Unrated usage has no cost and is not zero silently; included usage costs nothing."""
    used(store, usage_record(plan_version=None), usage_record(quantities={"images": 3}))
    rows = report(store, Directory(FLAT, acme="basic"), "meter")
    assert [(r["meter"], r["cost"], r["currency"], r.get("unrated")) for r in rows] == [
        ("images", "0", None, None), ("requests", "0", None, 1), ("rows", "0", None, 8),
    ]  # fmt: skip


def test_tenants_and_currencies_are_not_added_up(store):
    """One row for each currency; the quantity stands once."""
    dollars = plan(Price("rows", "1"), name="us", currency="USD")
    directory = Directory(FLAT, dollars, acme="basic", guest="us")
    used(store, usage_record(quantities={"rows": 1000}))
    used(store, usage_record(tenant="guest", plan_version="us:1", quantities={"rows": 5}))
    both = report(store, directory, "meter", tenants=store.payers(MONTH, END))
    assert [(r["quantity"], r["cost"], r["currency"]) for r in both] == [
        (1005, "0.5", "EUR"), (0, "5", "USD"),
    ]  # fmt: skip
    apart = report(store, directory, "tenant", tenants=store.payers(MONTH, END))
    assert [(r["tenant"], r["currency"]) for r in apart] == [("acme", "EUR"), ("guest", "USD")]


def test_what_is_owed_has_fees_and_tax(store):
    """By kind of line, rounded as an invoice is."""
    terms = plan(Price("rows", "0.01"), fees=(Fee("base", "30"),), tax=Tax("VAT", "10"))
    directory = Directory(terms, acme="basic", none=None)
    used(store, usage_record(quantities={"rows": 1000}))
    assert owed(store, directory, directory, "acme", MONTH, END) == {
        "currency": "EUR", "usage": "10.00", "fee": "30.00", "tax": "4.00", "total": "44.00",
    }  # fmt: skip
    assert owed(store, directory, directory, "none", MONTH, END) == {"currency": None, "total": "0"}


def test_too_many_intervals_are_refused():
    """Before they are rated one by one."""
    row = Usage("rows", "acme/digits", "basic:1", 1, "standard", DAY, DAY)
    parts = [(("2026-11", f"{n:05}"), row) for n in range(MAX_STEPS + 1)]
    with pytest.raises(MeuseError, match="3,001 intervals") as caught:
        costs(parts, (), {"basic:1": FLAT}, 2)
    assert (caught.value.field, bool(caught.value.hint)) == ("by", True)


events = st.lists(
    st.builds(
        Event,
        st.integers(1, 90),
        st.integers(0, 2879),
        st.sampled_from(["rows", "requests", "images"]),
        st.sampled_from(["acme/digits", "acme/letters"]),
        st.sampled_from(["basic:1", "basic:2"]),
        st.sampled_from(["standard", "batch"]),
    ),
    min_size=1,
    max_size=25,
)


@given(events, any_plans(), any_plans(version=2), st.sampled_from([1, 4, 96, 2880]))
def test_intervals_add_up_to_the_lines_of_the_month(used_, one, two, width):
    """Of any plan, with a change of plan: to the last digit, and so do quantities."""
    known = {one.ref: one, two.ref: two}

    def row(event, first):
        return Usage(event.meter, event.deployment, event.plan_version, event.quantity,
                     event.tier, first, MONTH)  # fmt: skip

    parts = [
        (("2026-11", event.bucket // width, event.deployment, event.tier),
         row(event, MONTH + event.bucket * BUCKET_MS))
        for event in sorted(used_, key=lambda e: e.bucket)
    ]  # fmt: skip
    found = costs(parts, (), known, 2)
    sums: dict[tuple, Usage] = {}
    for _, mine in parts:
        key = (mine.meter, mine.deployment, mine.plan_version, mine.tier)
        old = sums.get(key)
        quantity = mine.quantity + (old.quantity if old else 0)
        first = min(mine.first_ms, old.first_ms) if old else mine.first_ms
        sums[key] = Usage(key[0], key[1], key[2], quantity, key[3], first, MONTH)
    with localcontext(prec=120):
        lines = sum((line.exact for line in rate(sums.values(), known).lines), Decimal(0))
        total = sum((c for cost in found.values() for c in cost.by_currency.values()), Decimal(0))
        assert abs(total - lines) < Decimal("1e-100"), total - lines
    assert sum(cost.quantity for cost in found.values()) == sum(e.quantity for e in used_)
