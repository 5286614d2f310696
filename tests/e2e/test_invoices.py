"""An invoice through the public API: from a customer's address to the last cent paid."""

from __future__ import annotations

from collections.abc import Callable

import httpx

from e2e.conftest import Platform
from e2e.helpers import get, refused

PERIOD = {"from": "2026-02-01", "to": "2026-03-01"}


def test_the_life_of_an_invoice(
    admin: httpx.Client, platform: Platform, tenant: Callable[[str], str]
) -> None:
    """Made with the customer's details, seen by the tenant alone, paid, credited, paid back."""
    name = tenant("initech")
    path = f"/api/tenants/{name}/billing"
    details = {"name": "Initech & Sons", "address": ["Main St 1"], "tax_id": "US1",
               "email": "ap@initech.example", "tax": None, "due_days": 7}  # fmt: skip
    assert get(admin, path)["name"] == name
    assert admin.put(path, json=details).json() == details
    refused(admin.put(path, json={"name": ""}), 400, "invalid_field", "name")
    refused(admin.get("/api/tenants/ghost/billing"), 404, "not_found", "tenant")

    own = platform.client(platform.key("billing", "usage", tenant=name))
    other = platform.client(platform.key("billing"))
    asked = {"tenant": name, "period": PERIOD, "issue_now": True}
    refused(own.post("/api/invoices", json=asked), 403, "forbidden", "issue_now")
    made = admin.post("/api/invoices", json=asked)
    assert made.status_code == 201, made.text
    invoice = made.json()
    assert (invoice["status"], invoice["customer"]["name"]) == ("paid", "Initech & Sons")

    where = f"/api/invoices/{invoice['id']}"
    assert get(own, where) == invoice
    assert get(own, f"/api/invoices/{invoice['number']}")["id"] == invoice["id"]
    for client, verb in ((own, "payments"), (own, "void"), (own, "issue"), (own, "credit-notes")):
        refused(client.post(f"{where}/{verb}", json={}), 403, "forbidden", "scope")
    refused(other.get(where), 404, "not_found", "invoice")
    refused(admin.post(f"{where}/issue", json={}), 409, "conflict", "status")
    paid = {"amount": "1.00", "reference": "b"}
    refused(admin.post(f"{where}/payments", json=paid), 409, "conflict", "amount")

    page = own.get(where, headers={"accept": "text/html,*/*;q=0.8"})
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "Initech &amp; Sons" in page.text
    sheet = own.get(where, params={"format": "csv"})
    assert sheet.headers["content-disposition"].endswith(f'{invoice["number"]}.csv"')
    assert own.get(where, headers={"accept": "application/pdf"}).status_code in (200, 503)

    costs = get(own, "/api/usage", cost="true", by="model")
    assert costs["rows"] == []
    narrow = platform.client(platform.key("usage", tenant=name))
    refused(narrow.get("/api/usage", params={"cost": "true"}), 403, "forbidden", "cost")
    assert get(own, "/api/forecast")["tenant"] == name
    told = admin.post("/api/reconciliations", json={})
    assert told.status_code == 201, told.text
    assert told.json()["differences"] == []
    refused(own.post("/api/reconciliations", json={}), 403, "forbidden", "scope")
