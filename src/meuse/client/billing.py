"""Invoices and reports of a platform: `client.billing`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

JSON = dict[str, Any]


class Billing:
    """What is done with invoices, by one client's key. An invoice is named by id or number."""

    def __init__(self, send: Callable[..., Any]) -> None:
        """`send(method, path, **arguments)` answers with the response."""
        self._send = send

    def put_details(self, tenant: str, name: str, **more: Any) -> JSON:
        """How a tenant is invoiced. `more`: address (lines), tax_id, email, tax, due_days."""
        path = f"/api/tenants/{quote(tenant)}/billing"
        return self._call("PUT", path, json={"name": name, **more})

    def invoices(self, tenant: str | None = None, status: str | None = None) -> list[JSON]:
        """Newest period first; an administrator may name a tenant, or "*" for all."""
        asked = _given(tenant=tenant, status=status)
        items: list[JSON] = self._call("GET", "/api/invoices", params=asked)["invoices"]
        return items

    def invoice(self, invoice: str) -> JSON:
        return self._call("GET", _path(invoice))

    def document(self, invoice: str, format: str) -> bytes:
        """As html, csv or pdf."""
        return self._document(_path(invoice), format)

    def credit_note(self, note: str) -> JSON:
        return self._call("GET", f"/api/credit-notes/{quote(note, safe='')}")

    def credit_note_document(self, note: str, format: str) -> bytes:
        return self._document(f"/api/credit-notes/{quote(note, safe='')}", format)

    def issue(self, invoice: str, *, now: bool = False, unrated_as: str | None = None) -> JSON:
        """Issue a draft; with `now` before the grace for late records is over."""
        body = _given(issue_now=now or None, unrated_as=unrated_as)
        return self._call("POST", f"{_path(invoice)}/issue", json=body)

    def pay(self, invoice: str, amount: str, reference: str, date: str | None = None) -> JSON:
        """Tell of a payment: {payment, invoice}. Told twice, it counts once."""
        body = _given(amount=amount, reference=reference, date=date)
        return self._call("POST", f"{_path(invoice)}/payments", json=body)

    def pay_back(self, invoice: str, amount: str, reference: str, date: str | None = None) -> JSON:
        """Tell of money that went back: {refund, invoice}."""
        body = _given(amount=amount, reference=reference, date=date)
        return self._call("POST", f"{_path(invoice)}/refunds", json=body)

    def credit(
        self, invoice: str, reason: str, amount: str | None = None, reference: str | None = None
    ) -> JSON:
        """A credit note over an amount, or all that is left: {credit_note, invoice}."""
        body = _given(reason=reason, amount=amount, reference=reference)
        return self._call("POST", f"{_path(invoice)}/credit-notes", json=body)

    def void(self, invoice: str, reason: str) -> JSON:
        return self._call("POST", f"{_path(invoice)}/void", json={"reason": reason})

    def forecast(self, tenant: str | None = None) -> JSON:
        """What the present month is likely to come to: {so_far, expected, low, high, …}."""
        return self._call("GET", "/api/forecast", params=_given(tenant=tenant))

    def reconcile(self, period: Any = None) -> JSON:
        """Compare records, invoices and ledger now: {count, differences, …}."""
        return self._call("POST", "/api/reconciliations", json=_given(period=period))

    def reconciliations(self) -> list[JSON]:
        items: list[JSON] = self._call("GET", "/api/reconciliations")["items"]
        return items

    def _call(self, method: str, path: str, **arguments: Any) -> JSON:
        answer: JSON = self._send(method, path, **arguments).json()
        return answer

    def _document(self, path: str, format: str) -> bytes:
        content: bytes = self._send("GET", path, params={"format": format}).content
        return content


def _path(invoice: str) -> str:
    return f"/api/invoices/{quote(invoice, safe='')}"


def _given(**values: Any) -> JSON:
    return {name: value for name, value in values.items() if value is not None}
