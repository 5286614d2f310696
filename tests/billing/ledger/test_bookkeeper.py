"""Invoices are booked as they are issued, from what their bodies say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal

import pytest

from billing.make_usage import DAY, HOUR, Directory, plan, usage_record
from meuse.billing.invoices import make_invoice
from meuse.billing.ledger import chores, postings, wallets
from meuse.billing.ledger.bookkeeper import Bookkeeper, BookReader, lines_of
from meuse.billing.ledger.wallets import Terms
from meuse.core.clock import to_rfc3339
from meuse.core.micros import UNIT
from meuse.core.plans import Price, Tax
from meuse.meter.record import encode
from meuse.store.ledger import SqlBooks
from meuse.store.money import MoneyStore

END = DAY + HOUR
PERIOD = {"from": to_rfc3339(DAY), "to": to_rfc3339(END)}
TAXED = plan(Price("rows", "0.0333"), tax=Tax("VAT", "21"))
KEEPER = Bookkeeper()


@dataclass(frozen=True)
class Paid:
    amount: str
    reference: str = "bank-1"
    adapter: str = "manual"
    kind: str = "payment"


@pytest.fixture
def store(database):
    return MoneyStore(database, books=SqlBooks)


def used(store, rows):
    record = usage_record(quantities={"rows": rows})
    batch = [(record, encode(record))]
    store.ingest(f"h-0-1-{rows}", batch, offset=0, next_offset=1, state="closed")


def invoice(store, *, now=END + HOUR, issue=True, postings=KEEPER):
    directory = Directory(TAXED, acme="basic")
    made, _ = make_invoice(
        store, directory, directory, tenant="acme", period=PERIOD, complete_to_ms=now,
        clock=lambda: now, issue=issue, postings=postings,
    )  # fmt: skip
    return made


def standing(ledger, made):
    with ledger.glance() as books:
        return postings.standing(books, "acme", made.id)


def test_an_issued_invoice_is_in_the_books(store, ledger):
    """10 rows at 0.0333 are 0.333, rounded to 0.33, and 0.07 of tax; drafts book nothing."""
    used(store, 10)
    draft = invoice(store, now=END - 1)
    invoice(store, issue=False)
    assert standing(ledger, draft).total == 0
    made = invoice(store)
    assert (made.status, made.total) == ("issued", "0.40")
    invoice(store)
    with ledger.glance() as books:
        assert books.balances("acme", "EUR") == {
            f"receivable:{made.id}": 400_000, "revenue": -333_000, "tax": -70_000,
            "rounding": 3_000,
        }  # fmt: skip
        assert books.invoiced("acme") == [(DAY, END)]
    assert ledger.differences() == []


def test_the_wallet_pays_as_it_is_issued(store, ledger):
    """In the same transaction: what is due and what is left are of one moment."""
    used(store, 1000)
    with ledger.books() as books:
        wallet, _ = wallets.open_wallet(books, "acme", "EUR", DAY)
        wallets.top_up(books, wallet, 40 * UNIT, Terms(), "a", DAY)
    made = invoice(store)
    assert made.total == "40.29"
    assert (standing(ledger, made).from_wallet, standing(ledger, made).due) == (40 * UNIT, 290_000)
    body = json.loads(made.body)
    assert (made.status, body["total"], body["from_wallet"]) == ("issued", "40.29", "40.00")


def test_what_cannot_be_booked_is_not_issued(store, ledger):
    """No number is used up and the draft stays one."""

    class Failing(Bookkeeper):
        def post_invoice(self, books, **told):
            super().post_invoice(books, **told)
            raise RuntimeError("no books")

    used(store, 10)
    draft = invoice(store, now=END - 1)
    with pytest.raises(RuntimeError, match="no books"):
        invoice(store, postings=Failing())
    assert store.get_invoice("acme", draft.id).status == "draft"
    assert BookReader(ledger).standing("acme", draft.id) is None
    assert invoice(store).number == "INV-2026-000001"


def test_invoices_from_before_the_ledger_are_booked_later(database, ledger):
    """Once; those that come to nothing have nothing to book."""
    old = MoneyStore(database)
    used(old, 10)
    made = invoice(old, postings=None)
    assert standing(ledger, made).total == 0
    assert chores.catch_up(ledger, END + HOUR) == 1
    assert standing(ledger, made).due == 400_000
    assert chores.catch_up(ledger, END + HOUR) == 0
    assert ledger.differences() == []


def test_payments_notes_and_voids_are_of_an_invoice(store, ledger):
    """Each once; what they come to is what the reader says."""
    used(store, 1000)
    made = invoice(store)
    lines = lines_of({"lines": [{"amount": "33.30"}, {"kind": "tax", "amount": "6.99"}]})
    reader, now = BookReader(ledger), END + HOUR

    def said():
        return {name: f"{n:f}" for name, n in reader.standing("acme", made.id).items()}

    with ledger.books() as books:
        for paid in (Paid("10.00"), Paid("10.00"), Paid("10", "bank-2")):
            KEEPER.post_payment(books, invoice=made, paid=paid, now_ms=now)
    assert said() == {
        "total": "40.29", "credited": "0", "paid": "20", "from_wallet": "0", "due": "20.29",
    }  # fmt: skip
    with ledger.books() as books:
        asked = {"invoice": made, "note": "cn-1", "lines": lines, "now_ms": now}
        assert KEEPER.post_credit_note(books, **asked) == 0
        back = Paid("20.00", "back-1", kind="refund")
        KEEPER.post_payment(books, invoice=made, paid=back, now_ms=now)
        KEEPER.post_void(books, invoice=made, now_ms=now)
    assert said()["due"] == said()["paid"] == "0"
    with ledger.glance() as books:
        assert books.balances("acme", "EUR") == {}
    assert reader.unbalanced() == []


def test_a_credit_note_says_what_went_back_to_the_wallet(store, ledger):
    """As far as the invoice was paid from there, and once."""
    used(store, 1000)
    with ledger.books() as books:
        wallet, _ = wallets.open_wallet(books, "acme", "EUR", DAY)
        wallets.top_up(books, wallet, 40 * UNIT, Terms(), "a", DAY)
    made = invoice(store)
    with ledger.books() as books:
        asked = {"invoice": made, "lines": lines_of({"lines": [{"amount": "30"}]}), "now_ms": END}
        assert KEEPER.post_credit_note(books, note="cn-1", **asked) == Decimal("29.71")
        assert KEEPER.post_credit_note(books, note="cn-1", **asked) == 0


def test_what_does_not_add_up_is_told_with_both_figures(ledger, database):
    """As text, for who compares."""
    with ledger.books() as books:
        wallet, _ = wallets.open_wallet(books, "acme", "EUR", DAY)
        wallets.top_up(books, wallet, UNIT, Terms(), "a", DAY)
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE ledger_sum SET amount = 7 WHERE amount > 0")
    (found,) = BookReader(ledger).unbalanced()
    assert (found["what"], found["found"], found["expected"]) == ("sum", "7", "1000000")


def test_lines_without_more_are_exact(store):
    """Of a body of an older platform, or of a credit note."""
    used(store, 10)
    body = json.loads(invoice(store).body)
    assert [(line.kind, line.exact) for line in lines_of(body)] == [
        ("usage", Decimal("0.333")), ("tax", Decimal("0.0693")),
    ]  # fmt: skip
    (line,) = lines_of({"lines": [{"amount": "5.00"}]})
    assert (line.kind, line.amount, line.exact) == ("usage", "5.00", Decimal("5.00"))
