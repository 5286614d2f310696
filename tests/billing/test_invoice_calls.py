"""The ledger's calls about invoices and reports, over its socket."""

from __future__ import annotations

import pytest

from billing.make_usage import BUCKET_MS, usage_record
from billing.test_server import PAST, WINDOW, client, journal_writer, serve
from meuse.core.clock import to_rfc3339

__all__ = ["client", "journal_writer", "serve"]  # fixtures
ALL = {"tenant": "*"}


@pytest.fixture
def issued(client, journal_writer):
    """An invoice over 1.50 EUR of tenant acme."""
    journal_writer.append(usage_record(ts=PAST, quantities={"rows": 3000}))
    made = client.post("/invoices", json={"tenant": "acme", "period": WINDOW}).json()
    assert (made["status"], made["total"]) == ("issued", "1.50")
    return made


def post(client, invoice, what, body, tenant="*"):
    return client.post(f"/invoices/{invoice}/{what}", params={"tenant": tenant}, json=body)


def test_an_invoice_is_paid_credited_and_shown(client, issued):
    """201 for what is new, 200 for what is told again; the view has all of it."""
    paid = {"amount": "1.00", "reference": "bank-1"}
    first = post(client, issued["number"], "payments", paid)
    again = post(client, issued["id"], "payments", paid)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert first.json()["invoice"]["due"] == "0.50"
    made = post(client, issued["id"], "credit-notes", {"reason": "goodwill", "reference": "t-1"})
    assert (made.status_code, made.json()["credit_note"]["total"]) == (201, "1.50")
    told = post(client, issued["id"], "credit-notes", {"reason": "goodwill", "reference": "t-1"})
    assert (told.status_code, told.json()) == (200, made.json())
    back = post(client, issued["id"], "refunds", {"amount": "1.00", "reference": "out-1"})
    assert (back.status_code, back.json()["refund"]["kind"]) == (201, "refund")
    shown = client.get(f"/invoices/{issued['number']}", params=ALL).json()
    assert (shown["status"], shown["paid"], shown["credited"], shown["due"]) == (
        "paid", "0.00", "1.50", "0.00",
    )  # fmt: skip
    assert [p["reference"] for p in shown["payments"]] == ["bank-1", "out-1"]
    number = shown["credit_notes"][0]["number"]
    note = client.get(f"/credit-notes/{number}", params={"tenant": "acme"}).json()
    assert note == made.json()["credit_note"]
    listed = client.get("/invoices", params=ALL | {"status": "paid"}).json()["invoices"]
    assert [one["id"] for one in listed] == [issued["id"]]
    assert client.get("/invoices", params=ALL | {"status": "void"}).json()["invoices"] == []


def test_a_draft_is_issued_by_its_id(client, journal_writer):
    """Twice is a conflict; void frees its period."""
    open_ = {"from": to_rfc3339(PAST + 4 * BUCKET_MS), "to": to_rfc3339(PAST + 8 * BUCKET_MS)}
    draft = client.post("/invoices", json={"tenant": "acme", "period": open_}).json()
    refused = post(client, draft["id"], "issue", {"issue_now": True})
    assert (refused.status_code, refused.json()["error"]["field"]) == (409, "status")
    assert "still open" in refused.json()["error"]["message"]
    made = client.post("/invoices", json={"tenant": "acme", "period": WINDOW}).json()
    twice = post(client, made["id"], "issue", {})
    assert (twice.status_code, "issued once" in twice.text) == (409, True)
    if made["status"] == "paid":  # of nothing
        journal_writer.append(usage_record(ts=PAST + BUCKET_MS, quantities={"rows": 3000}))


def test_void_is_final(client, issued):
    """With its reason; nothing more can be done to it, and the period is free."""
    gone = post(client, issued["id"], "void", {"reason": "wrong tenant"})
    assert (gone.status_code, gone.json()["void"]["reason"]) == (200, "wrong tenant")
    late = post(client, issued["id"], "payments", {"amount": "1.00", "reference": "b"})
    assert (late.status_code, late.json()["error"]["field"]) == (409, "status")
    again = client.post("/invoices", json={"tenant": "acme", "period": WINDOW})
    assert (again.status_code, again.json()["number"] != issued["number"]) == (201, True)


@pytest.mark.parametrize(
    ("form", "media", "begin"),
    [("html", "text/html; charset=utf-8", b"<!doctype html>"), ("csv", "text/csv; charset=utf-8",
      b"number,"), ("pdf", "application/pdf", b"%PDF-"), ("json", "application/json", b"{")],
)  # fmt: skip
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_documents_have_their_type_and_name(client, issued, form, media, begin):
    """By `format`; named by the invoice's number."""
    if form == "pdf":
        pytest.importorskip("reportlab")
    answer = client.get(f"/invoices/{issued['id']}", params=ALL | {"format": form})
    assert (answer.headers["content-type"], answer.content.startswith(begin)) == (media, True)
    if form != "json":
        assert f'filename="{issued["number"]}.{form}"' in answer.headers["content-disposition"]


def test_usage_has_costs_when_asked(client, issued):
    """Rows with cost and currency, and what the period comes to."""
    query = {"tenant": "acme", "by": "model", "cost": "true", **WINDOW}
    told = client.get("/usage", params=query).json()
    assert told["rows"] == [
        {"model": "acme/digits", "meter": "rows", "quantity": 3000, "cost": "1.5",
         "currency": "EUR"},
    ]  # fmt: skip
    assert told["owed"] == {"currency": "EUR", "usage": "1.50", "total": "1.50"}
    everyone = client.get("/usage", params=query | ALL).json()
    assert (everyone["rows"], "owed" in everyone) == (told["rows"], False)
    forecast = client.get("/forecast", params={"tenant": "acme"}).json()
    assert forecast["currency"] == "EUR"


def test_a_reconciliation_is_asked_for_and_kept(client, issued):
    """It answers with what was compared; the last ones are listed."""
    period = {"from": WINDOW["from"], "to": to_rfc3339(PAST + 4 * BUCKET_MS)}
    told = client.post("/reconciliations", json={"period": period})
    body = told.json()
    assert (told.status_code, body["count"], body["compared"]["invoices"]) == (201, 0, 1)
    assert client.get("/reconciliations").json()["items"] == [body]
    odd = client.post("/reconciliations", json={"period": period | {"to": to_rfc3339(PAST + 1)}})
    assert (odd.status_code, odd.json()["error"]["field"]) == (400, "period")


@pytest.mark.parametrize(
    ("what", "body", "status", "field"),
    [
        ("payments", {"amount": "9.00", "reference": "b"}, 409, "amount"),
        ("payments", {"amount": "1.00"}, 400, "reference"),
        ("payments", {"amount": "1.00", "reference": "b", "colour": 1}, 400, "colour"),
        ("refunds", {"amount": "1.00", "reference": "b"}, 409, "amount"),
        ("credit-notes", {"amount": "1.51", "reason": "x"}, 409, "amount"),
        ("credit-notes", {"amount": "1.00"}, 400, "reason"),
        ("credit-notes", {"amount": 1, "reason": "x"}, 400, "amount"),
        ("void", {}, 400, "reason"),
        ("void", {"reason": "x", "why": "y"}, 400, "why"),
        ("issue", {"issue_now": "yes"}, 400, "issue_now"),
        ("issue", {"when": "now"}, 400, "when"),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_bad_calls_name_the_field_and_change_nothing(client, issued, what, body, status, field):
    """Precise errors, nothing half-booked."""
    before = client.get(f"/invoices/{issued['id']}", params=ALL).json()
    answer = post(client, issued["id"], what, body)
    error = answer.json()["error"]
    assert (answer.status_code, error["field"], bool(error["hint"])) == (status, field, True)
    assert client.get(f"/invoices/{issued['id']}", params=ALL).json() == before
    other = post(client, issued["id"], what, body, tenant="guest")
    assert other.status_code in (status, 404)


@pytest.mark.parametrize(
    ("path", "status", "field"),
    [
        ("/invoices?tenant=*&status=lost", 400, "status"),
        ("/invoices/none?tenant=*", 404, "invoice"),
        ("/credit-notes/none?tenant=*", 404, "credit_note"),
        ("/forecast?tenant=*", 400, "tenant"),
        ("/forecast?tenant=ghost", 404, "tenant"),
        ("/usage?tenant=acme&cost=maybe", 400, "cost"),
        ("/usage?tenant=acme&cost=true&by=colour", 400, "by"),
        ("/reconciliations?limit=5", 400, "limit"),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_bad_questions_name_the_field(client, path, status, field):
    """Where, and what there is."""
    error = client.get(path).json()["error"]
    assert (client.get(path).status_code, error["field"]) == (status, field)
