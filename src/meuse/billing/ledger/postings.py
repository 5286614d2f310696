"""What is booked when an invoice is issued, paid, credited or voided.

Called inside the transaction that changes the invoice, each call once or any number of times:
entries are known by their references. Amounts that come in are decimal text, as on invoices;
those that go out are millionths.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Protocol

from meuse.billing.ledger.books import (
    CASH,
    REVENUE,
    ROUNDING,
    TAX,
    Books,
    Parties,
    book,
    credit,
    legs_of,
    receivable,
    replayed,
)
from meuse.billing.ledger.credit import Part, in_order, moves, parts_on, state_of, total
from meuse.billing.ledger.wallets import first_of
from meuse.core.errors import Code, MeuseError, invalid, not_found
from meuse.core.ids import new_id
from meuse.core.ledger import Grant, Posted, Wallet, sums
from meuse.core.micros import minor_micros, money_text, parse_money, to_micros


class Line(Protocol):
    """A line of an invoice (`billing.lines.Line` is one)."""

    @property
    def kind(self) -> str: ...
    @property
    def amount(self) -> str: ...
    @property
    def exact(self) -> Decimal: ...


@dataclass(frozen=True, slots=True)
class Issue:
    """An invoice that is being issued, for [start, end) in Unix ms."""

    invoice: str
    number: str
    tenant: str
    currency: str
    lines: Sequence[Line]
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How an invoice stands, in millionths: `due` is what is still to be paid (below zero: what
    is owed back). due = total − credited − from_wallet − paid; `from_wallet` and `paid` are less
    what went back."""

    total: int
    credited: int
    from_wallet: int
    paid: int
    due: int


def post_invoice(books: Books, issue: Issue, now_ms: int) -> Standing:
    """Book an issued invoice and let the tenant's wallet pay for it as far as it can.

    Dr receivable / Cr revenue (what the lines accrue, to a millionth), tax, rounding. Then what
    of the wallet was captured before, and what grants have that were valid at any time of the
    period, in the order of spending; in whole minor units. Raises `conflict` when this invoice is
    booked with other lines.
    """
    tax, net = _tax_and_net(issue.lines)
    accrued = accruals(issue.lines) - tax
    legs = {
        receivable(issue.invoice): net + tax,
        REVENUE: -accrued,
        TAX: -tax,
        ROUNDING: accrued - net,
    }
    asked = {"invoice": issue.invoice, "number": issue.number, "legs": legs}
    name = f"invoice/{issue.invoice}"
    known = replayed(books, issue.tenant, name, "invoice", issue.currency, asked)
    if known is None and len(legs_of(legs)) >= 2:
        book(books, issue, "invoice", name, issue.invoice, legs, issue.end_ms, asked)
        _settle(books, issue, issue.invoice, f"settle/{issue.invoice}", issue.start_ms, now_ms)
    return standing(books, issue.tenant, issue.invoice)


def post_wallet_payment(
    books: Books,
    *,
    tenant: str,
    currency: str,
    invoice: str,
    start_ms: int,
    reference: str,
    now_ms: int,
) -> Standing:
    """Have the wallet pay for an issued invoice again, as far as it can by now: it was topped up
    since. Once per reference; one that paid nothing is not booked. `start_ms` is the begin of the
    invoice's period. Raises `not_found`."""
    _known(books, tenant, invoice)
    name = f"settle/{invoice}/{reference}"
    if books.posted(tenant, name) is None:
        _settle(books, _Head(tenant, currency), invoice, name, start_ms, now_ms)
    return standing(books, tenant, invoice)


def post_payment(
    books: Books,
    *,
    tenant: str,
    currency: str,
    invoice: str,
    amount: object,
    reference: str,
    now_ms: int,
    method: str = "manual",
) -> tuple[Posted, Standing]:
    """Money came in for an invoice: Dr cash / Cr receivable.

    Raises `not_found` for an invoice that is not booked, `invalid_field` beyond what is due,
    `conflict` for a reference of another booking.
    """
    micros = parse_money(amount, "amount", currency)
    asked = {"invoice": invoice, "amount": micros, "method": method}
    name = f"payment/{invoice}/{reference}"
    found = replayed(books, tenant, name, "payment", currency, asked)
    if found is None:
        due = _known(books, tenant, invoice).due
        if micros > due:
            raise _beyond("payment", micros, max(due, 0), "due", currency)
        legs = {CASH: micros, receivable(invoice): -micros}
        head = _Head(tenant, currency)
        found = book(books, head, "payment", name, invoice, legs, now_ms, asked)
    return found, standing(books, tenant, invoice)


def post_repayment(
    books: Books,
    *,
    tenant: str,
    currency: str,
    invoice: str,
    amount: object,
    reference: str,
    now_ms: int,
) -> tuple[Posted, Standing]:
    """Money went back that an invoice was paid too much (after a credit note): Dr receivable /
    Cr cash. Raises as `post_payment`, beyond what is owed back and was paid."""
    micros = parse_money(amount, "amount", currency)
    asked = {"invoice": invoice, "amount": micros}
    name = f"repayment/{invoice}/{reference}"
    found = replayed(books, tenant, name, "repayment", currency, asked)
    if found is None:
        now = _known(books, tenant, invoice)
        most = max(min(-now.due, now.paid - min(now.total, 0)), 0)
        if micros > most:
            raise _beyond("refund", micros, most, "owed back of what was paid", currency)
        legs = {receivable(invoice): micros, CASH: -micros}
        head = _Head(tenant, currency)
        found = book(books, head, "repayment", name, invoice, legs, now_ms, asked)
    return found, standing(books, tenant, invoice)


def post_credit_note(
    books: Books,
    *,
    tenant: str,
    currency: str,
    note: str,
    invoice: str,
    lines: Sequence[Line],
    now_ms: int,
) -> Standing:
    """Book a credit note: its lines say, as positive amounts, what is taken off the invoice.

    Dr revenue and tax / Cr receivable. What the invoice then was paid too much goes back to the
    wallet as far as it came from there; the rest stays owed until `post_repayment`. Raises
    `not_found`, and `invalid_field` beyond what is left of the invoice.
    """
    tax, net = _tax_and_net(lines)
    asked = {"invoice": invoice, "note": note, "net": net, "tax": tax}
    name = f"credit-note/{note}"
    if replayed(books, tenant, name, "credit_note", currency, asked) is None:
        now = _known(books, tenant, invoice)
        if net + tax <= 0:
            shown = money_text(net + tax, currency)
            raise invalid("amount", f"a credit note of {shown} {currency} takes nothing off")
        if net + tax > now.total - now.credited:
            left = now.total - now.credited
            raise _beyond("credit note", net + tax, left, "left of the invoice", currency)
        legs = {REVENUE: net, TAX: tax, receivable(invoice): -net - tax}
        head = _Head(tenant, currency)
        book(books, head, "credit_note", name, invoice, legs, now_ms, asked)
        _give_back(books, head, invoice, name, now_ms)
    return standing(books, tenant, invoice)


def post_void(books: Books, *, tenant: str, currency: str, invoice: str, now_ms: int) -> Standing:
    """Take an invoice back: what it booked is reversed, what the wallet paid goes back there.

    Raises `not_found`, and `conflict` while money that was paid for it is not paid back.
    """
    name = f"void/{invoice}"
    asked = {"invoice": invoice}
    if replayed(books, tenant, name, "void", currency, asked) is None:
        now = _known(books, tenant, invoice)
        if now.paid:
            raise MeuseError(
                Code.CONFLICT,
                f"{money_text(now.paid, currency)} {currency} are paid of invoice {invoice}",
                field="invoice",
                hint="Make a credit note, and pay back what is then owed.",
            )
        legs: dict[str, int] = {}
        for posted in books.about(tenant, invoice):
            if posted.entry.kind in ("invoice", "credit_note"):
                for leg in posted.entry.legs:
                    legs[leg.account] = legs.get(leg.account, 0) - leg.amount
        head = _Head(tenant, currency)
        if len(legs_of(legs)) >= 2:
            book(books, head, "void", name, invoice, legs, now_ms, asked)
        _give_back(books, head, invoice, name, now_ms)
    return standing(books, tenant, invoice)


def standing(books: Books, tenant: str, invoice: str) -> Standing:
    """How an invoice stands; all zero for one of which nothing is booked."""
    moved: dict[str, int] = {}
    for posted in books.about(tenant, invoice):
        amount = sums(posted.entry.legs).get(receivable(invoice), 0)
        moved[posted.entry.kind] = moved.get(posted.entry.kind, 0) + amount
    due = sum(moved.values())
    return Standing(
        total=moved.get("invoice", 0),
        credited=-moved.get("credit_note", 0) - moved.get("void", 0),
        from_wallet=-moved.get("settle", 0) - moved.get("return", 0),
        paid=-moved.get("payment", 0) - moved.get("repayment", 0),
        due=due,
    )


def _settle(
    books: Books, whose: Parties, invoice: str, name: str, start_ms: int, now_ms: int
) -> None:
    wallet = books.wallet(whose.tenant, whose.currency)
    if wallet is None:
        return
    due = standing(books, whose.tenant, invoice).due
    taken = _credit_for(books, wallet, start_ms, due)
    paid = sum(taken.values())
    if paid > 0:
        legs = {**taken, receivable(invoice): -paid}
        book(books, whose, "settle", name, invoice, legs, now_ms, {"invoice": invoice})


def _credit_for(books: Books, wallet: Wallet, start_ms: int, due: int) -> dict[str, int]:
    """Legs that take up to `due` from a wallet, in whole minor units: what was captured before,
    then grants that had not expired when the period began."""
    state = state_of(books, wallet)
    balances = books.balances(wallet.tenant, wallet.currency)
    before = [(g.id, -balances.get(f"captured:{g.id}", 0)) for g in in_order(state.grants)]
    before = [part for part in before if part[1] > 0]
    left = state.take(state.left, start_ms)
    most = min(max(due, 0), total(before) + total(left))
    most -= most % minor_micros(wallet.currency)
    from_before = first_of(tuple(before), most)
    from_left = first_of(left, most - total(from_before))
    return {**moves(from_before, "captured"), **moves(from_left, "credit")}


def _give_back(books: Books, head: Parties, invoice: str, cause: str, now_ms: int) -> None:
    """What an invoice was paid too much goes back to the grants that paid for it, the last one
    first; credit of one that has expired since is granted anew, to be spent at any time."""
    now = standing(books, head.tenant, invoice)
    wallet = books.wallet(head.tenant, head.currency)
    most = min(-now.due, now.from_wallet)
    if wallet is None or most <= 0:
        return
    back: Counter[str] = Counter()
    for grant_id, amount in first_of(_spent_on(books, head.tenant, invoice), most):
        back[grant_id] += amount
    legs = {receivable(invoice): most}
    for grant in books.grants(wallet.id):
        if back[grant.id]:
            target = _still_good(books, grant, back[grant.id], now_ms)
            legs[credit(target)] = -back[grant.id]
    asked = {"invoice": invoice, "cause": cause}
    book(books, head, "return", f"return/{cause}", invoice, legs, now_ms, asked)


def _still_good(books: Books, grant: Grant, amount: int, now_ms: int) -> str:
    """The grant, or another one like it without an end."""
    if not grant.has_expired(now_ms):
        return grant.id
    anew = replace(
        grant, id=new_id("grant"), amount=amount, expires_ms=None, created_ms=now_ms,
        reference=f"instead of {grant.id}",
    )  # fmt: skip
    books.add_grant(anew)
    return anew.id


def _spent_on(books: Books, tenant: str, invoice: str) -> tuple[Part, ...]:
    """What of which grant an invoice has still, the last one spent first."""
    spent: list[Part] = []
    returned = 0
    for posted in books.about(tenant, invoice):
        amounts = sums(posted.entry.legs)
        if posted.entry.kind == "settle":
            for name in ("captured", "credit"):
                spent += [(grant, -amount) for grant, amount in parts_on(amounts, name)]
        if posted.entry.kind == "return":
            returned += amounts[receivable(invoice)]
    spent.reverse()
    gone = dict(enumerate(amount for _, amount in first_of(tuple(spent), returned)))
    return tuple(
        (grant, amount - gone.get(i, 0))
        for i, (grant, amount) in enumerate(spent)
        if amount > gone.get(i, 0)
    )


def _known(books: Books, tenant: str, invoice: str) -> Standing:
    if not any(posted.entry.kind == "invoice" for posted in books.about(tenant, invoice)):
        raise not_found(
            "invoice", invoice, "Only what is issued, and comes to something, is booked."
        )
    return standing(books, tenant, invoice)


def _beyond(what: str, micros: int, most: int, why: str, currency: str) -> MeuseError:
    shown, can = money_text(micros, currency), money_text(most, currency)
    return invalid(
        "amount",
        f"a {what} of {shown} {currency} is more than the {can} that are {why}",
        f"Use at most {can}." if most > 0 else None,
    )


@dataclass(frozen=True, slots=True)
class _Head:
    tenant: str
    currency: str


def accruals(lines: Iterable[Line]) -> int:
    """What lines come to before they are rounded, to a millionth each; tax as it is asked."""
    return sum(
        _micros(Decimal(line.amount) if line.kind == "tax" else line.exact) for line in lines
    )


def _tax_and_net(lines: Iterable[Line]) -> tuple[int, int]:
    """What lines of tax and all others come to, as rounded."""
    tax = net = 0
    for line in lines:
        if line.kind == "tax":
            tax += _micros(Decimal(line.amount))
        else:
            net += _micros(Decimal(line.amount))
    return tax, net


def _micros(amount: Decimal) -> int:
    try:
        return to_micros(amount)
    except ArithmeticError as error:
        raise MeuseError(
            Code.CONFLICT, str(error), field="period", hint="Is a price of its plan too high?"
        ) from None
