"""What invoices book: revenue to a millionth, rounding, the wallet first; corrections undo it."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meuse.billing.ledger import postings, wallets
from meuse.billing.ledger.bookkeeper import BodyLine
from meuse.billing.ledger.credit import state_of
from meuse.billing.ledger.postings import Issue, Standing
from meuse.billing.ledger.wallets import Terms
from meuse.core.errors import Code, MeuseError
from meuse.core.micros import UNIT

EUR = UNIT
START, END, NOW = 100, 200, 300
ACME = {"tenant": "acme", "currency": "EUR", "invoice": "inv-1", "now_ms": NOW}


def line(amount, exact=None, kind="usage"):
    return BodyLine(kind, amount, Decimal(amount if exact is None else exact))


LINES = (line("100.00", "99.996666"), line("-10.00", kind="credit"), line("18.90", kind="tax"))


def issue(books, *lines, invoice="inv-1", currency="EUR", start=START):
    wanted = Issue(invoice, "INV-1", "acme", currency, lines or LINES, start, END)
    return postings.post_invoice(books, wanted, NOW)


def standing(total, credited=0, wallet=0, paid=0):
    """In euros."""
    figures = (total, credited, wallet, paid, total - credited - wallet - paid)
    return Standing(*(round(n * EUR) for n in figures))


def top_up(books, wallet, euros, reference="pay-1", now=1, **terms):
    return wallets.top_up(books, wallet, round(euros * EUR), Terms(**terms), reference, now)[0]


def test_an_invoice_is_receivable_revenue_tax_and_rounding(books):
    """Revenue is what lines accrue; what they were rounded by stands beside it."""
    assert issue(books) == standing(108.9)
    assert books.balances("acme", "EUR") == {
        "receivable:inv-1": 108_900_000, "revenue": -89_996_666, "tax": -18_900_000,
        "rounding": -3_334,
    }  # fmt: skip
    assert books.posted("acme", "invoice/inv-1").entry.effective_ms == END


@given(
    st.lists(
        st.tuples(st.decimals(-999, 999, places=9), st.sampled_from(["usage", "fee", "tax"])),
        min_size=1, max_size=5,
    )
)  # fmt: skip
def test_lines_less_accruals_are_the_rounding(found):
    """To the last digit, whatever the lines; without a wallet, all of it is due."""
    lines = [line(f"{exact:.2f}", str(exact), kind) for exact, kind in found]
    books = Recorder()
    postings.post_invoice(books, Issue("inv-1", "1", "acme", "EUR", lines, START, END), NOW)
    total = sum(Decimal(one.amount) for one in lines)
    moved = {leg.account: leg.amount for entry in books.entries for leg in entry.legs}
    assert moved.get("receivable:inv-1", 0) == total * EUR
    assert moved.get("rounding", 0) == -(total * EUR - postings.accruals(lines))
    assert sum(moved.values()) == 0


class Recorder:
    """Books that note what is posted."""

    def __init__(self):
        self.entries = []

    def posted(self, tenant, reference):
        return None

    def post(self, entry):
        self.entries.append(entry)

    def wallet(self, tenant, currency):
        return None

    def about(self, tenant, subject):
        return []


def test_an_invoice_of_nothing_books_nothing(books):
    """And cannot be paid."""
    assert issue(books, line("0.00")) == standing(0)
    assert books.about("acme", "inv-1") == []
    with pytest.raises(MeuseError) as caught:
        postings.post_payment(books, amount="1.00", reference="a", **ACME)
    assert (caught.value.code, caught.value.field) == (Code.NOT_FOUND, "invoice")


def test_an_invoice_is_booked_once(books):
    """Again it is the same, even when the wallet was filled since; with other lines a conflict."""
    wallet, _ = wallets.open_wallet(books, "acme", "EUR", 1)
    top_up(books, wallet, 8.9)
    assert issue(books) == standing(108.9, wallet=8.9)
    top_up(books, wallet, 50, "pay-2")
    assert issue(books) == standing(108.9, wallet=8.9)
    with pytest.raises(MeuseError) as caught:
        issue(books, line("5.00"))
    assert (caught.value.code, caught.value.field) == (Code.CONFLICT, "reference")


def test_credit_then_pay(books, wallet):
    """The wallet pays first, the rest is due and paid; cash is what came in for both."""
    grant = top_up(books, wallet, 40)
    assert issue(books, line("100.00")) == standing(100, wallet=40)
    assert books.balances("acme", "EUR") == {
        "cash": 40 * EUR, "receivable:inv-1": 60 * EUR, "revenue": -100 * EUR,
    }  # fmt: skip
    posted, after = postings.post_payment(books, amount="60.00", reference="bank-1", **ACME)
    assert after == standing(100, wallet=40, paid=60)
    assert postings.post_payment(books, amount="60.00", reference="bank-1", **ACME) == (
        posted, after,
    )  # fmt: skip
    assert books.balances("acme", "EUR") == {"cash": 100 * EUR, "revenue": -100 * EUR}
    assert state_of(books, wallet).left == {grant.id: 0}


def test_the_wallet_pays_in_its_order_what_it_can(books, wallet):
    """Captured credit first, then grants that the period met, in whole cents."""
    late = top_up(books, wallet, 7, "late", expires_ms=START + 1)
    top_up(books, wallet, 50, "gone", expires_ms=START)
    first = top_up(books, wallet, 3, "first", priority=0, kind="granted")
    held = wallets.hold(books, wallet, 2_005_000, "h", 1)  # of the one that expires first
    wallets.capture(books, wallet, held.id, 2_005_000, "c", 2)
    state = issue(books, line("60.00"))
    entry = books.posted("acme", "settle/inv-1").entry
    gone = next(one for one in books.grants(wallet.id) if one.reference == "gone")
    assert {leg.account: leg.amount for leg in entry.legs} == {
        f"captured:{gone.id}": 2_005_000, f"credit:{late.id}": 7 * EUR,
        f"credit:{first.id}": 2_995_000, "receivable:inv-1": -12 * EUR,
    }  # fmt: skip
    assert state == standing(60, wallet=12)
    assert state_of(books, wallet).left[first.id] == 5_000


def test_a_wallet_in_another_currency_pays_nothing(books, wallet):
    """Neither does one of another tenant."""
    top_up(books, wallet, 40)
    assert issue(books, line("100.00"), currency="USD") == standing(100)


def test_an_invoice_that_gives_back_takes_nothing(books, wallet):
    """A total below zero is owed to the tenant, whatever is in its wallet."""
    top_up(books, wallet, 40)
    assert issue(books, line("-5.00")) == standing(-5)
    assert state_of(books, wallet).available(NOW) == 40 * EUR


def test_a_wallet_that_was_filled_later_may_pay_later(books, wallet):
    """What is still due, once per reference."""
    issue(books, line("100.00"))
    top_up(books, wallet, 40)
    args = ACME | {"start_ms": START, "reference": "a"}
    assert postings.post_wallet_payment(books, **args) == standing(100, wallet=40)
    top_up(books, wallet, 70, "pay-2")
    assert postings.post_wallet_payment(books, **args) == standing(100, wallet=40)
    after = postings.post_wallet_payment(books, **args | {"reference": "b"})
    assert after == standing(100, wallet=100)
    postings.post_credit_note(books, note="cn-1", lines=[line("100.00")], **ACME)
    assert state_of(books, wallet).available(NOW) == 110 * EUR
    with pytest.raises(MeuseError) as caught:
        postings.post_wallet_payment(books, **args | {"invoice": "inv-2"})
    assert (caught.value.code, caught.value.field) == (Code.NOT_FOUND, "invoice")


def test_an_invoice_beyond_all_measure_is_refused(books):
    """The ledger keeps 64 bits: more than that is a conflict, and nothing is booked."""
    with pytest.raises(MeuseError) as caught:
        issue(books, line("1000000000000.01"))
    assert (caught.value.code, caught.value.field) == (Code.CONFLICT, "period")
    assert books.about("acme", "inv-1") == []


@pytest.mark.parametrize(
    ("amount", "field", "told"),
    [
        ("60.01", "amount", "a payment of 60.01 EUR is more than the 60.00 that are due"),
        ("0.00", "amount", "nothing"),
        ("-1.00", "amount", "not an amount"),
        (1, "amount", "not an amount"),
        ("1.001", "amount", "cannot be paid in EUR"),
    ],
)
def test_a_wrong_payment_is_refused(books, wallet, amount, field, told):
    """The field is named, with what could be paid, and nothing is booked."""
    top_up(books, wallet, 40)
    issue(books, line("100.00"))
    with pytest.raises(MeuseError) as caught:
        postings.post_payment(books, amount=amount, reference="a", **ACME)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, field)
    assert told in caught.value.message
    assert postings.standing(books, "acme", "inv-1") == standing(100, wallet=40)


def test_a_payments_reference_is_its_own(books):
    """The same with another amount is a conflict."""
    issue(books, line("100.00"))
    postings.post_payment(books, amount="60.00", reference="a", **ACME)
    with pytest.raises(MeuseError) as caught:
        postings.post_payment(books, amount="40.00", reference="a", **ACME)
    assert (caught.value.code, caught.value.field) == (Code.CONFLICT, "reference")


def test_a_credit_note_gives_back_to_the_wallet_and_then_in_cash(books, wallet):
    """100 by 40 of credit and 60 of cash, 70 credited: 40 go back to the grants, the last spent
    first, 30 are owed; never is more paid back than was paid."""
    gift = top_up(books, wallet, 10, "a", kind="granted")
    bought = top_up(books, wallet, 30, "b")
    issue(books, line("100.00"))
    note = [line("30.00")]
    owed = postings.post_credit_note(books, note="cn-1", lines=note, **ACME)
    assert owed == standing(100, 30, 40)
    postings.post_payment(books, amount="30.00", reference="a", **ACME)
    owed = postings.post_credit_note(books, note="cn-2", lines=[line("35.00")], **ACME)
    assert owed == standing(100, 65, 5, 30)
    assert state_of(books, wallet).left == {gift.id: 5 * EUR, bought.id: 30 * EUR}
    owed = postings.post_credit_note(books, note="cn-3", lines=[line("25.00")], **ACME)
    assert owed == standing(100, 90, 0, 30)
    again = postings.post_credit_note(books, note="cn-2", lines=[line("35.00")], **ACME)
    assert again == owed
    with pytest.raises(MeuseError, match=r"a refund of 20\.01 EUR is more than the 20\.00"):
        postings.post_repayment(books, amount="20.01", reference="r", **ACME)
    posted, after = postings.post_repayment(books, amount="20.00", reference="r", **ACME)
    assert after == standing(100, 90, 0, 10)
    assert postings.post_repayment(books, amount="20.00", reference="r", **ACME)[0] == posted
    assert books.balances("acme", "EUR") == {
        "cash": 40 * EUR, "promotions": 10 * EUR, "revenue": -10 * EUR,
        f"credit:{gift.id}": -10 * EUR, f"credit:{bought.id}": -30 * EUR,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("amount", "told"),
    [("100.01", "100.01 EUR is more than the 100.00 that are left"), ("0.00", "nothing off")],
)
def test_a_credit_note_is_of_what_is_left_of_the_invoice(books, amount, told):
    """Beyond it, or of nothing, it is refused."""
    issue(books, line("150.00"))
    postings.post_credit_note(books, note="cn-1", lines=[line("50.00")], **ACME)
    with pytest.raises(MeuseError) as caught:
        postings.post_credit_note(books, note="cn-2", lines=[line(amount)], **ACME)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "amount")
    assert told in caught.value.message


def test_credit_that_has_expired_since_is_granted_anew(books, wallet):
    """Without an end, of the same kind; it can be refunded as what it stands for."""
    top_up(books, wallet, 40, expires_ms=NOW)
    issue(books, line("30.00"))
    postings.post_credit_note(books, note="cn-1", lines=[line("12.00")], **ACME)
    old, new = books.grants(wallet.id)
    assert (new.kind, new.amount, new.expires_ms) == (old.kind, 12 * EUR, None)
    state = state_of(books, wallet)
    assert (state.available(NOW), state.refundable(NOW)) == (12 * EUR, 12 * EUR)
    assert (state.spent, state.expired(NOW), state.granted) == (18 * EUR, 10 * EUR, 40 * EUR)


def test_a_void_invoice_is_as_if_it_had_not_been(books, wallet):
    """All it booked is reversed, credit notes too, and the wallet has its own again."""
    top_up(books, wallet, 40)
    before = books.balances("acme", "EUR")
    issue(books)
    postings.post_credit_note(
        books, note="cn-1", lines=[line("5.00"), line("1.05", kind="tax")], **ACME
    )
    void = postings.post_void(books, **ACME)
    assert void == standing(108.9, 108.9)
    assert books.balances("acme", "EUR") == before
    assert postings.post_void(books, **ACME) == void


def test_what_is_paid_stands_in_the_way_of_a_void(books):
    """Until it is paid back."""
    issue(books, line("100.00"))
    postings.post_payment(books, amount="60.00", reference="a", **ACME)
    with pytest.raises(MeuseError) as caught:
        postings.post_void(books, **ACME)
    assert (caught.value.code, caught.value.field) == (Code.CONFLICT, "invoice")
    postings.post_credit_note(books, note="cn-1", lines=[line("100.00")], **ACME)
    postings.post_repayment(books, amount="60.00", reference="a", **ACME)
    assert postings.post_void(books, **ACME) == standing(100, 100)
