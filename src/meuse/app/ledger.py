"""The ledger process: journal ingest, usage, rating, invoices, wallets."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from pathlib import Path

from meuse.app import commands
from meuse.billing.ingest import Ingester
from meuse.billing.ledger import chores
from meuse.billing.ledger.bookkeeper import Bookkeeper, BookReader
from meuse.billing.ledger.routes import wallet_routes
from meuse.billing.reconciling import Reconciler, nightly
from meuse.billing.server import make_app, run
from meuse.billing.terms import Terms
from meuse.core.billing import Party
from meuse.core.clock import now_ms
from meuse.meter.segments import JournalReader
from meuse.runtime import lifeline
from meuse.settings import Settings, load
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
    plans, access = SqlPlans(meuse), SqlAccess(meuse)
    reader = BookReader(ledger)
    app = make_app(
        store, ingester, plans, access, now_ms,
        terms=terms_of(settings), font=settings.invoice_font,
        postings=Bookkeeper(), books=reader, more=wallet_routes(ledger, access),
    )  # fmt: skip
    stop = threading.Event()
    if settings.reconcile_hour >= 0:
        reconciler = Reconciler(store=store, plans=plans, tenants=access, books=reader)
        threading.Thread(
            target=nightly, args=(reconciler, settings.reconcile_hour, stop), name="nightly",
            daemon=True,
        ).start()  # fmt: skip
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


def terms_of(settings: Settings) -> Terms:
    """Who invoices are from and when they are made, as the settings say."""
    address = [line.strip() for line in settings.seller_address.split(";")]
    return Terms(
        seller=Party(
            name=settings.seller_name,
            address=tuple(line for line in address if line),
            tax_id=settings.seller_tax_id,
            email=settings.seller_email,
        ),
        payment=settings.payment_terms,
        due_days=settings.invoice_due_days,
        grace_ms=round(settings.invoice_grace_s * 1000),
        invoice_series=settings.invoice_series,
        credit_note_series=settings.credit_note_series,
    )
