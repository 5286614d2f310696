"""Prepaid credit: what is spent first, what is refused and in which words, each reference once."""

from __future__ import annotations

import pytest

from meuse.billing.ledger import wallets
from meuse.billing.ledger.credit import in_order, state_of
from meuse.billing.ledger.wallets import EXPIRY_GRACE_MS, Terms
from meuse.core.errors import Code, MeuseError
from meuse.core.ledger import Grant
from meuse.core.micros import MOST, UNIT

EUR = UNIT
NOW = 1_000_000


def top_up(books, wallet, euros, reference="pay-1", now=NOW, **terms):
    amount = round(euros * EUR)
    return wallets.top_up(books, wallet, amount, Terms(**terms), reference, now)


def available(books, wallet, now=NOW):
    return state_of(books, wallet).available(now)


def legs(posted):
    return {leg.account: leg.amount for leg in posted.entry.legs}


def test_a_tenant_has_one_wallet_in_a_currency(books, wallet):
    """Opened again it is the same."""
    assert wallets.open_wallet(books, "acme", "EUR", 9) == (wallet, False)
    assert wallets.open_wallet(books, "acme", "USD", 9)[1]
    assert wallets.open_wallet(books, "other", "EUR", 9)[1]


@pytest.mark.parametrize(("kind", "source"), [("purchased", "cash"), ("granted", "promotions")])
def test_credit_comes_from_cash_or_is_a_gift(books, wallet, kind, source):
    """What was paid for is owed against cash; a gift is no income."""
    grant, new = top_up(books, wallet, 100, kind=kind)
    assert new
    assert books.balances("acme", "EUR") == {source: 100 * EUR, f"credit:{grant.id}": -100 * EUR}
    state = state_of(books, wallet)
    assert (state.granted, state.paid_in) == (100 * EUR, 100 * EUR if kind == "purchased" else 0)


def test_a_top_up_is_booked_once(books, wallet):
    """The same reference gives the same grant, even when it has expired; other content is a
    conflict, and another wallet's references are its own."""
    first, _ = top_up(books, wallet, 100, expires_ms=NOW + 5)
    assert top_up(books, wallet, 100, now=NOW + 9, expires_ms=NOW + 5) == (
        books.grants(wallet.id)[0],
        False,
    )
    for euros, terms in (
        (99, {"expires_ms": NOW + 5}), (100, {}), (100, {"expires_ms": NOW + 5, "priority": 1}),
        (100, {"expires_ms": NOW + 5, "kind": "granted"}),
    ):  # fmt: skip
        with pytest.raises(MeuseError) as caught:
            top_up(books, wallet, euros, **terms)
        assert (caught.value.code, caught.value.field) == (Code.CONFLICT, "reference")
        assert "'pay-1'" in caught.value.message
    with pytest.raises(MeuseError) as caught:
        wallets.hold(books, wallet, 100 * EUR, "pay-1", NOW)
    assert caught.value.code is Code.CONFLICT
    other, _ = wallets.open_wallet(books, "acme", "USD", NOW)
    assert top_up(books, other, 5)[1]
    assert [one.id for one in books.grants(wallet.id)] == [first.id]
    assert available(books, wallet) == 100 * EUR


def test_credit_that_has_expired_already_is_refused(books, wallet):
    """The expiry is named."""
    with pytest.raises(MeuseError) as caught:
        top_up(books, wallet, 100, expires_ms=NOW)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "expires")
    assert books.grants(wallet.id) == []


def test_sums_stay_within_the_integers_of_the_database(books, wallet):
    """All that a wallet was ever given has a bound."""
    wallets.top_up(books, wallet, MOST - EUR, Terms(), "a", NOW)
    with pytest.raises(MeuseError) as caught:
        wallets.top_up(books, wallet, EUR + 1, Terms(), "b", NOW)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "amount")
    wallets.top_up(books, wallet, EUR, Terms(), "b", NOW)


def grant(name, kind="purchased", priority=0, expires=None, created=0, number=0):
    return Grant(name, "wallet-1", kind, 1, priority, expires, name, created, number)


def test_the_order_of_spending():
    """Priority, then the soonest expiry, then granted before purchased, then the oldest."""
    expected = [
        grant("first priority", priority=-1, expires=None, created=9),
        grant("soonest", expires=5, created=9),
        grant("later, a gift", "granted", expires=6, created=9),
        grant("later, bought", expires=6, created=1),
        grant("never, a gift", "granted", created=8),
        grant("never, a gift, younger", "granted", created=9),
        grant("never, bought", created=3, number=1),
        grant("never, bought at the same time", created=3, number=2),
        grant("last priority", "granted", priority=1, expires=5),
    ]
    assert in_order(reversed(expected)) == expected
    assert in_order(sorted(expected, key=lambda one: one.id)) == expected


def test_a_hold_sets_aside_in_the_order_of_spending(books, wallet):
    """What is captured and what is released follow what was held, whatever came since."""
    old, _ = top_up(books, wallet, 10, "a")
    gift, _ = top_up(books, wallet, 4, "b", kind="granted", expires_ms=NOW + 100)
    held = wallets.hold(books, wallet, 9 * EUR, "h", NOW)
    assert held.parts == ((gift.id, 4 * EUR), (old.id, 5 * EUR))
    top_up(books, wallet, 7, "c", priority=0, expires_ms=NOW + 5)
    assert wallets.hold(books, wallet, 9 * EUR, "h", NOW) == held
    first = wallets.capture(books, wallet, held.id, 5 * EUR, "c1", NOW + 200)
    assert legs(first) == {
        f"held:{gift.id}": 4 * EUR, f"held:{old.id}": EUR,
        f"captured:{gift.id}": -4 * EUR, f"captured:{old.id}": -EUR,
    }  # fmt: skip
    assert wallets.get_hold(books, wallet, held.id).parts == ((old.id, 4 * EUR),)
    assert wallets.capture(books, wallet, held.id, 5 * EUR, "c1", NOW) == first
    back = wallets.release(books, wallet, held.id, NOW)
    assert legs(back) == {f"held:{old.id}": 4 * EUR, f"credit:{old.id}": -4 * EUR}
    assert wallets.release(books, wallet, held.id, NOW) == back
    assert wallets.get_hold(books, wallet, held.id).parts == ()
    state = state_of(books, wallet)
    assert (state.in_holds, state.spent, state.available(NOW)) == (0, 5 * EUR, 16 * EUR)


def test_more_than_there_is_cannot_be_held_or_captured(books, wallet):
    """402 says what is left; a capture beyond its hold says what it holds."""
    top_up(books, wallet, 10)
    with pytest.raises(MeuseError) as caught:
        wallets.hold(books, wallet, 10 * EUR + 1, "h", NOW)
    assert (caught.value.code, caught.value.field) == (Code.BUDGET_EXCEEDED, "amount")
    assert "10.00 EUR left; this needs 10.000001 EUR" in caught.value.message
    held = wallets.hold(books, wallet, 10 * EUR, "h", NOW)
    with pytest.raises(MeuseError) as caught:
        wallets.capture(books, wallet, held.id, 10 * EUR + 1, "c", NOW)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "amount")
    assert "10.00 EUR" in caught.value.message
    wallets.capture(books, wallet, held.id, 10 * EUR, "c", NOW)
    assert wallets.release(books, wallet, held.id, NOW) is None
    with pytest.raises(MeuseError) as caught:
        wallets.get_hold(books, wallet, wallet.id)
    assert (caught.value.code, caught.value.field) == (Code.NOT_FOUND, "hold")


def test_a_refund_is_of_purchased_credit_that_is_left(books, wallet):
    """Those that would be spent last go first; beyond that the error has every figure."""
    first, _ = top_up(books, wallet, 60, "a")
    last, _ = top_up(books, wallet, 40, "b", priority=1)
    top_up(books, wallet, 5, "c", kind="granted")
    held = wallets.hold(books, wallet, 25 * EUR, "h", NOW)  # the gift's 5, and 20 of the first
    wallets.capture(books, wallet, held.id, 12 * EUR, "d", NOW)
    posted, new = wallets.refund(books, wallet, 50 * EUR, "r", NOW)
    assert new
    assert legs(posted) == {
        "cash": -50 * EUR, f"credit:{last.id}": 40 * EUR, f"credit:{first.id}": 10 * EUR,
    }  # fmt: skip
    with pytest.raises(MeuseError) as caught:
        wallets.refund(books, wallet, 30 * EUR + 10_000, "r2", NOW)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "amount")
    assert caught.value.message == (
        "30.01 EUR is more than the 30.00 that can be refunded: 100.00 were paid in and 50.00 "
        "refunded; of all credit 12.00 are spent, 13.00 held, 0.00 expired"
    )
    assert caught.value.hint == "Refund at most 30.00."
    assert wallets.refund(books, wallet, 50 * EUR, "r", NOW) == (posted, False)
    wallets.refund(books, wallet, 30 * EUR, "r2", NOW)
    with pytest.raises(MeuseError) as caught:
        wallets.refund(books, wallet, 10_000, "r3", NOW)
    assert "There is nothing to refund." in str(caught.value)


def test_one_grant_may_be_refunded_by_itself(books, wallet):
    """It must be of this wallet, and purchased."""
    first, _ = top_up(books, wallet, 60, "a")
    top_up(books, wallet, 40, "b", priority=1)
    gift, _ = top_up(books, wallet, 5, "c", kind="granted")
    with pytest.raises(MeuseError) as caught:
        wallets.refund(books, wallet, 61 * EUR, "r", NOW, grant=first.id)
    assert f"than the 60.00 that can be refunded of {first.id}:" in caught.value.message
    with pytest.raises(MeuseError) as caught:
        wallets.refund(books, wallet, EUR, "r", NOW, grant=gift.id)
    assert "than the 0.00 that can be refunded" in caught.value.message
    with pytest.raises(MeuseError) as caught:
        wallets.refund(books, wallet, EUR, "r", NOW, grant="grant-of-another")
    assert (caught.value.code, caught.value.field) == (Code.NOT_FOUND, "grant")
    posted, _ = wallets.refund(books, wallet, 60 * EUR, "r", NOW, grant=first.id)
    assert legs(posted) == {"cash": -60 * EUR, f"credit:{first.id}": 60 * EUR}


def test_what_cannot_be_paid_is_not_refunded(books, wallet):
    """A rest below a cent stays."""
    top_up(books, wallet, 1)
    held = wallets.hold(books, wallet, 3, "h", NOW)
    wallets.capture(books, wallet, held.id, 3, "c", NOW)
    with pytest.raises(MeuseError, match=r"more than the 0\.99 that can"):
        wallets.refund(books, wallet, EUR, "r", NOW)


@pytest.mark.parametrize(
    ("kind", "account"), [("purchased", "breakage"), ("granted", "promotions")]
)
def test_credit_expires_by_the_clock_and_is_booked_later(books, wallet, invoiced, kind, account):
    """At its expiry nobody can spend it; the entry waits for the invoice, and is of the expiry."""
    grant, _ = top_up(books, wallet, 10, kind=kind, expires_ms=NOW + 5)
    assert available(books, wallet, NOW + 4) == 10 * EUR
    state = state_of(books, wallet)
    assert (state.available(NOW + 5), state.expired(NOW + 5)) == (0, 10 * EUR)
    with pytest.raises(MeuseError):
        wallets.hold(books, wallet, 1, "h", NOW + 5)
    if kind == "purchased":
        with pytest.raises(MeuseError, match=r"10\.00 expired"):
            wallets.refund(books, wallet, EUR, "r", NOW + 5)
    assert wallets.expire(books, wallet, NOW + 4) == []
    invoiced(NOW + 5, NOW + 9)  # a later part of the month, before the earlier one
    assert wallets.expire(books, wallet, NOW + 6) == []
    invoiced(0, NOW + 5)
    (entry,) = wallets.expire(books, wallet, NOW + 6)
    assert legs(entry) == {f"credit:{grant.id}": 10 * EUR, account: -10 * EUR}
    assert entry.entry.effective_ms == NOW + 5
    assert wallets.expire(books, wallet, NOW + 7) == []
    state = state_of(books, wallet)
    assert (state.available(NOW + 5), state.expired(NOW + 5), state.lapsed) == (
        0, 10 * EUR, 10 * EUR,
    )  # fmt: skip
    gone = {f"credit:{grant.id}", "promotions" if kind == "granted" else ""}
    assert gone.isdisjoint(books.balances("acme", "EUR"))


def test_an_invoice_that_never_comes_is_not_waited_for(books, wallet, invoiced):
    """After the grace it is booked all the same."""
    top_up(books, wallet, 10, expires_ms=NOW + 5)
    invoiced(0, NOW + 4)
    assert wallets.expire(books, wallet, NOW + 4 + EXPIRY_GRACE_MS) == []
    assert len(wallets.expire(books, wallet, NOW + 5 + EXPIRY_GRACE_MS)) == 1


def test_what_was_held_expires_when_it_is_released(books, wallet, invoiced):
    """Held in time it can be captured later; released later it is gone too."""
    top_up(books, wallet, 10, expires_ms=NOW + 5)
    held = wallets.hold(books, wallet, 4 * EUR, "h", NOW)
    invoiced(0, NOW + 5)
    (first,) = wallets.expire(books, wallet, NOW + 5)
    wallets.capture(books, wallet, held.id, EUR, "c", NOW + 6)
    wallets.release(books, wallet, held.id, NOW + 6)
    assert available(books, wallet, NOW + 6) == 0
    (second,) = wallets.expire(books, wallet, NOW + 7)
    assert [sum(n for n in legs(one).values() if n > 0) for one in (first, second)] == [
        6 * EUR, 3 * EUR,
    ]  # fmt: skip
