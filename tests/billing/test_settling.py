"""Payments, refunds, credit notes and voiding: never more than is left, whatever the order."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.accounts import MONTH_END, Account, Invoice, Ledger, after
from meuse.billing.invoice_ports import NewPayment
from meuse.billing.manual import ManualPayments
from meuse.billing.settling import credit, figures, pay, void
from meuse.billing.terms import Terms
from meuse.billing.views import brief, invoice_view
from meuse.core.clock import parse_period
from meuse.core.errors import Code, MeuseError
from meuse.core.states import INVOICE_TRANSITIONS, InvoiceStatus

TERMS = Terms()
OPEN = Account()


def payment(amount: str, reference: str = "bank-1", kind: str = "payment") -> NewPayment:
    return NewPayment(kind, "manual", reference, amount, "2026-12-05")


def paid(account: Account, *amounts: str) -> Account:
    for n, amount in enumerate(amounts):
        account = after(account, pay(account, payment(amount, f"b-{n}")))
    return account


def credited(account: Account, amount: str | None = None, **told: str) -> Account:
    given_ = {"reason": "goodwill", **({"amount": amount} if amount else {}), **told}
    return after(account, credit(account, given_, TERMS, None, MONTH_END))


def refused(field: str, text: str) -> Any:
    return pytest.raises(MeuseError, match=text, check=lambda e: e.field == field and bool(e.hint))


def test_an_invoice_moves_forward_only() -> None:
    """draft → issued → paid or void; nothing leaves paid or void."""
    ends = {one for one, after_ in INVOICE_TRANSITIONS.items() if not after_}
    assert ends == {InvoiceStatus.PAID, InvoiceStatus.VOID}
    assert InvoiceStatus.VOID not in INVOICE_TRANSITIONS[InvoiceStatus.DRAFT]
    assert set(INVOICE_TRANSITIONS) == set(InvoiceStatus)
    assert [one for one in InvoiceStatus if one.is_final] == ["issued", "paid"]


def test_payments_in_parts_settle_an_invoice() -> None:
    """It is paid when nothing is due, not before."""
    half = paid(OPEN, "100.00")
    assert (half.invoice.status, figures(half).due) == ("issued", Decimal("21.00"))
    whole = paid(OPEN, "100.00", "21.00")
    assert (whole.invoice.status, figures(whole).due) == ("paid", 0)


def test_a_payment_told_twice_counts_once() -> None:
    """By its reference, also when all is paid; another amount under it is refused."""
    whole = paid(OPEN, "121.00")
    assert pay(whole, payment("121", "b-0")) is None
    with refused("reference", "'b-0' is the payment of 121.00 on 2026-12-05"):
        pay(whole, payment("1.00", "b-0"))


def test_more_than_is_due_is_refused() -> None:
    """An overpayment says what is due."""
    with refused("amount", r"121.01 EUR is above what is due: 121.00 EUR"):
        pay(OPEN, payment("121.01"))
    with refused("amount", r"is above what is due: 0.00 EUR is due"):
        pay(paid(OPEN, "121.00"), payment("0.01", "again"))


def test_credit_notes_never_exceed_the_invoice() -> None:
    """Of 121.00, 100.00 and then 21.01 is a refund above what is left; 21.00 settles it."""
    once = credited(OPEN, "100.00")
    assert once.invoice.status == "issued"
    with refused(
        "amount", r"a refund of 21.01 EUR is above what is left of invoice INV-2026-000001: 21.00"
    ):
        credited(once, "21.01")
    rest = credited(once)
    assert (rest.invoice.status, figures(rest).due) == ("paid", 0)
    with refused("amount", "above what is left"):
        credited(rest)


def test_a_credit_note_has_its_share_of_the_tax() -> None:
    """In proportion; the last one has the rest to the cent. It names its invoice."""
    account = credited(credited(credited(OPEN, "40.33"), "40.33"))
    notes = [json.loads(note.body) for note in account.credit_notes]
    assert [(n["net"], n["tax"], n["total"]) for n in notes] == [
        ("33.33", "7.00", "40.33"), ("33.33", "7.00", "40.33"), ("33.34", "7.00", "40.34"),
    ]  # fmt: skip
    assert notes[0]["invoice"] == {"id": "inv-1", "number": "INV-2026-000001", "issued": None}
    assert notes[0]["customer"] == {"name": "Acme"}
    assert [note.number for note in account.credit_notes][-1] == "CN-2026-000003"


def test_a_credit_note_told_twice_is_made_once() -> None:
    """By its reference, where it has one."""
    account = credited(OPEN, "10.00", reference="ticket-7")
    told = {"reason": "x", "amount": "10.00", "reference": "ticket-7"}
    assert credit(account, told, TERMS) is None
    with refused("reference", "credit note CN-2026-000001 of 10.00"):
        credit(account, told | {"amount": "11.00"}, TERMS)


def test_only_what_was_paid_and_credited_is_paid_back() -> None:
    """A refund above the payment is refused, with the sums."""
    whole = paid(OPEN, "121.00")
    with refused("amount", r"refund of 1.00 EUR is above the payment .*: 0.00"):
        pay(whole, payment("1.00", "back", "refund"))
    account = credited(whole, "21.00")
    assert figures(account).due == Decimal("-21.00")
    with refused("amount", r"21.01 .* paid back: 21.00 \(of 121.00 paid, with 21.00 credited\)"):
        pay(account, payment("21.01", "back", "refund"))
    back = after(account, pay(account, payment("21.00", "back", "refund")))
    assert (figures(back).due, figures(back).paid, back.invoice.status) == (0, 100, "paid")
    unpaid = credited(OPEN)
    with refused("amount", r"paid back: 0.00"):
        pay(unpaid, payment("1.00", "back", "refund"))


def test_an_invoice_below_zero_is_paid_back() -> None:
    """A volume price that fell gives back what an earlier invoice of the month had; in parts, and
    no more than that."""
    account = replace(OPEN, invoice=replace(OPEN.invoice, total="-499.50"))
    with refused("amount", r"499.51 .* paid back: 499.50"):
        pay(account, payment("499.51", "back", "refund"))
    half = after(account, pay(account, payment("100.00", "back-1", "refund")))
    assert (figures(half).due, half.invoice.status) == (Decimal("-399.50"), "issued")
    whole = after(half, pay(half, payment("399.50", "back-2", "refund")))
    assert (figures(whole).due, whole.invoice.status) == (0, "paid")
    with refused("amount", r"paid back: 0.00"):
        pay(whole, payment("0.01", "back-3", "refund"))


def test_void_needs_a_reason_and_an_untouched_invoice() -> None:
    """Nothing paid, nothing credited, and no later invoice of its month."""
    step = void(OPEN, " wrong tenant ")
    assert (step.status, step.void_reason) == ("void", "wrong tenant")
    for reason in (None, " ", 5, "a\nb"):
        with refused("reason", "reason"):
            void(OPEN, reason)
    for touched in (paid(OPEN, "1.00"), credited(OPEN, "1.00")):
        with refused("status", "has payments or credit notes"):
            void(touched, "x")
    part = replace(OPEN, invoice=replace(OPEN.invoice, end_ms=MONTH_END - 86_400_000))
    with refused("status", "goes on from invoice INV-2026-000001"):
        void(replace(part, next_start_ms=MONTH_END - 86_400_000), "x")
    assert void(replace(part, next_start_ms=MONTH_END), "x").status == "void"


@pytest.mark.parametrize(
    ("status", "verb", "text"),
    [("draft", "pay", "paid"), ("void", "pay", "paid"), ("draft", "credit", "credited"),
     ("void", "credit", "credited"), ("draft", "void", "made void"), ("paid", "void", "made void"),
     ("void", "void", "made void")],
)  # fmt: skip
def test_what_a_status_does_not_allow(status: str, verb: str, text: str) -> None:
    """The error names the status and what may be done instead."""
    account = Account(replace(Invoice(), status=status, number=None if status == "draft" else "N"))
    with refused("status", f"is {status} and cannot be {text}") as caught:
        if verb == "pay":
            pay(account, payment("1.00"))
        elif verb == "credit":
            credit(account, {"reason": "x"}, TERMS)
        else:
            void(account, "x")
    assert caught.value.code is Code.CONFLICT


@pytest.mark.parametrize(
    ("told", "field"),
    [
        ({"amount": "0", "reference": "x"}, "amount"),
        ({"amount": "-1", "reference": "x"}, "amount"),
        ({"amount": 5, "reference": "x"}, "amount"),
        ({"amount": "1.005", "reference": "x"}, "amount"),
        ({"reference": "x"}, "amount"),
        ({"amount": "1"}, "reference"),
        ({"amount": "1", "reference": "  "}, "reference"),
        ({"amount": "1", "reference": "a\x00"}, "reference"),
        ({"amount": "1", "reference": "x", "date": "5.12.2026"}, "date"),
        ({"amount": "1", "reference": "x", "date": "2026-12-31"}, "date"),
        ({"amount": "1", "reference": "x", "currency": "USD"}, "currency"),
    ],
)
def test_a_payment_that_makes_no_sense_is_refused(told: dict[str, object], field: str) -> None:
    """The field is named, with what it should be."""
    now = parse_period("2026-12")[0]
    with refused(field, "."):
        ManualPayments().received(told, "payment", "EUR", now)


def test_a_payment_is_of_today_unless_said() -> None:
    """And its amount is in the currency's minor units."""
    now = parse_period("2026-12")[0]
    received = ManualPayments().received({"amount": "7", "reference": "x"}, "payment", "EUR", now)
    assert (received.amount, received.date) == ("7.00", "2026-12-01")
    with refused("amount", "more than 0 decimals"):
        ManualPayments().received({"amount": "7.5", "reference": "x"}, "payment", "JPY", now)


def test_the_ledger_is_told_of_each_step() -> None:
    """In the transaction of the step; what goes back to a wallet stands on the note."""
    ledger = Ledger(wallet="9")
    for step in (
        pay(OPEN, payment("1.00"), ledger),
        void(OPEN, "x", ledger),
    ):
        assert step is not None
        assert step.book is not None
        step.book("books")
    made = credit(OPEN, {"reason": "x", "amount": "12.10"}, TERMS, ledger)
    assert made is not None
    assert made.credit is not None
    assert made.credit.book is not None
    assert made.credit.book("books", "crn-1", "CN-1") == {"to_wallet": "9.00"}
    assert ledger.told == [
        ("payment", "1.00"), ("void", "INV-2026-000001"),
        ("credit", [("credit", "10.00"), ("tax", "2.10")]),
    ]  # fmt: skip


def test_a_view_says_what_is_due_and_whether_it_is_late() -> None:
    """The body stays as it was issued; beside it stands what became of it."""
    account = paid(OPEN, "100.00")
    view = invoice_view(account, MONTH_END)
    assert (view["paid"], view["due"], view["overdue"]) == ("100.00", "21.00", False)
    assert view["payments"][0]["reference"] == "b-0"
    late = MONTH_END + 32 * 86_400_000
    assert brief(account, late)["overdue"] is True
    assert brief(paid(OPEN, "121.00"), late)["overdue"] is False
    gone = replace(account, invoice=replace(account.invoice, status="void", voided_ms=late,
                                            void_reason="wrong"))  # fmt: skip
    view = invoice_view(gone, late)
    assert (view["void"]["reason"], view["due"], view["overdue"]) == ("wrong", "0.00", False)


steps = st.lists(
    st.tuples(st.sampled_from(["payment", "refund", "credit"]), st.integers(1, 15_000),
              st.integers(0, 6)),
    max_size=14,
)  # fmt: skip


@given(steps)
def test_no_order_of_steps_settles_more_than_there_is(told: list[tuple[str, int, int]]) -> None:
    """0 ≤ credited ≤ total, 0 ≤ paid, refunds ≤ what is owed back; paid exactly when due ≤ 0."""
    account = OPEN
    for kind, cents, reference in told:
        amount = f"{Decimal(cents) / 100:.2f}"
        try:
            if kind == "credit":
                step = credit(account, {"amount": amount, "reason": "x"}, TERMS)
            else:
                step = pay(account, payment(amount, f"r-{reference}", kind))
        except MeuseError:
            continue
        account = after(account, step)
        now = figures(account)
        assert 0 <= now.credited <= now.total
        assert 0 <= now.paid <= now.total
        assert now.due >= -now.credited
        assert (account.invoice.status == "paid") == (now.due <= 0)
        taxes = sum(Decimal(json.loads(n.body)["tax"]) for n in account.credit_notes)
        assert taxes <= Decimal("21.00")
        if now.credited == now.total:
            assert taxes == Decimal("21.00")
