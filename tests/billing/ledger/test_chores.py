"""The ledger among threads, and what it does by itself: expiry, alarms of differences."""

from __future__ import annotations

import logging
import threading
import time

from meuse.billing.ledger import chores, wallets
from meuse.billing.ledger.credit import state_of
from meuse.billing.ledger.wallets import EXPIRY_GRACE_MS, Terms
from meuse.core.errors import Code, MeuseError
from meuse.core.micros import UNIT
from meuse.store.money import MoneyStore

END = 1_000


def filled(ledger, *tenants, expires=END):
    made = []
    with ledger.books() as books:
        for tenant in tenants:
            wallet, _ = wallets.open_wallet(books, tenant, "EUR", 1)
            wallets.top_up(books, wallet, UNIT, Terms(expires_ms=expires), "a", 1)
            made.append(wallet)
    return made


def test_what_has_expired_is_booked_once(ledger):
    """Of every tenant, and of none before its time."""
    first, *_ = filled(ledger, "acme", "guest")
    late = END + EXPIRY_GRACE_MS
    assert chores.expire(ledger, END - 1) == 0
    assert chores.expire(ledger, late - 1) == 0
    assert chores.expire(ledger, late) == 2
    assert chores.expire(ledger, late) == 0
    with ledger.glance() as books:
        assert state_of(books, first).lapsed == UNIT
        assert books.balances("guest", "EUR") == {"cash": UNIT, "breakage": -UNIT}


def test_a_difference_is_an_alarm_once_a_day(ledger, database):
    """With what differs; on the next day it is one again."""
    filled(ledger, "acme")
    assert chores.check(ledger, 5) == []
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE ledger_sum SET amount = 7 WHERE amount > 0")
    for now in (5, 6, 5 + chores.DAY_MS):
        (alarm,) = chores.check(ledger, now)
        assert (alarm.kind, alarm.detail["found"]) == ("ledger_difference", 7)
    assert len(MoneyStore(database).alarms()) == 2


def test_a_wallet_is_not_spent_twice_at_once(ledger):
    """Of many holds at the same time as many are given as there is credit for."""
    (wallet,) = filled(ledger, "acme")
    given, refused = [], []

    def work(n):
        try:
            with ledger.books() as books:
                given.append(wallets.hold(books, wallet, UNIT * 3 // 10, f"h{n}", 1).id)
        except MeuseError as error:
            refused.append(error.code)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (len(given), refused) == (3, [Code.BUDGET_EXCEEDED] * 5)
    assert ledger.differences() == []


def test_chores_are_done_beside_the_server(ledger, caplog):
    """At once and again; one that fails is logged and does not end them."""
    (wallet,) = filled(ledger, "acme")
    calls = []

    def clock():
        calls.append(1)
        if len(calls) == 1:
            return -(10**20)  # no database takes that: the first turn fails
        return END + EXPIRY_GRACE_MS

    caplog.set_level(logging.CRITICAL)
    with chores.kept(ledger, threading.Event(), clock=clock, interval_s=0.01):
        deadline = time.monotonic() + 10
        while not lapsed(ledger, wallet):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    done = len(calls)
    time.sleep(0.03)
    assert len(calls) == done


def lapsed(ledger, wallet):
    with ledger.glance() as books:
        return state_of(books, wallet).lapsed
