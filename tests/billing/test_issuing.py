"""When an invoice is issued, and what it keeps: parties, plans, tax, the word of the ledger."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from billing.accounts import Ledger
from billing.make_plans import END, MONTH
from billing.make_usage import DAY, HOUR, Directory, plan, usage_record
from billing.test_invoices import used
from billing.test_parts import HALVES, MID, part, told
from meuse.billing.desk import Desk
from meuse.billing.ingest import Ingester
from meuse.billing.invoices import make_invoice
from meuse.billing.terms import Terms, date_of, series
from meuse.core.billing import Party
from meuse.core.clock import parse_period, to_rfc3339
from meuse.core.errors import Code, MeuseError
from meuse.core.plans import Price, Tax
from meuse.meter.segments import JournalReader
from meuse.store.money import MoneyStore

GRACE = 3 * 24 * HOUR
TERMS = Terms(
    seller=Party(name="Meuse Hosting", address=("Kade 1",), tax_id="NL1"),
    payment="IBAN NL00", due_days=30, grace_ms=GRACE,
)  # fmt: skip
ROWS = plan(Price("rows", "0.10"), tax=Tax("VAT", "21"))


class Customers(Directory):
    """With how they are invoiced."""

    def __init__(self, *plans, details=None, **tenants):
        super().__init__(*plans, **tenants)
        self.details = details

    def billing(self, name):
        return self.details


def made(
    store, directory, *, tenant="acme", now=END + GRACE, period="2026-11", complete=None, **more
):
    invoice, _ = make_invoice(
        store, directory, directory, tenant=tenant, period=period,
        complete_to_ms=now if complete is None else complete, terms=TERMS, clock=lambda: now,
        **more,
    )  # fmt: skip
    return json.loads(invoice.body)


def test_late_records_are_waited_for(store):
    """Until the grace is over it is a draft that says until when; then it is issued."""
    directory = Directory(ROWS, acme="basic")
    used(store, usage_record())
    waiting = made(store, directory, now=END + GRACE - 1)
    assert (waiting["status"], waiting["issued"], waiting["due_on"]) == ("draft", None, None)
    assert waiting["draft_because"] == [
        "late records are waited for until 2026-12-04T00:00:00.000Z"
    ]
    used(store, usage_record())  # late, and in time
    issued = made(store, directory)
    assert (issued["status"], issued["lines"][0]["quantity"]) == ("issued", 16)
    assert "issued_early" not in issued


def test_an_administrator_need_not_wait(store):
    """issue_now passes over grace and ingestion, and the invoice says so; never over the rest."""
    directory = Directory(ROWS, acme="basic")
    used(store, usage_record())
    early = made(store, directory, now=END, complete=0, issue_now=True)
    assert (early["status"], early["number"]) == ("issued", "INV-2026-000001")
    assert [reason[:20] for reason in early["issued_early"]] == [
        "not all usage of the", "late records are wai",
    ]  # fmt: skip
    open_ = made(store, directory, now=END - HOUR, issue_now=True,
                 period={"from": to_rfc3339(END), "to": to_rfc3339(END + HOUR)})  # fmt: skip
    assert open_["draft_because"] == ["the period is still open"]
    used(store, usage_record(tenant="acme", ts=MONTH - HOUR, plan_version=None))
    unrated = made(store, directory, issue_now=True, period="2026-10")
    assert unrated["draft_because"] == ["some usage is unrated"]


def test_an_invoice_keeps_the_world_it_was_made_in(store):
    """Seller, customer, plan, tax and dates stay as they were, whatever they are later."""
    details = {"name": "Acme", "address": ["Road 1"], "tax_id": "DE1", "email": "a@b.c",
               "tax": {"name": "VAT", "percent": "0", "text": "Reverse charge"},
               "due_days": 14}  # fmt: skip
    directory = Customers(ROWS, details=details, acme="basic")
    used(store, usage_record(quantities={"rows": 1000}))
    first = made(store, directory)
    assert first["seller"] == {
        "name": "Meuse Hosting", "address": ["Kade 1"], "tax_id": "NL1", "email": "",
    }  # fmt: skip
    assert first["customer"]["name"] == "Acme"
    assert (first["issued"][:10], first["due_on"]) == ("2026-12-04", "2026-12-18")
    assert first["payment_terms"] == "IBAN NL00"
    assert first["plans"]["basic:1"]["prices"][0]["amount"] == "0.10"
    assert first["taxes"] == [
        {
            "name": "VAT",
            "percent": "0",
            "base": "100.00",
            "amount": "0.00",
            "text": "Reverse charge",
        }
    ]
    assert (first["net"], first["tax"], first["total"]) == ("100.00", "0.00", "100.00")
    directory.details = {"name": "Acme Holding"}
    assert made(store, directory) == first
    assert made(store, directory, period="2026-10", now=END)["customer"]["name"] == "Acme Holding"


@pytest.mark.parametrize(
    ("rows", "percent", "net", "tax"),
    [(25, "5", "2.50", "0.12"), (75, "5", "7.50", "0.38"), (1000, "21", "100.00", "21.00"),
     (1, "7.7", "0.10", "0.01"), (1000, "0", "100.00", "0.00")],
)  # fmt: skip
def test_tax_is_rounded_once_half_even(store, rows, percent, net, tax):
    """0.125 becomes 0.12 and 0.375 becomes 0.38; the total is their sum."""
    directory = Directory(plan(Price("rows", "0.10"), tax=Tax("VAT", percent)), acme="basic")
    used(store, usage_record(quantities={"rows": rows}))
    body = made(store, directory)
    assert (body["net"], body["tax"]) == (net, tax)
    assert Decimal(body["total"]) == Decimal(net) + Decimal(tax)
    line = body["lines"][-1]
    assert (line["kind"], line["unit_price"], line["per"]) == ("tax", percent, 100)


def test_a_new_tax_leaves_what_was_invoiced(store):
    """The part before the change keeps its 21 %, the one after has 0 % of its own lines alone."""
    before = Customers(ROWS, acme="basic")
    used(store, usage_record(quantities={"rows": 1000}))
    first = part(store, before, HALVES[0])
    assert told(first)[2] == [("usage", "100.00"), ("tax", "21.00")]
    used(store, usage_record(ts=MID, quantities={"rows": 500}))
    charge = {"name": "Acme", "tax": {"name": "VAT", "percent": "0", "text": "Reverse charge"}}
    after = Customers(ROWS, details=charge, acme="basic")
    assert told(part(store, after, HALVES[1]))[2] == [("usage", "50.00"), ("tax", "0.00")]


def test_a_tax_that_stays_adds_up_over_parts(store):
    """0.42 and 0.42 of 0.84 (21 % of 2.00 and 2.02): the month's tax is rounded once."""
    directory = Directory(plan(Price("rows", "0.01"), tax=Tax("VAT", "21")), acme="basic")
    used(store, usage_record(quantities={"rows": 202}))
    used(store, usage_record(ts=MID, quantities={"rows": 202}))
    amounts = [told(part(store, directory, half))[2][-1] for half in HALVES]
    assert amounts == [("tax", "0.42"), ("tax", "0.43")]  # 0.8484 in all


def test_a_plan_without_tax_after_one_with_it(store):
    """The part before keeps its tax, the one after has none."""
    taxed = Directory(ROWS, acme="basic")
    used(store, usage_record(quantities={"rows": 100}))
    assert told(part(store, taxed, HALVES[0]))[2][-1] == ("tax", "2.10")
    used(store, usage_record(ts=MID, quantities={"rows": 100}))
    bare = Directory(plan(Price("rows", "0.10")), acme="basic")
    assert told(part(store, bare, HALVES[1]))[2] == [("usage", "10.00")]
    used(store, usage_record(ts=END, quantities={"rows": 1}))


def test_the_ledger_is_told_in_the_same_transaction(database):
    """It gets id and number; what a wallet paid stands on the invoice; its refusal undoes all."""
    booked = MoneyStore(database, books=lambda connection: "books")
    directory = Directory(ROWS, acme="basic")
    used(booked, usage_record(quantities={"rows": 1000}))
    with pytest.raises(MeuseError, match="the books are closed"):
        made(booked, directory, postings=Ledger(fails=True))
    assert booked.list_invoices(None) == []
    ledger = Ledger(wallet="21.00")
    body = made(booked, directory, postings=ledger)
    assert (body["number"], body["from_wallet"]) == ("INV-2026-000001", "21.00")
    assert ledger.told == [("invoice", ("books", body["id"], body["number"]))]
    assert made(booked, directory, postings=ledger) == body
    assert len(ledger.told) == 1


def test_a_second_issue_is_refused(store, journal):
    """A draft is issued once by its id; what keeps it one is said in words."""
    clock = [END + HOUR]
    directory = Directory(ROWS, acme="basic")
    desk = Desk(
        store=store, ingester=Ingester(store, JournalReader(journal), lambda: clock[0]),
        plans=directory, tenants=directory, terms=TERMS, clock=lambda: clock[0],
    )  # fmt: skip
    used(store, usage_record())
    draft, new = desk.invoice("acme", "2026-11")
    assert (draft.invoice.status, new) == ("draft", True)
    with pytest.raises(MeuseError, match="stays a draft: late records are waited for") as caught:
        desk.issue("acme", draft.invoice.id, issue_now=False, unrated_as=None)
    assert (caught.value.code, caught.value.field) == (Code.CONFLICT, "status")
    issued = desk.issue("acme", draft.invoice.id, issue_now=True, unrated_as=None)
    assert (issued.invoice.id, issued.invoice.status) == (draft.invoice.id, "issued")
    with pytest.raises(MeuseError, match="INV-2026-000001 is issued: a period is issued once"):
        desk.issue("acme", draft.invoice.id, issue_now=True, unrated_as=None)
    clock[0] += 10 * GRACE
    same, new = desk.invoice("acme", "2026-11")
    assert (same.invoice.number, new) == ("INV-2026-000001", False)
    with pytest.raises(MeuseError, match="covers"):
        desk.invoice("acme", {"from": to_rfc3339(MONTH), "to": to_rfc3339(MID)})


@pytest.mark.parametrize(("came", "net"), [(END - HOUR, "20.00"), (END + HOUR, "10.00")])
def test_a_void_months_usage_is_billed_again(database, came, net):
    """With what came late while the month ran; what came later is billed in the next. All of it
    once."""
    store, directory = MoneyStore(database, lambda: came), Directory(ROWS, acme="basic")
    used(store, usage_record(quantities={"rows": 100}))
    first = made(store, directory)
    used(store, usage_record(quantities={"rows": 100}))

    def void(account):
        from meuse.billing.settling import void as decide

        return decide(account, "wrong address")

    store.settle("acme", first["id"], void)
    second = made(store, directory)
    assert (first["net"], second["net"]) == ("10.00", net)
    assert (second["number"], second["id"] != first["id"]) == ("INV-2026-000002", True)
    december = made(store, directory, period="2026-12", now=END + 31 * 24 * HOUR + GRACE)
    assert Decimal(second["net"]) + Decimal(december["net"]) == 20


def test_years_and_dates_are_of_utc():
    """The year of a number and the last day to pay."""
    moment = parse_period("2027-01")[0]
    assert (series("INV", moment - 1), series("INV", moment)) == ("INV-2026", "INV-2027")
    assert (date_of(moment - 1), date_of(moment - 1, 30), date_of(DAY)) == (
        "2026-12-31", "2027-01-30", "2026-11-01",
    )  # fmt: skip
