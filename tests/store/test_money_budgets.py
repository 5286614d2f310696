"""store.money_budgets on SQLite and Postgres"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from billing.make_usage import DAY, HOUR, usage_record
from meuse.core.clock import BUCKET_MS
from meuse.core.nouns import Limit
from meuse.meter.record import encode
from meuse.store.database import Database
from meuse.store.money import MoneyStore
from meuse.store.money_budgets import KEPT_MS, BudgetUsage

Sums = dict[tuple[str, str, str | None, str], int]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    database.migrate("money")
    yield database
    database.close()


def ingest(database: Database, *records: dict[str, Any]) -> None:
    """Each with an id of the time that it was made at."""
    made = []
    for n, fields in enumerate(records):
        ts = fields["ts"]
        record = usage_record(id=ts.to_bytes(6, "big") + n.to_bytes(10, "big"), **fields)
        made.append((record, encode(record)))
    MoneyStore(database).ingest("s", made, offset=0, next_offset=9, state="open")


def used(database: Database, start: int, end: int, now: int = DAY + HOUR, **who: str) -> Sums:
    limit = Limit("b", "budget", 1, **who)
    rows = BudgetUsage(database, lambda: now)(limit, start, end)
    return {(r.meter, r.deployment, r.plan_version, r.tier): r.quantity for r in rows}


def rows(found: Sums) -> int:
    return sum(quantity for key, quantity in found.items() if key[0] == "rows")


def test_usage_of_each_subject(database: Database) -> None:
    """By tenant, project, key and deployment, all that are named; by what prices tell apart."""
    ingest(
        database,
        {"ts": DAY + 1},
        {"ts": DAY + 2, "key": "key-2", "plan_version": None},
        {"ts": DAY + 3, "project": "lab", "tier": "batch"},
        {"ts": DAY + 4, "tenant": "blue", "key": "key-3"},
        {"ts": DAY + 5, "deployment": "acme/other", "quantities": {"rows": 1}},
    )
    everything = (DAY, DAY + BUCKET_MS)
    assert used(database, *everything, tenant="acme", key="key-1", project="default") == {
        ("requests", "acme/digits", "basic:1", "standard"): 1,
        ("rows", "acme/digits", "basic:1", "standard"): 8,
        ("rows", "acme/other", "basic:1", "standard"): 1,
    }
    assert used(database, *everything, key="key-2") == {
        ("requests", "acme/digits", None, "standard"): 1,
        ("rows", "acme/digits", None, "standard"): 8,
    }
    assert rows(used(database, *everything, project="lab")) == 8
    assert rows(used(database, *everything, model="acme/digits")) == 32
    assert rows(used(database, *everything, tenant="blue", model="acme/other")) == 0


def test_a_start_within_a_bucket_takes_records_from_it_on(database: Database) -> None:
    """Of that bucket those that were made since, of the following ones all; of an old one, whose
    records may have gone, the whole."""
    ingest(
        database,
        {"ts": DAY + 999, "quantities": {"rows": 1}},
        {"ts": DAY + 1000, "quantities": {"rows": 10}},
        {"ts": DAY + BUCKET_MS, "quantities": {"rows": 100}},
        {"ts": DAY + HOUR, "quantities": {"rows": 1000}},
    )
    end = DAY + HOUR
    assert rows(used(database, DAY, end, tenant="acme")) == 111
    assert rows(used(database, DAY + 1000, end, tenant="acme")) == 110
    assert rows(used(database, DAY + 1001, end, tenant="acme")) == 100
    assert rows(used(database, DAY + 1000, DAY + 1001, tenant="acme")) == 10
    assert rows(used(database, DAY + 1000, end + 1, tenant="acme")) == 1110
    late = DAY + 1000 + KEPT_MS
    assert rows(used(database, DAY + 1000, end, late, tenant="acme")) == 111


def test_the_last_of_several_records_of_one_request_counts(database: Database) -> None:
    """A long answer's checkpoints are cumulative, here as in the rollup."""
    one = usage_record(id=DAY.to_bytes(6, "big") + bytes(10), ts=DAY + 50, final=False,
                       quantities={"completion_tokens": 64})  # fmt: skip
    two = usage_record(id=one.id, seq=1, ts=DAY + 60, quantities={"completion_tokens": 100})
    made = [(record, encode(record)) for record in (one, two)]
    MoneyStore(database).ingest("s", made, offset=0, next_offset=9, state="open")
    for start in (DAY, DAY + 10):
        found = used(database, start, DAY + BUCKET_MS, tenant="acme")
        assert found == {("completion_tokens", "acme/digits", "basic:1", "standard"): 100}
