"""The ledger process: journal ingest, usage, rating, invoices."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meuse.app import commands
from meuse.app.archiver import Outside, keep_archiving
from meuse.billing.archive import Archiver
from meuse.billing.events import FUTURE_MS
from meuse.billing.ingest import Ingester
from meuse.billing.keeping import Keeping
from meuse.billing.ports import Alarm
from meuse.billing.server import make_app, run
from meuse.billing.steady import Steady
from meuse.core.clock import now_ms, to_rfc3339
from meuse.meter.segments import JournalReader
from meuse.runtime import lifeline
from meuse.serve import stats
from meuse.serve.stats import WorkerStats
from meuse.settings import load
from meuse.store.access import SqlAccess, SqlPlans
from meuse.store.blobs import FolderBlobs
from meuse.store.database import Database
from meuse.store.money import MoneyStore
from meuse.store.money_archive import UsageArchive
from meuse.store.money_events import UsageEvents


def main(argv: Sequence[str]) -> int:
    options = commands.parse("ledger", argv, "sockets", "lifeline ready")
    commands.log_to_stderr("ledger")
    lifeline.watch(options.lifeline, lifeline.end_now)
    settings = load(options.home)
    money = Database(settings.database("money"))
    money.migrate("money")
    store = MoneyStore(money, ahead_ms=FUTURE_MS)
    # Read only: plans and tenants are control's to write.
    meuse = Database(settings.database("meuse"))
    plans, access = SqlPlans(meuse), SqlAccess(meuse)

    def jumped(before: str, after: str) -> None:
        store.raise_alarm(
            Alarm("clock_jumped", {"from": before, "to": after}, f"clock:{before}:{after}")
        )

    ingester = Ingester(store, JournalReader(settings.journal), Steady(jumped))
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
    app = make_app(store, ingester, plans, access, now_ms, keeping)
    stop = threading.Event()
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
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    run(
        app,
        ingester,
        sockets / "ledger.sock",
        stop=stop,
        started=lambda: lifeline.tell_ready(options.ready),
    )
    return 0


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
