"""Whether the till keeps its numbers: ingest, usage queries, invoices, admission, the journal.

The set is that of `billing_set`; `--small` takes a fiftieth of it, to see that all runs. Beside
each figure stands, measured in turns with it in the same run, what the least could cost: plain
inserts of as many rows, the bare query of the same rows by the driver, the lock alone, one write
of the same bytes. Times of queries are wall time; of calls within a process its processor time.

`python benchmarks/billing.py [--small] [--records N] [--postgres URL | --no-postgres]`: a given
database must be empty; without one a server is started for the run, which fsyncs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import billing_set
import ingest
from billing_set import END, START, tenant_name
from report import write

from meuse.billing import server
from meuse.billing.invoices import make_invoice
from meuse.core.clock import now_ms
from meuse.core.errors import not_found
from meuse.core.ids import uuid7_bytes
from meuse.core.nouns import Limit, PlanVersion, Tenant
from meuse.core.plans import Price, Step
from meuse.meter.journal import JournalWriter
from meuse.meter.limits import Limits
from meuse.meter.record import Template
from meuse.meter.segments import frame
from meuse.store.database import Database
from meuse.store.money import MoneyStore

HOLDS = {
    "ingest_records_s": (">=", 50_000.0),
    "usage_ms": ("<=", 10.0),
    "invoice_s": ("<=", 2.0),
    "admission_us": ("<=", 20.0),
    "append_us": ("<=", 5.0),
}
LARGEST, MEDIAN, SMALLEST = 0, billing_set.TENANTS // 2, billing_set.TENANTS - 1
BY = ["day", "model", "meter"]


class Directory:
    """One plan that everyone has: tiers, free units, a price for each meter of the set."""

    def __init__(self) -> None:
        tiers = (Step(10**6, "0.0000020"), Step(10**9, "0.0000015"), Step(None, "0.0000010"))
        prices = (
            Price("requests", "0", free=1000),
            Price("rows", "0.50", 1000, free=10_000),
            Price("prompt_tokens", "0", scheme="graduated", tiers=tiers),
            Price("cached_tokens", "0.10", 10**6),
            Price("completion_tokens", "15", 10**6),
        )
        self._plan = PlanVersion("basic", 1, "EUR", prices, START)

    def plan(self, name: str, version: int | None = None) -> Any:
        if name != "basic":
            raise not_found("plan", name)
        return self._plan

    def versions(self, name: str) -> list[Any]:
        return [self._plan] if name == "basic" else []

    def billing(self, tenant: str) -> None:
        return None

    def plan_changes(self, tenant: str) -> list[tuple[int, str | None]]:
        return [(0, "basic")]

    def tenant(self, name: str) -> Tenant:
        return Tenant(name, "basic", 0)


def in_turns(
    ours: Callable[[], object], bare: Callable[[], object], rounds: int, clock: Callable[[], int]
) -> dict[str, float]:
    """Medians of both in milliseconds, the 95th percentile of ours, the median ratio."""
    pairs = []
    for _ in range(rounds):
        pair = []
        for call in (ours, bare):
            begun = clock()
            call()
            pair.append((clock() - begun) / 1e6)
        pairs.append((pair[0], pair[1]))
    mine = sorted(pair[0] for pair in pairs)
    return {
        "ms": round(statistics.median(mine), 3),
        "p95_ms": round(mine[min(len(mine) - 1, int(len(mine) * 0.95))], 3),
        "bare_ms": round(statistics.median(pair[1] for pair in pairs), 3),
        "ratio": round(statistics.median(a / b for a, b in pairs), 2),
    }


def usage_queries(store: MoneyStore, database: Database, rounds: int) -> dict[str, Any]:
    """The month by day and model, of three payers and of all; beside it the driver's own read of
    the rows by day."""
    mark = "?" if database.sqlite else "%s"
    figures: dict[str, Any] = {}
    for name, tenant in (
        ("largest", tenant_name(LARGEST)), ("median", tenant_name(MEDIAN)),
        ("smallest", tenant_name(SMALLEST)), ("all", None),
    ):  # fmt: skip
        where = f"day_ms >= {mark} AND day_ms < {mark}"
        given: list[Any] = [START, END]
        if tenant is not None:
            where, given = f"tenant_id = {mark} AND {where}", [tenant, *given]

        def ours(tenant: str | None = tenant) -> list[dict[str, Any]]:
            return store.usage(START, END, BY, tenant=tenant)

        def bare(where: str = where, given: list[Any] = given) -> None:
            with database.read() as connection:
                sql = f"SELECT day_ms, deployment, meter, quantity FROM usage_daily WHERE {where}"
                connection.exec_driver_sql(sql, tuple(given)).all()

        figures[name] = {"rows": len(ours()), **in_turns(ours, bare, rounds, time.perf_counter_ns)}
    return figures


def invoices(store: MoneyStore, database: Database, rounds: int) -> dict[str, Any]:
    """A preview of the month of the largest and the median payer: what an issue does but for
    writing one row. Beside it, the sum over the same rows by one statement of the driver's."""
    directory, mark = Directory(), "?" if database.sqlite else "%s"
    figures: dict[str, Any] = {}
    for name, rank in (("largest", LARGEST), ("median", MEDIAN)):
        tenant = tenant_name(rank)

        def ours(tenant: str = tenant) -> Any:
            return make_invoice(
                store, directory, directory, tenant=tenant, period="2026-11",
                complete_to_ms=END + 10**6, issue=False, clock=lambda: END + 10**6,
            )[0]  # fmt: skip

        def bare(tenant: str = tenant) -> None:
            with database.read() as connection:
                sql = f"SELECT count(*), sum(quantity) FROM usage_rollup WHERE tenant_id = {mark}"
                connection.exec_driver_sql(sql, (tenant,)).all()

        figures[name] = {
            "total": ours().total, **in_turns(ours, bare, rounds, time.perf_counter_ns)
        }  # fmt: skip
    return figures


def admission(rounds: int, calls: int = 1000) -> dict[str, float]:
    """admit + settle of a request whose key has ten budgets; beside it the lock alone."""
    budgets = [
        Limit(f"b{i}", "budget", 10**15, period, meter, key="key-1")
        for i, (period, meter) in enumerate(
            (period, meter)
            for period in ("minute", "day", "month", "total", "month")
            for meter in ("requests", "rows")
        )
    ]
    needs = {"requests": 1, "rows": 1}
    with tempfile.TemporaryDirectory() as folder:
        limits = Limits(Path(folder) / "cells")
        limits.load(budgets, 1)
        plan = limits.plan("acme", "default", "key-1", "acme/m")
        assert plan is not None
        assert len(plan.checks) == 10

        def ours() -> None:
            for _ in range(calls):
                limits.settle(limits.admit(plan, needs), needs)

        def bare() -> None:
            for _ in range(calls):
                limits._cells.lock()
                limits._cells.unlock()

        found = in_turns(ours, bare, rounds, time.thread_time_ns)
        limits.close()
    return _of_calls(found, calls)


def appends(rounds: int, calls: int = 2000) -> dict[str, float]:
    """A record made and appended, while another thread syncs every 50 ms as in a worker; beside
    it one write of as many bytes."""
    template = Template(
        source="gateway", tenant="acme", owner="acme", project="default", key="k" * 16,
        deployment="acme/digits", version="digits:1", plan_version="basic:1", tier="standard",
        protocol="simple", lease=None,
    )  # fmt: skip
    used = {"requests": 1, "rows": 4, "compute_ms": 2}
    payload = template.payload(uuid7_bytes(), "ok", now_ms(), used)
    data = frame(payload)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        writer = JournalWriter(Path(folder), "h", 0, now_ms())
        ended = threading.Event()

        def sync() -> None:
            while not ended.wait(0.05):
                writer.sync()

        thread = threading.Thread(target=sync)
        thread.start()
        fd = os.open(Path(folder) / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

        def ours() -> None:
            for _ in range(calls):
                writer.append_payload(payload)

        def whole() -> None:
            for _ in range(calls):
                writer.append_payload(template.payload(uuid7_bytes(), "ok", now_ms(), used))

        def bare() -> None:
            for _ in range(calls):
                os.write(fd, data)

        try:
            found = _of_calls(in_turns(ours, bare, rounds, time.thread_time_ns), calls)
            made = _of_calls(in_turns(whole, bare, rounds, time.thread_time_ns), calls)
        finally:
            ended.set()
            thread.join()
            writer.close()
            os.close(fd)
    return {**found, "with_record_us": made["us"]}


def _of_calls(found: dict[str, float], calls: int) -> dict[str, float]:
    return {
        "us": round(found["ms"] * 1000 / calls, 2),
        "bare_us": round(found["bare_ms"] * 1000 / calls, 2),
        "ratio": found["ratio"],
    }


def on_database(url: str, records: int, rounds: int) -> dict[str, Any]:
    """The set in a database, and what is asked of it."""
    database = Database(url)
    database.migrate("money")
    figures: dict[str, Any] = {"set": billing_set.load(database, records)}
    print(f"  {figures['set']}")
    store = MoneyStore(database)
    figures["usage"] = usage_queries(store, database, rounds * 3)
    figures["invoice"] = invoices(store, database, max(3, rounds // 3))
    database.close()
    return figures


@contextlib.contextmanager
def postgres(given: str | None) -> Iterator[Callable[[], str]]:
    """A function that names an empty database; the given one, or those of a server of ours."""
    if given:
        yield lambda: given
        return
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    import postgres as server_of_tests  # type: ignore[import-not-found]

    with server_of_tests.temporary_postgres(durable=True) as new_database:
        yield new_database


def page(body: dict[str, Any]) -> str:
    """The report as a table."""
    figures = body["figures"]
    lines = [
        f"# The till, {body['date']}", "",
        f"Commit {body['commit']}, {body['machine']['cores']} cores, "
        f"{body['machine']['processor']}, Python {body['machine']['python']}.", "",
        "| what | measured | hold | least | ratio |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in figures["table"]:
        met = "" if row["met"] else " (missed)"
        cells = (row["what"], f"{row['value']}{met}", f"{row['sign']} {row['bound']:g}",
                 row["bare"], row["ratio"])  # fmt: skip
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    for name in ("sqlite", "postgres"):
        if name in figures:
            made = figures[name]["set"]
            lines += ["", f"{name}: {made['records']:,} records are {made['rollup_rows']:,} rows "
                      f"of the rollup and {made['daily_rows']:,} by day."]  # fmt: skip
    return "\n".join([*lines, "", "`least` is what the same costs bare, see `billing.py`.", ""])


def table_of(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Each hold with what was measured."""
    found: list[tuple[str, str, float, Any, Any]] = []
    for name in ("sqlite", "postgres"):
        part = figures.get(name, {})
        if "behind" in part.get("ingest", {}):
            taken = part["ingest"]
            plain = taken.get("plain", {}).get("records_a_second", "")
            found.append((f"records/s ingested, {name}", "ingest_records_s",
                          taken["behind"]["records_a_second"], plain,
                          taken.get("cpu_of_plain", "")))  # fmt: skip
        for who, row in part.get("usage", {}).items():
            if who == "all":  # an administrator's view, without a hold
                continue
            found.append((f"usage by day and model, {who}, {name}, ms", "usage_ms", row["ms"],
                          row["bare_ms"], row["ratio"]))  # fmt: skip
        for who, row in part.get("invoice", {}).items():
            found.append((f"invoice of the {who}, {name}, s", "invoice_s",
                          round(row["ms"] / 1000, 3), round(row["bare_ms"] / 1000, 3),
                          row["ratio"]))  # fmt: skip
    for what, hold in (("admission", "admission_us"), ("append", "append_us")):
        row = figures[what]
        named = {"admission": "admission with 10 budgets on a key, µs",
                 "append": "journal append in group, µs"}[what]  # fmt: skip
        found.append((named, hold, row["us"], row["bare_us"], row["ratio"]))
    rows = []
    for what, hold, value, bare, ratio in found:
        sign, bound = HOLDS[hold]
        met = value >= bound if sign == ">=" else value <= bound
        rows.append({"what": what, "value": value, "sign": sign, "bound": bound, "bare": bare,
                     "ratio": ratio, "met": met})  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--records", type=int, default=billing_set.RECORDS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--postgres", default="")
    parser.add_argument("--no-postgres", action="store_true")
    options = parser.parse_args()
    records = options.records // 50 if options.small else options.records
    rounds = 3 if options.small else options.rounds
    passes = 2 if options.small else 7
    server.tune_gc()
    figures: dict[str, Any] = {"admission": admission(rounds), "append": appends(rounds)}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        print("sqlite")
        figures["sqlite"] = on_database(f"sqlite:///{folder}/money.db", records, rounds)
        figures["sqlite"]["ingest"] = ingest.measure("", passes, plain=True)
    if not options.no_postgres:
        print("postgres")
        with postgres(options.postgres or None) as new_database:
            figures["postgres"] = on_database(new_database(), records, rounds)
            figures["postgres"]["ingest"] = (
                {} if options.postgres else ingest.measure(new_database(), passes, plain=False)
            )
    figures["table"] = table_of(figures)
    for row in figures["table"]:
        print(f"{'ok  ' if row['met'] else 'MISS'} {row['what']:48} {row['value']}")
    name = "billing-small" if options.small else "billing"
    if options.small:
        print(page({"date": "", "commit": "", "machine": {"cores": os.cpu_count(), "processor": "",
                    "python": ""}, "figures": figures}))  # fmt: skip
        return
    print(write(name, figures, page))


if __name__ == "__main__":
    main()
