"""The ledger process: journal ingest, usage, rating, invoices, wallets."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from meuse.app import commands
from meuse.app.archiver import Outside, keep_archiving
from meuse.app.keeper import Keeper
from meuse.billing.archive import Archiver
from meuse.billing.budgets.prepaid import Balances
from meuse.billing.budgets.routes import budget_routes
from meuse.billing.budgets.told import Told
from meuse.billing.events import FUTURE_MS
from meuse.billing.ingest import Ingester
from meuse.billing.invoice_ports import Alarm
from meuse.billing.keeping import Keeping
from meuse.billing.ledger import chores
from meuse.billing.ledger.balance import Spendable, spendable
from meuse.billing.ledger.bookkeeper import Bookkeeper, BookReader
from meuse.billing.ledger.routes import wallet_routes
from meuse.billing.ports import Recount
from meuse.billing.reconcile import WHERE
from meuse.billing.reconciling import Reconciler, nightly
from meuse.billing.server import make_app, run
from meuse.billing.steady import Steady
from meuse.billing.terms import Terms
from meuse.core.billing import Party
from meuse.core.clock import now_ms, to_rfc3339
from meuse.core.nouns import DEFAULT_TENANT
from meuse.meter.segments import JournalReader
from meuse.runtime import lifeline
from meuse.serve import stats
from meuse.serve.stats import WorkerStats
from meuse.settings import Settings, load
from meuse.store.access import SqlAccess, SqlPlans
from meuse.store.blobs import FolderBlobs
from meuse.store.database import Database
from meuse.store.ledger import LedgerStore, SqlBooks
from meuse.store.limits import SqlLimits
from meuse.store.money import MoneyStore
from meuse.store.money_archive import UsageArchive
from meuse.store.money_budgets import BudgetUsage
from meuse.store.money_events import UsageEvents


def main(argv: Sequence[str]) -> int:
    options = commands.parse("ledger", argv, "sockets", "lifeline ready")
    commands.log_to_stderr("ledger")
    lifeline.watch(options.lifeline, lifeline.end_now)
    settings = load(options.home)
    money = Database(settings.database("money"))
    money.migrate("money")
    store = MoneyStore(money, books=SqlBooks, ahead_ms=FUTURE_MS)
    ledger = LedgerStore(money)
    # Read only: plans and tenants are control's to write.
    meuse = Database(settings.database("meuse"))
    plans, access = SqlPlans(meuse), SqlAccess(meuse)

    def jumped(before: str, after: str) -> None:
        store.raise_alarm(
            Alarm("clock_jumped", {"from": before, "to": after}, f"clock:{before}:{after}")
        )

    ingester = Ingester(store, JournalReader(settings.journal), Steady(jumped))
    keeper = Keeper(
        settings.limits,
        Told(SqlLimits(meuse), access, plans, now_ms),
        plans,
        lambda tenant: access.tenant(tenant).plan,
        BudgetUsage(money),
        _balances(ledger),
        ingester.run_once,
        lambda: ingester.complete_to_ms,
    )
    outside, archive = Outside(settings), UsageArchive(money)
    sockets = Path(options.sockets)
    keeping = Keeping(
        events=UsageEvents(money),
        ingester=ingester,
        plans=plans,
        tenants=access,
        recount=outside.recount,
        archived=lambda: {"is_on": outside.is_there, **archive.summary()},
        writers=lambda: [_writer(worker) for worker in stats.read_all(sockets)],
        alarm=store.raise_alarm,
        clock=now_ms,
    )
    reader = BookReader(ledger)
    more = [*wallet_routes(ledger, access), *budget_routes(keeper.tell)]
    app = make_app(
        store, ingester, plans, access, now_ms,
        terms=terms_of(settings), font=settings.invoice_font, postings=Bookkeeper(), books=reader,
        recount=recount_of(outside), keeping=keeping, more=more,
    )  # fmt: skip
    stop = threading.Event()
    threading.Thread(target=keeper.run, args=(stop,), name="keeper", daemon=True).start()
    if outside.is_there:
        archiver = Archiver(
            archive, FolderBlobs(settings.archive), outside.make, settings.archive / ".making"
        )
        threading.Thread(
            target=keep_archiving,
            args=(archiver, lambda: ingester.complete_to_ms, stop),
            name="archive",
            daemon=True,
        ).start()
    if settings.reconcile_hour >= 0:
        reconciler = Reconciler(
            store=store, plans=plans, tenants=access, books=reader, recount=recount_of(outside)
        )
        threading.Thread(
            target=nightly, args=(reconciler, settings.reconcile_hour, stop), name="nightly",
            daemon=True,
        ).start()  # fmt: skip
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with chores.kept(ledger, stop):
        run(
            app,
            ingester,
            sockets / "ledger.sock",
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


def _balances(ledger: LedgerStore) -> Balances:
    def balance(tenant: str, currency: str) -> Spendable | None:
        found = spendable(ledger, tenant, now_ms())
        return next((wallet for wallet in found if wallet.currency == currency), None)

    return balance


def recount_of(outside: Outside) -> Recount | None:
    """How raw records are counted where some are archived; None: all are in the database."""
    if not outside.is_there:
        return None

    def recount(start_ms: int, end_ms: int) -> Iterable[tuple[tuple[str, ...], int, int]]:
        told = outside.recount(start_ms, end_ms)
        for row in told["differences"]:
            where = tuple(str(row.get(name) or "") for name in WHERE)
            yield where, row["rollup"], row["records"]
        # Without a place of their own: what was not listed, and sums by day that are not the
        # rollup's, of which invoices are made.
        if more := told["n_differences"] - len(told["differences"]):
            yield _nowhere("further rows of the rollup"), more, 0
        if wrong := told["daily_differences"]:
            yield _nowhere("sums by day that are not the rollup's"), wrong, 0

    return recount


def _nowhere(what: str) -> tuple[str, ...]:
    return (DEFAULT_TENANT, what, *("" for _ in WHERE[2:]))


def _writer(worker: WorkerStats) -> dict[str, Any]:
    """How a gateway worker's journal stands, as of its last writing (seconds ago at most)."""
    vitals = worker.vitals
    return {
        "slot": worker.slot,
        "live": worker.is_live(now_ms()),
        "mode": vitals.journal_mode,
        "full": vitals.journal_policy,
        "segment": vitals.journal_segment,
        "lag_ms": round(vitals.journal_lag_ms),
        "synced": to_rfc3339(round(vitals.journal_synced_ms)) if vitals.journal_synced_ms else None,
        "refusing": vitals.journal_refusing,
        "lost": vitals.journal_lost,
        "sync_failures": vitals.journal_failures,
    }
