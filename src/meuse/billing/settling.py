"""What may be done to an invoice that is issued: payments, refunds, credit notes, voiding. Pure.

Decides from an account (the invoice and what was settled on it) and says the step; the store
does it in the same transaction. An amount is checked against what is left, so that nothing is
paid, credited or paid back twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Any

from meuse.billing.invoice_ports import Account, Invoice, NewCredit, NewPayment, Step
from meuse.billing.lines import Line, amount_text
from meuse.billing.plans.calendar import months
from meuse.billing.plans.curve import PRECISION
from meuse.billing.ports import Postings
from meuse.billing.terms import Terms, series
from meuse.core.clock import to_rfc3339
from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.money import parse_sum
from meuse.core.states import INVOICE_TRANSITIONS, InvoiceStatus

MAX_TEXT = 500


@dataclass(frozen=True, slots=True)
class Figures:
    """Sums of an account, in its currency; `paid` is less what was paid back, and `wallet` what
    a wallet has paid less what went back to it."""

    total: Decimal
    credited: Decimal
    paid: Decimal
    wallet: Decimal

    @property
    def due(self) -> Decimal:
        """What is still to be paid; below zero, what is to be paid back."""
        return self.total - self.credited - self.paid - self.wallet


def figures(account: Account) -> Figures:
    body = json.loads(account.invoice.body)
    notes = [json.loads(note.body) for note in account.credit_notes]
    paid = sum(
        (Decimal(one.amount) * (1 if one.kind == "payment" else -1) for one in account.payments),
        Decimal(0),
    )
    back = sum((Decimal(note.get("to_wallet", "0")) for note in notes), Decimal(0))
    return Figures(
        total=Decimal(account.invoice.total),
        credited=sum((Decimal(note.amount) for note in account.credit_notes), Decimal(0)),
        paid=paid,
        wallet=Decimal(body.get("from_wallet", "0")) - back,
    )


def pay(
    account: Account, paid: NewPayment, postings: Postings | None = None, now_ms: int = 0
) -> Step | None:
    """Take a payment or a refund; None: it is known already.

    Raises `conflict` for a reference that names another one, for an invoice that cannot be
    paid, for more than is due, and for a refund of more than is to be paid back.
    """
    for known in account.payments:
        if (known.adapter, known.reference) == (paid.adapter, paid.reference):
            if (known.kind, Decimal(known.amount)) == (paid.kind, Decimal(paid.amount)):
                return None
            raise MeuseError(
                Code.CONFLICT,
                f"{paid.reference!r} is the {known.kind} of {known.amount} on {known.date}",
                field="reference",
                hint="A payment is told once, by a reference of its own.",
            )
    invoice, now = account.invoice, figures(account)
    _must_be_open(invoice, "paid")
    amount, currency = Decimal(paid.amount), invoice.currency
    if paid.kind == "refund":
        _check_refund(now, amount, currency)
        amount = -amount
    elif amount > now.due:
        told = f"{amount_text(max(now.due, Decimal(0)), currency)} {currency} is due"
        raise MeuseError(
            Code.CONFLICT,
            f"a payment of {paid.amount} {currency} is above what is due: {told}",
            field="amount",
            hint="Take what is due; pay back the rest, or put it into the tenant's wallet.",
        )

    def book(books: Any) -> None:
        if postings is not None:
            postings.post_payment(books, invoice=invoice, paid=paid, now_ms=now_ms)

    return Step(_status(invoice, now.due - amount), payment=paid, book=book)


def credit(
    account: Account,
    told: Mapping[str, Any],
    terms: Terms,
    postings: Postings | None = None,
    now_ms: int = 0,
) -> Step | None:
    """Credit an invoice by {amount?, reason, reference?}: all that is left of it, or a part.

    None: a note of this reference says so already. Tax is credited in proportion. Raises
    `invalid_field`, and `conflict` for more than is left of the invoice.
    """
    invoice, now = account.invoice, figures(account)
    reason = reason_of(told.get("reason"))
    reference = short_text(told.get("reference"), "reference", 200)
    left = now.total - now.credited
    given = told.get("amount")
    amount = left if given is None else parse_sum(given, invoice.currency, "amount")
    for note in account.credit_notes:
        if reference and note.reference == reference:
            if given is None or Decimal(note.amount) == amount:
                return None
            raise MeuseError(
                Code.CONFLICT,
                f"{reference!r} is credit note {note.number} of {note.amount}",
                field="reference",
                hint="A credit note is made once for a reference.",
            )
    _must_be_open(invoice, "credited")
    if amount > left or left <= 0:
        raise MeuseError(
            Code.CONFLICT,
            f"a refund of {amount_text(amount, invoice.currency)} {invoice.currency} is above "
            f"what is left of invoice {invoice.number}: {_left(now, invoice)}",
            field="amount",
            hint="Credit what is left at most.",
        )
    body, lines = _credit_body(account, now, amount, reason, now_ms)

    def book(books: Any, note: str, number: str) -> Mapping[str, Any]:
        if postings is None:
            return {}
        back = postings.post_credit_note(
            books, invoice=invoice, note=note, lines=lines, now_ms=now_ms
        )
        return {"to_wallet": amount_text(back, invoice.currency)} if back else {}

    made = NewCredit(series(terms.credit_note_series, now_ms), reference, body["total"], body, book)
    return Step(_status(invoice, now.due - amount), credit=made)


def void(
    account: Account, reason: object, postings: Postings | None = None, now_ms: int = 0
) -> Step:
    """Take an invoice back as if it had never been: its number stays, its period is open again.

    Raises `conflict` unless it is issued, nothing was paid or credited on it, and no later
    invoice of its month goes on from it.
    """
    invoice = account.invoice
    text = reason_of(reason)
    status = InvoiceStatus(invoice.status)
    if InvoiceStatus.VOID not in INVOICE_TRANSITIONS[status]:
        raise _state(invoice, "made void")
    if account.payments or account.credit_notes:
        raise MeuseError(
            Code.CONFLICT,
            f"invoice {invoice.number} has payments or credit notes",
            field="status",
            hint="Credit it instead: POST /api/invoices/{id}/credit-notes.",
        )
    after, month = account.next_start_ms, months(invoice.end_ms - 1, invoice.end_ms)[0]
    if after is not None and after < month.end_ms:
        raise MeuseError(
            Code.CONFLICT,
            f"a later invoice of the same month, from {to_rfc3339(after)} on, goes on from "
            f"invoice {invoice.number}",
            field="status",
            hint="Make that one void first, or credit this one.",
        )

    def book(books: Any) -> None:
        if postings is not None:
            postings.post_void(books, invoice=invoice, now_ms=now_ms)

    return Step(str(InvoiceStatus.VOID), void_reason=text, book=book)


def reason_of(value: object) -> str:
    """Why, for those who look years later. Raises `invalid_field` without one."""
    text = short_text(value, "reason", MAX_TEXT)
    if not text:
        raise invalid("reason", "the reason is missing", "Say why; it is kept with the invoice.")
    return text


def short_text(value: object, field: str, most: int) -> str:
    """Printable text of one line; "" for None."""
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise invalid(
            field, f"{value!r} is not a line of text", f"Use up to {most} printable characters."
        )
    return value.strip()


def _must_be_open(invoice: Invoice, what: str) -> None:
    if not InvoiceStatus(invoice.status).is_final:
        raise _state(invoice, what)


def _state(invoice: Invoice, what: str) -> MeuseError:
    hints = {
        "draft": "Issue it first: POST /api/invoices/{id}/issue.",
        "void": "It counts for nothing any more; its period can be invoiced again.",
        "paid": "Credit it instead: POST /api/invoices/{id}/credit-notes.",
    }
    return MeuseError(
        Code.CONFLICT,
        f"invoice {invoice.number or invoice.id} is {invoice.status} and cannot be {what}",
        field="status",
        hint=hints.get(invoice.status),
    )


def _check_refund(now: Figures, amount: Decimal, currency: str) -> None:
    # What an invoice below zero gives back was paid on an earlier one of its month.
    paid = now.paid - min(now.total, Decimal(0))
    back = min(max(-now.due, Decimal(0)), max(paid, Decimal(0)))
    if amount <= back:
        return
    raise MeuseError(
        Code.CONFLICT,
        f"a refund of {amount_text(amount, currency)} {currency} is above the payment that is to "
        f"be paid back: {amount_text(back, currency)} (of {amount_text(now.paid, currency)} paid, "
        f"with {amount_text(now.credited, currency)} credited)",
        field="amount",
        hint="Credit the invoice first: what is credited and was paid can be paid back.",
    )


def _left(now: Figures, invoice: Invoice) -> str:
    total, done = (amount_text(n, invoice.currency) for n in (now.total, now.credited))
    left = amount_text(max(now.total - now.credited, Decimal(0)), invoice.currency)
    return f"{left} (of {total}, with {done} credited)"


def _status(invoice: Invoice, due: Decimal) -> str:
    """Paid once nothing is due; it never goes back. One below zero is once it was paid back."""
    nothing = due == 0 if Decimal(invoice.total) < 0 else due <= 0
    settled = nothing and InvoiceStatus(invoice.status) is InvoiceStatus.ISSUED
    return str(InvoiceStatus.PAID) if settled else invoice.status


def _credit_body(
    account: Account, now: Figures, amount: Decimal, reason: str, now_ms: int
) -> tuple[dict[str, Any], tuple[Line, ...]]:
    """What a credit note says, and its lines for the ledger.

    Its tax is that of all credited so far less that of the notes before: the last one has the
    rest, to the minor unit.
    """
    invoice, said = account.invoice, json.loads(account.invoice.body)
    tax = Decimal(said.get("tax", "0"))
    before = sum(
        (Decimal(json.loads(note.body)["tax"]) for note in account.credit_notes), Decimal(0)
    )
    with localcontext(prec=PRECISION):
        exact = tax * (now.credited + amount) / now.total
        share = Decimal(amount_text(exact, invoice.currency)) - before
    net, plan = amount - share, next(iter(said.get("plans", {})), "")
    texts = {name: amount_text(n, invoice.currency) for name, n in
             (("net", net), ("tax", share), ("total", amount))}  # fmt: skip
    kept = ("tenant", "currency", "seller", "customer")
    body = {
        **{name: said[name] for name in kept if name in said},
        "invoice": {"id": invoice.id, "number": invoice.number, "issued": said.get("issued")},
        "reason": reason,
        "issued": to_rfc3339(now_ms),
        **texts,
        "taxes": [
            {"name": one["name"], "percent": one["percent"]} for one in said.get("taxes", ())
        ],
    }
    lines = [Line("", "", plan, 0, 1, None, texts["net"], "credit", reason, exact=net)]
    if share:
        lines.append(Line("", "", plan, 0, 1, None, texts["tax"], "tax", "tax", exact=share))
    return body, tuple(lines)
