"""Parts of a month: a later invoice goes on from what the earlier ones said."""

from __future__ import annotations

import json
from decimal import Decimal
from itertools import pairwise
from types import SimpleNamespace

import pytest

from billing.make_plans import END
from billing.make_usage import DAY, HOUR, Directory, plan, usage_record
from billing.test_invoices import invoice, used
from meuse.billing.issued import Issued, as_issued, issued_in
from meuse.billing.plans.calendar import windows
from meuse.core.clock import to_rfc3339
from meuse.core.errors import Code, MeuseError
from meuse.core.plans import Credits, Fee, Price
from meuse.store.money import MoneyStore

MID = DAY + 15 * 24 * HOUR
TENTH = DAY + 9 * 24 * HOUR  # 9 of 30 days
HALVES = ((DAY, MID), (MID, END))


@pytest.fixture
def store(database):
    """Its clock stands in the month after."""
    return MoneyStore(database, lambda: END + 2 * HOUR)


class History(Directory):
    """Tenant acme has had these plans, each from when on; it has the last one."""

    def __init__(self, *plans, changes):
        super().__init__(*plans, acme=changes[-1][1])
        self._changes = changes

    def plan_changes(self, name):
        return list(self._changes)


def part(store, directory, bounds, **more):
    period = {"from": to_rfc3339(bounds[0]), "to": to_rfc3339(bounds[1])}
    return invoice(store, directory, period=period, now=END + HOUR, **more)


def told(body):
    return body["status"], body["currency"], [(x["kind"], x["amount"]) for x in body["lines"]]


def test_a_later_part_rates_an_earlier_ones_usage_as_its_invoice_did(store):
    """What was rated by `unrated_as` counts for the month's minimum, free units and tiers."""
    terms = plan(Price("rows", "1", free=10), version=2, minimum="500")
    directory = Directory(terms, acme="basic")
    used(store, usage_record(plan_version=None, quantities={"rows": 410}))
    first = part(store, directory, HALVES[0], unrated_as="basic:2")
    assert told(first) == ("issued", "EUR", [("usage", "400.00")])
    preview = part(store, directory, HALVES[1], issue=False)
    used(store, usage_record(ts=MID, plan_version="basic:2", quantities={"rows": 60}))
    second = part(store, directory, HALVES[1])
    assert told(preview)[2] == [("minimum", "100.00")]
    assert told(second) == ("issued", "EUR", [("usage", "60.00"), ("minimum", "40.00")])
    assert second["lines"][0]["before"] == {"quantity": 410, "amount": "400.00"}
    assert "unrated_as" not in second


def test_usage_that_came_late_is_billed_with_the_next_part(store):
    """It stands in the amounts to date, not in what was invoiced before."""
    terms = plan(Price("rows", "0.333", free=10), minimum="500")
    directory = Directory(terms, acme="basic")
    used(store, usage_record(quantities={"rows": 110}))
    first = part(store, directory, HALVES[0])
    assert told(first)[2] == [("usage", "33.30")]
    used(store, usage_record(quantities={"rows": 1000}))  # in the first half, too late for it
    second = part(store, directory, HALVES[1])
    assert told(second)[2] == [("usage", "333.00"), ("minimum", "133.70")]
    line = second["lines"][0]
    assert (line["quantity"], line["exact"]) == (1000, "333")
    assert line["before"] == {"quantity": 110, "amount": "33.30"}


def test_late_usage_without_a_price_keeps_the_next_part_a_draft(store):
    """Listed and alarmed there, and rated there with `unrated_as`."""
    directory = Directory(plan(Price("rows", "1")), acme="basic")
    part(store, directory, HALVES[0])
    used(store, usage_record(plan_version=None, quantities={"rows": 7}))
    draft = part(store, directory, HALVES[1])
    assert (draft["status"], draft["draft_because"]) == ("draft", ["some usage is unrated"])
    assert [row["quantity"] for row in draft["unrated"]] == [7]
    made = part(store, directory, HALVES[1], unrated_as="basic:1")
    assert told(made) == ("issued", "EUR", [("usage", "7.00")])


def test_unrated_usage_of_a_part_without_invoice_comes_first(store):
    """By what it is rated decides what is left of free units: the later part waits for it."""
    directory = Directory(plan(Price("rows", "1", free=5)), acme="basic")
    used(store, usage_record(plan_version=None, quantities={"rows": 8}))
    used(store, usage_record(ts=MID, quantities={"rows": 8}))
    draft = part(store, directory, HALVES[1], unrated_as="basic:1")
    assert draft["status"] == "draft"
    assert ["earlier part" in because for because in draft["draft_because"]] == [True]
    totals = [
        part(store, directory, HALVES[0], unrated_as="basic:1")["total"],
        part(store, directory, HALVES[1])["total"],
    ]
    assert totals == ["3.00", "8.00"]


def test_many_parts_with_late_usage_add_up_to_the_month(store):
    """Whatever comes late for one is on the next."""
    terms = plan(
        Price("rows", "0.333", 7, free=10), Price("requests", "1", 3, scheme="package"),
        fees=(Fee("base", "7"),), minimum="20", credits=Credits("3"),
    )  # fmt: skip
    directory = Directory(terms, acme="basic")
    borders = [DAY + n * 5 * 24 * HOUR for n in range(7)]
    total = Decimal(0)
    for low, high in pairwise(borders):
        used(store, *(usage_record(ts=at, quantities={"rows": 31, "requests": 2})
                      for at in (low, max(low - HOUR, DAY))))  # fmt: skip
        total += Decimal(part(store, directory, (low, high))["total"])
    # 372 rows: 362 × 0.333 / 7 = 17.22; 24 requests: 8; 7; less 3
    assert total == Decimal("29.22")


def test_what_comes_late_for_a_month_is_billed_in_the_open_one(store):
    """Under its own plan version, counted and named there with its own time; the issued invoice
    stays as it is."""
    directory = Directory(
        plan(Price("rows", "2", free=5)), plan(Price("rows", "1", free=5), version=2),
        acme="basic",
    )  # fmt: skip
    used(store, usage_record(quantities={"rows": 105}))
    first = part(store, directory, (DAY, END))
    assert told(first)[2] == [("usage", "200.00")]
    used(store, usage_record(ts=TENTH, quantities={"rows": 15}),
         usage_record(ts=TENTH + 1, quantities={"rows": 1}),
         usage_record(ts=END + 3 * HOUR, plan_version="basic:2",
                      quantities={"rows": 7}))  # fmt: skip
    assert part(store, directory, (DAY, END)) == {**first, "new": False}
    later = (END, END + 4 * HOUR)
    period = {"from": to_rfc3339(later[0]), "to": to_rfc3339(later[1])}
    second = invoice(store, directory, period=period, now=later[1] + HOUR)
    # 23 rows of one rule: those of version 1, which was used first, have the free ones.
    assert second["total"] == "29.00"
    assert second["late"] == [
        {"from": to_rfc3339(TENTH), "model": "acme/digits", "meter": "rows", "tier": "standard",
         "plan": "basic:1", "quantity": 16},
    ]  # fmt: skip
    assert "late" not in first
    (alarm,) = [a for a in store.alarms() if a["kind"] == "late_usage"]
    assert alarm["detail"]["billed_in"] == to_rfc3339(END + 2 * HOUR)
    assert alarm["detail"]["n"] == 2


def test_an_issued_invoice_over_two_months_counts_in_the_second(store):
    """With its lines of that month alone."""
    directory = Directory(plan(Price("rows", "1", free=5)), acme="basic")
    october = DAY - 10 * 24 * HOUR
    used(store, usage_record(ts=october), usage_record(ts=TENTH))
    first = part(store, directory, (october, MID))
    assert told(first)[2] == [("usage", "3.00"), ("usage", "3.00")]
    used(store, usage_record(ts=TENTH), usage_record(ts=october), usage_record(ts=MID))
    (line,) = part(store, directory, HALVES[1])["lines"]
    assert (line["quantity"], line["amount"]) == (16, "16.00")
    assert line["before"] == {"quantity": 8, "amount": "3.00"}


def test_invoices_of_before_lines_said_enough_are_computed_again():
    """Nothing is taken from lines that do not say what they are of."""
    line = {"meter": "rows", "model": "acme/digits", "plan": "basic:1", "quantity": 8, "per": 1,
            "unit_price": "1", "amount": "8.00"}  # fmt: skip
    period = {"from": to_rfc3339(DAY), "to": to_rfc3339(TENTH)}
    body = json.dumps({"period": period, "lines": [line], "currency": "EUR"})
    invoices = [
        SimpleNamespace(id=None, status=status, body=body) for status in ("issued", "draft")
    ]
    assert issued_in(invoices, DAY, MID) == (Issued(DAY, TENTH, "EUR", None, None),)
    assert issued_in(invoices, DAY, DAY + HOUR) == ()
    assert as_issued((), issued_in(invoices, DAY, MID), lambda low, high: (), "EUR") == ()


def test_windows_are_cut_where_invoices_end():
    """Only before the period: its own months are whole."""
    assert windows(MID, END, [DAY, TENTH, MID, END - HOUR]) == [
        (DAY, TENTH), (TENTH, MID), (MID, END),
    ]  # fmt: skip
    assert windows(DAY, END, [TENTH]) == [(DAY, END)]


def test_a_tenant_that_lost_its_plan_is_invoiced_its_fees(store):
    """Without usage, too; a time with neither plan nor usage is refused."""
    directory = History(plan(fees=(Fee("base", "30"),)), changes=[(0, "basic"), (TENTH, None)])
    assert told(part(store, directory, (DAY, END))) == ("issued", "EUR", [("fee", "9.00")])
    later = (END, END + 4 * HOUR)
    with pytest.raises(MeuseError, match="no plan and no usage") as caught:
        invoice(store, directory, period={"from": to_rfc3339(later[0]), "to": to_rfc3339(later[1])},
                now=later[1] + HOUR)  # fmt: skip
    assert caught.value.code is Code.CONFLICT


def test_what_is_due_at_the_months_end_is_on_the_last_part(store):
    """The minimum of a plan that ended in the first part, under one that asks for nothing."""
    directory = History(plan(minimum="500"), plan(name="open"),
                        changes=[(0, "basic"), (TENTH, "open")])  # fmt: skip
    assert told(part(store, directory, HALVES[0])) == ("paid", "EUR", [])
    assert told(part(store, directory, HALVES[1])) == ("issued", "EUR", [("minimum", "150.00")])


def test_the_minimum_of_a_currency_that_was_left_is_due_at_once(store):
    """After a change from euros to dollars no later invoice is in euros."""
    dollars = plan(Price("rows", "1"), name="us", currency="USD", minimum="100")
    directory = History(plan(minimum="500"), dollars,
                        changes=[(0, "basic"), (TENTH, None), (TENTH + HOUR, "us")])  # fmt: skip
    used(store, usage_record(ts=MID, plan_version="us:1", quantities={"rows": 8}))
    euros = part(store, directory, (DAY, TENTH + HOUR))
    assert told(euros) == ("issued", "EUR", [("minimum", "150.00")])
    rest = part(store, directory, (TENTH + HOUR, END))
    assert told(rest) == ("issued", "USD", [("usage", "8.00"), ("minimum", "61.86")])


def test_a_part_keeps_its_minimum_until_the_month_is_over(store):
    """As long as a plan in that currency is in force: the rest of the month may reach it."""
    directory = Directory(plan(Price("rows", "1"), minimum="5"), acme="basic")
    assert told(part(store, directory, HALVES[0]))[2] == []
    used(store, usage_record(ts=MID))
    assert told(part(store, directory, HALVES[1]))[2] == [("usage", "8.00")]
