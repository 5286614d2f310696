"""The ledger process: journal ingest, usage, rating, invoices, wallets."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from pathlib import Path

from meuse.app import commands
from meuse.billing.ingest import Ingester
from meuse.billing.ledger import chores
from meuse.billing.ledger.bookkeeper import Bookkeeper
from meuse.billing.ledger.routes import wallet_routes
from meuse.billing.server import make_app, run
from meuse.core.clock import now_ms
from meuse.meter.segments import JournalReader
from meuse.runtime import lifeline
from meuse.settings import load
from meuse.store.access import SqlAccess, SqlPlans
from meuse.store.database import Database
from meuse.store.ledger import LedgerStore, SqlBooks
from meuse.store.money import MoneyStore


def main(argv: Sequence[str]) -> int:
    options = commands.parse("ledger", argv, "sockets", "lifeline ready")
    commands.log_to_stderr("ledger")
    lifeline.watch(options.lifeline, lifeline.end_now)
    settings = load(options.home)
    money = Database(settings.database("money"))
    money.migrate("money")
    store = MoneyStore(money, books=SqlBooks)
    ledger = LedgerStore(money)
    # Read only: plans and tenants are control's to write.
    meuse = Database(settings.database("meuse"))
    ingester = Ingester(store, JournalReader(settings.journal))
    access = SqlAccess(meuse)
    more = wallet_routes(ledger, access)
    app = make_app(store, ingester, SqlPlans(meuse), access, now_ms, Bookkeeper(), more)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with chores.kept(ledger, stop):
        run(
            app,
            ingester,
            Path(options.sockets) / "ledger.sock",
            stop=stop,
            started=lambda: lifeline.tell_ready(options.ready),
        )
    return 0
