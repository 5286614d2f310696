"""Invoices and wallets together on the ledger's server: credit, then pay, and nothing differs."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from billing.make_usage import BUCKET_MS, Directory, plan, usage_record
from meuse.billing.ingest import Ingester
from meuse.billing.ledger.bookkeeper import Bookkeeper, BookReader
from meuse.billing.ledger.routes import wallet_routes
from meuse.billing.server import make_app
from meuse.core.clock import bucket_start, now_ms, to_rfc3339
from meuse.core.plans import Credits, Price, Tax
from meuse.meter.record import encode
from meuse.meter.segments import JournalReader
from meuse.store.ledger import LedgerStore, SqlBooks
from meuse.store.money import MoneyStore

PAST = bucket_start(now_ms()) - 4 * BUCKET_MS
PERIOD = {"from": to_rfc3339(PAST), "to": to_rfc3339(PAST + BUCKET_MS)}
PREPAID = plan(
    Price("rows", "0.0007"), made=PAST, credits=Credits(settle="credit_only"), tax=Tax("VAT", "21")
)
ALL = {"tenant": "*"}


@pytest.fixture
def client(database, journal):
    directory = Directory(PREPAID, acme="basic")
    store, ledger = MoneyStore(database, books=SqlBooks), LedgerStore(database)
    record = usage_record(ts=PAST, quantities={"rows": 1001})
    batch = [(record, encode(record))]
    store.ingest("h-0-1-0", batch, offset=0, next_offset=1, state="closed")
    app = make_app(
        store, Ingester(store, JournalReader(journal)), directory, directory,
        postings=Bookkeeper(), books=BookReader(ledger), more=wallet_routes(ledger, directory),
    )  # fmt: skip
    with TestClient(app, base_url="http://ledger") as client:
        yield client


def post(client, path, body, status=201):
    answer = client.post(path, params=ALL, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def filled(client, amount):
    wallet = post(client, "/wallets", {"tenant": "acme", "currency": "EUR"})["id"]
    body = {"tenant": "*", "amount": amount, "reference": "pay-1"}
    post(client, f"/wallets/{wallet}/grants", body)
    return wallet


def available(client, wallet):
    return client.get(f"/wallets/{wallet}", params=ALL).json()["available"]


def invoice(client):
    return post(client, "/invoices", {"tenant": "acme", "period": PERIOD})


def nothing_differs(client):
    told = post(client, "/reconciliations", {})
    assert (told["differences"], told["skipped"]) == ([], [])


def test_credit_then_pay_then_credited(client):
    """0.85 by 0.50 of credit and 0.35 of cash; of 0.60 credited, 0.50 go back to the wallet and
    0.10 are owed. Records, lines, ledger and wallet agree at each step."""
    wallet = filled(client, "0.50")
    made = invoice(client)
    assert (made["total"], made["from_wallet"], made["due"], made["status"]) == (
        "0.85", "0.50", "0.35", "issued",
    )  # fmt: skip
    assert available(client, wallet) == "0.00"
    nothing_differs(client)
    path = f"/invoices/{made['id']}"
    post(client, f"{path}/payments", {"amount": "0.35", "reference": "bank-1"})
    note = post(client, f"{path}/credit-notes", {"amount": "0.60", "reason": "x"})
    assert (note["credit_note"]["to_wallet"], note["invoice"]["due"]) == ("0.50", "-0.10")
    assert available(client, wallet) == "0.50"
    nothing_differs(client)
    post(client, f"{path}/refunds", {"amount": "0.10", "reference": "back-1"})
    assert client.get(path, params=ALL).json()["due"] == "0.00"
    nothing_differs(client)


def test_what_the_wallet_pays_wholly_is_paid(client):
    """At once, without anybody doing anything."""
    wallet = filled(client, "2.00")
    made = invoice(client)
    assert (made["status"], made["due"]) == ("paid", "0.00")
    assert available(client, wallet) == "1.15"
    nothing_differs(client)


def test_an_invoice_that_the_wallet_paid_in_part_can_be_void(client):
    """Its credit is back in the wallet and pays for the next invoice of the period."""
    wallet = filled(client, "0.50")
    made = invoice(client)
    post(client, f"/invoices/{made['id']}/void", {"reason": "wrong"}, 200)
    assert available(client, wallet) == "0.50"
    nothing_differs(client)
    again = invoice(client)
    assert (again["id"] != made["id"], again["from_wallet"]) == (True, "0.50")
    nothing_differs(client)
