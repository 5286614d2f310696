"""Invoices: when one may be issued, what it says, and that it then stays as it is."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from billing.make_usage import DAY, HOUR, Directory, plan, usage_record
from meuse.billing.invoices import SETTLE_MS, make_invoice, preview_plan
from meuse.core.clock import to_rfc3339
from meuse.core.errors import Code, MeuseError
from meuse.core.plans import Discount, Fee, Price, Step, price_of
from meuse.meter.record import encode

END = DAY + HOUR
PERIOD = {"from": to_rfc3339(DAY), "to": to_rfc3339(END)}
BASIC = plan(Price("rows", "0.50", 1000), Price("requests", "0.01"))


def used(store, *records):
    batch = [(record, encode(record)) for record in records]
    segment = f"h-0-1-{records[0].id.hex()}"
    store.ingest(segment, batch, offset=0, next_offset=1, state="closed")


def invoice(
    store, directory=None, *, tenant="acme", period=PERIOD, now=END + HOUR, complete_to=None,
    issue=True, unrated_as=None,
):  # fmt: skip
    directory = directory or Directory(BASIC, acme="basic")
    made, new = make_invoice(
        store,
        directory,
        directory,
        tenant=tenant,
        period=period,
        complete_to_ms=now if complete_to is None else complete_to,
        clock=lambda: now,
        issue=issue,
        unrated_as=unrated_as,
    )
    body = json.loads(made.body)
    assert (made.id, made.status) == (body["id"], body["status"])
    return body | {"new": new, "bytes": made.body}


def test_a_past_period_is_issued_once(store):
    """The invoice has lines, total and number; asked for again it is the same bytes."""
    used(store, *(usage_record(quantities={"rows": 125, "requests": 1}) for _ in range(10)))
    used(store, usage_record(ts=END), usage_record(ts=DAY - 1), usage_record(tenant="guest"))
    first = invoice(store)
    assert first["new"]
    assert first["status"] == "issued"
    assert first["number"] == "INV-2026-000001"
    assert first["period"] == {"from": "2026-11-01T00:00:00.000Z", "to": "2026-11-01T01:00:00.000Z"}
    assert [(line["meter"], line["quantity"], line["amount"]) for line in first["lines"]] == [
        ("requests", 10, "0.10"), ("rows", 1250, "0.62"),
    ]  # fmt: skip
    assert (first["total"], first["currency"], first["unrated"]) == ("0.72", "EUR", [])
    assert first["draft_because"] == []
    used(store, usage_record())
    dearer = Directory(plan(Price("rows", "99"), Price("requests", "99")), acme="basic")
    again = invoice(store, dearer, now=END + 2 * HOUR)
    assert again["bytes"] == first["bytes"]
    assert not again["new"]


@pytest.mark.parametrize(
    ("now", "complete_to", "reasons"),
    [
        (END - 1, END - 1, ["period is still open", "ingested"]),
        (END + HOUR, END - 1, ["ingested"]),
        (END + HOUR, END + SETTLE_MS - 1, ["ingested"]),
        (END + HOUR, 0, ["ingested"]),
    ],
)
def test_an_unfinished_period_gives_a_draft(store, now, complete_to, reasons):
    """While the period is open or not all in, a draft without number says why; its id stays."""
    used(store, usage_record())
    draft = invoice(store, now=now, complete_to=complete_to)
    assert (draft["status"], draft["number"]) == ("draft", None)
    assert len(draft["draft_because"]) == len(reasons)
    for reason, expected in zip(draft["draft_because"], reasons, strict=True):
        assert expected in reason
    used(store, usage_record())
    issued = invoice(store, now=END + HOUR, complete_to=END + SETTLE_MS)
    assert (issued["id"], issued["status"]) == (draft["id"], "issued")
    assert issued["created"] == draft["created"]
    assert issued["lines"][0]["quantity"] == 2


def test_a_preview_says_all_and_keeps_nothing(store):
    """Without `issue`: lines and total of a draft that has no id, and no trace of it."""
    used(store, usage_record(), usage_record(plan_version=None))
    before = invoice(store, issue=False)
    assert (before["id"], before["number"], before["status"], before["new"]) == (
        None, None, "draft", False,
    )  # fmt: skip
    assert before["draft_because"] == ["some usage is unrated", "it was not asked to be issued"]
    assert (before["total"], len(before["lines"]), len(before["unrated"])) == ("0.01", 2, 2)
    assert (store.list_invoices(None), store.alarms()) == ([], [])


def test_unrated_usage_keeps_the_draft_and_raises_an_alarm(store):
    """Usage without a plan or price is listed, alarmed once, and nothing is issued over it."""
    used(store, usage_record(), usage_record(plan_version=None), usage_record(plan_version="no:1"))
    for _ in range(2):
        draft = invoice(store)
        assert (draft["status"], draft["draft_because"]) == ("draft", ["some usage is unrated"])
        assert draft["total"] == "0.01"
        assert {(row["meter"], row["plan"], row["quantity"]) for row in draft["unrated"]} == {
            ("rows", None, 8), ("rows", "no:1", 8), ("requests", None, 1), ("requests", "no:1", 1),
        }  # fmt: skip
        assert [alarm["kind"] for alarm in store.alarms()] == ["unrated_usage"] * 4
    lonely = invoice(store, Directory(acme=None))
    assert (lonely["currency"], lonely["status"]) == ("XXX", "draft")


def test_what_cannot_be_invoiced_is_said_clearly(store):
    """No plan and no usage, an unknown tenant, odd bounds and two currencies are errors."""
    none = Directory(acme=None)
    dollars = plan(Price("rows", "1"), name="us", currency="USD")
    cases = [
        ({"directory": none}, Code.CONFLICT, "no plan and no usage"),
        ({"directory": none, "tenant": "ghost"}, Code.NOT_FOUND, "ghost"),
        ({"period": PERIOD | {"to": to_rfc3339(END + 1)}}, Code.INVALID_FIELD, "quarter"),
        ({"period": "2026-13"}, Code.INVALID_FIELD, "month"),
        ({"period": {"from": PERIOD["to"], "to": PERIOD["from"]}}, Code.INVALID_FIELD, "empty"),
        ({"directory": Directory(BASIC, dollars, acme="us")}, Code.CONFLICT, "EUR"),
    ]  # fmt: skip
    for arguments, code, text in cases:
        if "EUR" in text:
            used(store, usage_record(), usage_record(plan_version="us:1"))
        with pytest.raises(MeuseError, match=text) as caught:
            invoice(store, **arguments)
        assert caught.value.code is code
        if code is Code.CONFLICT:
            assert caught.value.hint
    assert store.list_invoices(None) == []


def test_a_plan_without_usage_gives_an_empty_invoice(store):
    """A tenant with a plan that used nothing is invoiced zero in the plan's currency: paid."""
    body = invoice(store, Directory(plan(currency="JPY"), acme="basic:1"))
    assert (body["status"], body["lines"], body["total"], body["currency"]) == (
        "paid", [], "0", "JPY",
    )  # fmt: skip


def test_a_month_is_invoiced_in_parts_that_add_up(store):
    """Two invoices of one month go on in its tiers, and have the fee by the second."""
    steps = (Step(1_000, "0.010"), Step(None, "0.005"))
    graduated = plan(Price("rows", scheme="graduated", tiers=steps), fees=(Fee("base", "72"),))
    directory = Directory(graduated, acme="basic")
    used(store, usage_record(quantities={"rows": 900}))
    used(store, usage_record(ts=END, quantities={"rows": 900}, tier="batch"))
    first = invoice(store, directory)
    assert [(x["kind"], x["quantity"], x["amount"]) for x in first["lines"]] == [
        ("usage", 900, "9.00"), ("fee", 3600, "0.10"),
    ]  # fmt: skip
    period = {"from": PERIOD["to"], "to": to_rfc3339(END + HOUR)}
    second = invoice(store, directory, period=period, now=END + 2 * HOUR)
    assert [(x["kind"], x["quantity"], x["amount"]) for x in second["lines"]] == [
        ("usage", 900, "5.00"), ("fee", 3600, "0.10"),
    ]  # fmt: skip
    assert second["lines"][0]["before"] == {"quantity": 900, "amount": "9.00"}
    assert second["lines"][0]["period"] == period
    assert (first["total"], second["total"]) == ("9.10", "5.10")


def test_usage_reaches_rating_with_its_tier(store):
    """A batch costs what the plan says of batches, and its line says so."""
    cheap = plan(Price("rows", "1"), Price("rows", "0.5", tier="batch"))
    used(store, *(usage_record(tier=tier) for tier in ("standard", "batch", "batch", "internal")))
    made = invoice(store, Directory(cheap, acme="basic"))
    assert {(x["tier"], x["quantity"], x["amount"]) for x in made["lines"]} == {
        ("standard", 8, "8.00"), ("batch", 16, "8.00"), ("internal", 8, "8.00"),
    }  # fmt: skip
    assert {row.tier for row in store.rollup_rows("acme", DAY, END)} == {
        "standard", "batch", "internal",
    }  # fmt: skip


def test_a_draft_is_rated_again_with_a_price_for_what_had_none(store):
    """Usage without a plan is rated as under the one that is named; the invoice says so."""
    used(store, usage_record(), usage_record(plan_version=None))
    assert invoice(store)["draft_because"] == ["some usage is unrated"]
    fair = plan(Price("rows", "1"), Price("requests", "2"), name="fair")
    directory = Directory(BASIC, fair, acme="basic")
    preview = invoice(store, directory, issue=False, unrated_as="fair:1")
    made = invoice(store, directory, unrated_as="fair:1")
    assert (made["status"], made["unrated_as"], made["unrated"]) == ("issued", "fair:1", [])
    assert (preview["total"], made["total"]) == ("10.01", "10.01")
    assert {(x["plan"], x["meter"]) for x in made["lines"]} == {
        ("basic:1", "rows"), ("basic:1", "requests"), ("fair:1", "rows"), ("fair:1", "requests"),
    }  # fmt: skip
    with pytest.raises(MeuseError, match="no plan 'fair:9'"):
        invoice(store, directory, unrated_as="fair:9")


def test_what_if_stores_nothing(store):
    """A period under its own plan makes no difference, under another what that costs."""
    other = plan(Price("rows", "1"), name="other", fees=(Fee("base", "720"),))
    dollars = plan(Price("rows", "1"), name="us", currency="USD")
    directory = Directory(BASIC, other, dollars, acme="basic")
    used(store, usage_record(quantities={"rows": 2000}), usage_record(plan_version=None))

    def told(name):
        return preview_plan(
            store, directory, directory, tenant="acme", period=PERIOD, plan=name
        )  # fmt: skip

    same = told("basic")
    assert (same["plan"], same["difference"]) == ("basic:1", "0.01")  # of what had no plan
    assert len(same["actual"]["unrated"]) == 2
    changed = told("other:1")
    assert (changed["actual"]["total"], changed["what_if"]["total"]) == ("1.00", "2009.00")
    assert changed["difference"] == "2008.00"
    assert [line["kind"] for line in changed["what_if"]["lines"]] == ["usage", "fee"]
    assert (told("us")["difference"], told("us")["what_if"]["currency"]) == (None, "USD")
    assert (store.list_invoices(None), store.alarms()) == ([], [])
    with pytest.raises(MeuseError, match="no plan 'nothing'"):
        told("nothing")


def test_anyone_can_compute_a_line_again(store):
    """From the records, the plan as it is shown and the line alone, with a pencil."""
    tiers = [{"up_to": 1_000, "amount": "0.0333"}, {"up_to": None, "amount": "0.0127"}]
    price = price_of({"meter": "rows", "scheme": "graduated", "tiers": tiers, "free": 50, "per": 3})
    terms = plan(price, discounts=(Discount("deal", "12.5"),))
    records = [usage_record(ts=DAY + n * HOUR, quantities={"rows": 317 + n}) for n in range(8)]
    used(store, *records)
    directory = Directory(terms, acme="basic")
    so_far, owed = 0, Decimal(0)
    for low, high in ((0, 1), (1, 4), (4, 8)):
        bounds = {"from": to_rfc3339(DAY + low * HOUR), "to": to_rfc3339(DAY + high * HOUR)}
        (line,) = invoice(store, directory, period=bounds, now=DAY + 9 * HOUR)["lines"]
        so_far += sum(r.quantities["rows"] for r in records[low:high])
        units = so_far - 50
        parts = (min(units, 1_000), Decimal("0.0333")), (max(units - 1_000, 0), Decimal("0.0127"))
        exact = sum(n * amount for n, amount in parts) / 3 * Decimal("0.875")
        rounded = exact.quantize(Decimal("0.01"))  # half-even
        before = line.get("before", {"amount": "0", "quantity": 0})
        assert Decimal(line["amount"]) == rounded - Decimal(before["amount"])
        assert (line["quantity"], Decimal(before["amount"])) == (so_far - before["quantity"], owed)
        owed = rounded
