"""What the ledger does by itself: book what expired or was issued before it, check its sums."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from meuse.billing.invoice_ports import Alarm
from meuse.billing.ledger import wallets
from meuse.billing.ledger.bookkeeper import issue_of
from meuse.billing.ledger.books import LedgerBooks
from meuse.billing.ledger.postings import post_invoice
from meuse.core.clock import Clock, day_of, now_ms

_log = logging.getLogger(__name__)

EXPIRY_S = 60.0
DAY_MS = 86_400_000


def expire(ledger: LedgerBooks, now_ms: int) -> int:
    """Book what has expired in all wallets; how many entries that took.

    A wallet at a time: other writers wait for one wallet only. It may be late and it may be
    repeated: what has expired cannot be spent by then anyway, and is booked as of its expiry.
    """
    with ledger.glance() as books:
        lapsed = books.lapsed(now_ms)
    made = 0
    for wallet in lapsed:
        with ledger.books() as books:
            made += len(wallets.expire(books, wallet, now_ms))
    return made


def catch_up(ledger: LedgerBooks, now_ms: int) -> int:
    """Book invoices that were issued before there was a ledger; how many there were."""
    missing = ledger.unbooked()
    for invoice in missing:
        with ledger.books() as books:
            post_invoice(books, issue_of(invoice), now_ms)
    return len(missing)


def check(ledger: LedgerBooks, now_ms: int) -> list[Alarm]:
    """Compare the ledger with itself; each difference is an alarm, once a day."""
    found = [
        Alarm(
            "ledger_difference",
            difference,
            f"ledger:{day_of(now_ms)}:{json.dumps(difference, sort_keys=True)}",
            difference.get("tenant", "default"),
        )
        for difference in ledger.differences()
    ]
    if found:
        ledger.raise_alarms(found)
    return found


@contextmanager
def kept(
    ledger: LedgerBooks,
    stop: threading.Event,
    *,
    clock: Clock = now_ms,
    interval_s: float = EXPIRY_S,
) -> Iterator[None]:
    """In a thread of its own while the block runs: `expire` every `interval_s`, `catch_up` and
    `check` at the first turn and with each UTC day. A failure is logged, and tried again at the
    next turn."""
    ended = threading.Event()

    def work() -> None:
        checked = -1
        while not (stop.is_set() or ended.is_set()):
            now = clock()
            try:
                expire(ledger, now)
                if now // DAY_MS != checked:
                    catch_up(ledger, now)
                    check(ledger, now)
                    checked = now // DAY_MS
            except Exception:
                _log.exception("the ledger's chores failed, again in %.0f s", interval_s)
            ended.wait(interval_s)

    thread = threading.Thread(target=work, name="chores", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
