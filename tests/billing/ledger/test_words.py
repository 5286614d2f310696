"""What the ledger keeps of what was asked for, and the words of what it refuses.

References are compared with what is kept under them: were a name in it changed, a repetition
after an upgrade would be a conflict.
"""

from __future__ import annotations

import pytest

from billing.ledger.test_postings import ACME, EUR, NOW, issue, line, top_up
from meuse.billing.ledger import postings, wallets
from meuse.billing.ledger.wallets import Terms
from meuse.core.errors import MeuseError


def asked(books, reference):
    posted = books.posted("acme", reference)
    return posted.entry.kind, posted.entry.subject, posted.entry.effective_ms, posted.entry.asked


def test_what_was_asked_of_a_wallet_is_kept(books, wallet):
    """Kind, subject, moment and content of each entry."""
    own = wallet.id
    grant = top_up(books, wallet, 40, "t", now=2, kind="granted", priority=3, expires_ms=90)
    bought = top_up(books, wallet, 40, "u", now=2)
    held = wallets.hold(books, wallet, 5 * EUR, "h", 3).id
    wallets.capture(books, wallet, held, 2 * EUR, "c", 4)
    wallets.release(books, wallet, held, 5)
    wallets.refund(books, wallet, EUR, "r", 6, grant=bought.id)
    wallets.expire(books, wallet, 90 + wallets.EXPIRY_GRACE_MS)
    assert asked(books, f"{own}/t") == (
        "grant", own, 2, {"amount": 40 * EUR, "kind": "granted", "priority": 3, "expires_ms": 90},
    )  # fmt: skip
    assert asked(books, f"{own}/h") == ("hold", held, 3, {"amount": 5 * EUR})
    assert asked(books, f"{own}/c") == ("capture", held, 4, {"hold": held, "amount": 2 * EUR})
    assert asked(books, f"release/{held}") == ("release", held, 5, {"hold": held})
    assert asked(books, f"{own}/r") == ("refund", own, 6, {"amount": EUR, "grant": bought.id})
    assert asked(books, f"expiry/{grant.id}/0")[:3] == ("expiry", grant.id, 90)
    assert asked(books, f"expiry/{grant.id}/0")[3] == {"left": 40 * EUR}


def test_what_was_asked_of_an_invoice_is_kept(books, wallet):
    """Of the wallet's part and of what went back as well."""
    old = top_up(books, wallet, 40, expires_ms=NOW)
    issue(books, line("100.00"))
    postings.post_payment(books, amount="60.00", reference="p", method="bank", **ACME)
    note = [line("50.00"), line("10.00", kind="tax")]
    postings.post_credit_note(books, note="cn-1", lines=note, **ACME)
    postings.post_repayment(books, amount="20.00", reference="b", **ACME)
    legs = {"receivable:inv-1": 100 * EUR, "revenue": -100 * EUR, "tax": 0, "rounding": 0}
    assert asked(books, "invoice/inv-1") == (
        "invoice", "inv-1", 200, {"invoice": "inv-1", "number": "INV-1", "legs": legs},
    )  # fmt: skip
    inv = {"invoice": "inv-1"}
    assert asked(books, "settle/inv-1") == ("settle", "inv-1", NOW, inv)
    assert asked(books, "payment/inv-1/p") == (
        "payment", "inv-1", NOW, inv | {"amount": 60 * EUR, "method": "bank"},
    )  # fmt: skip
    assert asked(books, "repayment/inv-1/b") == (
        "repayment", "inv-1", NOW, inv | {"amount": 20 * EUR},
    )  # fmt: skip
    assert asked(books, "credit-note/cn-1") == (
        "credit_note", "inv-1", NOW, inv | {"note": "cn-1", "net": 50 * EUR, "tax": 10 * EUR},
    )  # fmt: skip
    assert asked(books, "return/credit-note/cn-1") == (
        "return", "inv-1", NOW, inv | {"cause": "credit-note/cn-1"},
    )  # fmt: skip
    anew = books.grants(wallet.id)[-1]
    assert (anew.created_ms, anew.priority, anew.kind) == (NOW, old.priority, "purchased")
    assert anew.reference == f"instead of {old.id}"


def test_a_void_invoice_of_two_legs_is_reversed(books):
    """With an entry of its own."""
    issue(books, line("100.00"))
    assert postings.post_void(books, **ACME).credited == 100 * EUR
    assert asked(books, "void/inv-1") == ("void", "inv-1", NOW, {"invoice": "inv-1"})


def refusals(books, wallet, yen):
    """(call, its error as people read it). 10.00 EUR and 500 JPY are in the wallets."""
    held = wallets.hold(books, wallet, 4 * EUR, "h", 3).id
    issue(books, line("3"), invoice="inv-2", currency="JPY")
    postings.post_payment(
        books, **ACME | {"currency": "JPY", "invoice": "inv-2"}, amount="2", reference="p"
    )
    eur, jpy = {"now_ms": 3, "reference": "x"}, ACME | {"currency": "JPY", "invoice": "inv-2"}
    return [
        (lambda: wallets.hold(books, wallet, 7 * EUR, **eur),
         f"{wallet.id} has 6.00 EUR left; this needs 7.00 EUR (field: amount) "
         "Top the wallet up."),
        (lambda: wallets.capture(books, wallet, held, 5 * EUR, **eur),
         f"5.00 EUR is more than the 4.00 EUR that {held} holds (field: amount) "
         "Take at most 4.00 EUR."),
        (lambda: wallets.get_hold(books, wallet, "hold-x"), "there is no hold 'hold-x' "
         "(field: hold)"),
        (lambda: wallets.refund(books, wallet, EUR, **eur, grant="grant-x"),
         f"there is no grant 'grant-x' (field: grant) See the grants of {wallet.id}."),
        (lambda: wallets.refund(books, yen, 600 * EUR, **eur),
         "600 JPY is more than the 500 that can be refunded: 500 were paid in and 0 refunded; of "
         "all credit 0 are spent, 0 held, 0 expired (field: amount) Refund at most 500."),
        (lambda: wallets.top_up(books, wallet, EUR, Terms(expires_ms=3), **eur),
         "1970-01-01T00:00:00.003Z is past: the credit would have expired already "
         "(field: expires) Use a later moment, or leave it out for credit that never expires."),
        (lambda: postings.post_payment(books, **jpy, amount="2", reference="y"),
         "a payment of 2 JPY is more than the 1 that are due (field: amount) Use at most 1."),
        (lambda: postings.post_repayment(books, **jpy, amount="2", reference="y"),
         "a refund of 2 JPY is more than the 0 that are owed back of what was paid "
         "(field: amount)"),
        (lambda: postings.post_credit_note(books, **jpy, note="n", lines=[line("4")]),
         "a credit note of 4 JPY is more than the 3 that are left of the invoice "
         "(field: amount) Use at most 3."),
        (lambda: postings.post_credit_note(books, **jpy, note="n", lines=[line("0")]),
         "a credit note of 0 JPY takes nothing off (field: amount)"),
        (lambda: postings.post_void(books, **jpy),
         "2 JPY are paid of invoice inv-2 (field: invoice) Make a credit note, and pay back what "
         "is then owed."),
        (lambda: postings.post_void(books, **ACME),
         "there is no invoice 'inv-1' (field: invoice) Only what is issued, and comes to "
         "something, is booked."),
        (lambda: issue(books, line("1000000000000.01"), invoice="inv-3"),
         "1000000000000.01 is more than the ledger can hold (field: period) Is a price of its "
         "plan too high?"),
    ]  # fmt: skip


@pytest.mark.parametrize("books", ["memory"], indirect=True)
def test_refusals_say_what_there_is_and_what_to_do(books, wallet):
    """Each in full: people act on the figures."""
    top_up(books, wallet, 10)
    yen, _ = wallets.open_wallet(books, "acme", "JPY", 1)
    found = refusals(books, wallet, yen)
    top_up(books, yen, 500)
    for call, told in found:
        with pytest.raises(MeuseError) as caught:
            call()
        assert str(caught.value) == told


@pytest.mark.parametrize("books", ["memory"], indirect=True)
def test_a_reference_that_is_taken_is_shown(books, wallet):
    """As the caller gave it, with what it is the reference of."""
    top_up(books, wallet, 10, "mine/1")
    (grant,) = (p for p in books.about("acme", wallet.id))
    with pytest.raises(MeuseError) as caught:
        top_up(books, wallet, 11, "mine/1")
    assert str(caught.value) == (
        f"the reference 'mine/1' is that of {grant.id} (grant), booked for something else "
        "(field: reference) Send what was sent with it before, or another reference for another "
        "booking."
    )
