"""What the ledger pays for a usage record, from journal to database.

Processor time (what others do on the machine counts as little as it can) and rate of ingest in
two regimes: behind (20,000 records wait in each of two segments) and live (what two workers at
3,500 requests a second journal between two passes); the cost of a pass that finds nothing; and,
in turns with the first, plain executemany of as many rows of a record's own columns into one
table of the same key and durability. Figures to hold: 8 µs a record, 50,000 records/s.
`python benchmarks/ingest.py [--postgres postgresql://…]`: the given database must be empty.
"""

from __future__ import annotations

import argparse
import inspect
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from report import write

from meuse.billing import server
from meuse.billing.ingest import Ingester
from meuse.core.clock import now_ms
from meuse.core.ids import uuid7_bytes
from meuse.meter.journal import JournalWriter
from meuse.meter.record import Template
from meuse.meter.segments import JournalReader
from meuse.store.database import Database
from meuse.store.money import MoneyStore

BEHIND, LIVE_RATE, WRITERS, CALLERS = 20_000, 7_000, 2, 8
INTERVAL_S: float = inspect.signature(server.run).parameters["interval_s"].default
LIVE = round(LIVE_RATE * INTERVAL_S / WRITERS)
HOLD_US, HOLD_RATE = 8.0, 50_000


class Side:
    """A journal with its writers, and the ingester that reads it."""

    def __init__(self, folder: Path, url: str) -> None:
        database = Database(url)
        database.migrate("money")
        self._ingester = Ingester(MoneyStore(database), JournalReader(folder))
        self._writers = [JournalWriter(folder, "h", i, now_ms()) for i in range(WRITERS)]
        self._templates = [
            Template(
                source="gateway", tenant=f"tenant-{i}", owner="acme", project="default",
                key=f"k{i:015d}", deployment="acme/digits", version="digits:1",
                plan_version="basic:1", tier="standard", protocol="simple", lease=None,
            )
            for i in range(CALLERS)
        ]  # fmt: skip

    def turn(self, records: int) -> tuple[float, float]:
        """(processor seconds, seconds) of one pass over as many records of each writer."""
        for writer in self._writers:
            for i in range(records):
                used = {"requests": 1, "rows": 1 + i % 4, "compute_ms": i % 3}
                template = self._templates[i % CALLERS]
                writer.append_payload(template.payload(uuid7_bytes(), "ok", now_ms(), used))
        spent = timed(self._ingester.run_once)
        assert self._ingester.run_once().records == 0
        return spent

    def idle(self) -> tuple[float, float]:
        return timed(self._ingester.run_once)


class Plain:
    """The least that keeping as many rows can cost: one executemany and its commit."""

    def __init__(self, folder: Path) -> None:
        self._connection = sqlite3.connect(folder / "plain.db", isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.execute(
            "CREATE TABLE entry (id BLOB, payer BIGINT, seq INTEGER, context BIGINT, ts_ms BIGINT, "
            "quantities TEXT, PRIMARY KEY (id, payer)) WITHOUT ROWID"
        )

    def turn(self, records: int) -> tuple[float, float]:
        used = '{"requests":1,"rows":1,"compute_ms":1}'
        rows = [(uuid7_bytes(), 1, 0, 1, now_ms(), used) for _ in range(records)]

        def insert() -> None:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._connection.execute("COMMIT")

        return timed(insert)


def timed(call: Callable[[], object]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    return time.process_time() - cpu, time.perf_counter() - wall


def measure(url: str, rounds: int, plain: bool) -> dict[str, Any]:
    behind, live, bare, idle = [], [], [], []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        side = Side(folder / "journal", url or f"sqlite:///{folder / 'money.db'}")
        table = Plain(folder)
        side.turn(LIVE)
        for _ in range(rounds):
            behind.append(side.turn(BEHIND))
            if plain:
                bare.append(table.turn(BEHIND * WRITERS))
        live += [side.turn(LIVE) for _ in range(rounds * 10)]
        idle += [side.idle() for _ in range(200)]
    figures: dict[str, Any] = {}
    for name, found, records in (
        ("behind", behind, BEHIND * WRITERS),
        ("live", live, LIVE * WRITERS),
        ("plain", bare, BEHIND * WRITERS),
    ):
        if found:
            figures[name] = {
                "records_a_pass": records,
                "cpu_us": round(min(cpu for cpu, _ in found) / records * 1e6, 2),
                "cpu_us_median": round(
                    statistics.median(cpu for cpu, _ in found) / records * 1e6, 2
                ),
                "records_a_second": round(records / min(wall for _, wall in found)),
            }
    if bare:
        ratios = [a[0] / b[0] for a, b in zip(behind, bare, strict=True)]
        figures["cpu_of_plain"] = round(statistics.median(ratios), 2)
    figures["idle_pass_cpu_us"] = round(statistics.median(cpu for cpu, _ in idle) * 1e6, 1)
    figures["idle_cpu_share"] = round(figures["idle_pass_cpu_us"] / 1e6 / INTERVAL_S, 6)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--postgres", default="")
    options = parser.parse_args()
    server.tune_gc()
    figures: dict[str, Any] = {"sqlite": measure("", options.rounds, plain=True)}
    if options.postgres:
        figures["postgres"] = measure(options.postgres, options.rounds, plain=False)
    for name, part in figures.items():
        for key, value in part.items():
            print(f"{name:10} {key:18} {value}")
    holds = {"cpu_us": HOLD_US, "records_a_second": HOLD_RATE}
    print(write("ingest", {"interval_s": INTERVAL_S, "hold": holds, **figures}))


if __name__ == "__main__":
    main()
