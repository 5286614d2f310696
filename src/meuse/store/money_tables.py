"""The tables of money.db and the records that go in and come out of it.

Columns as `MoneyStore` uses them; what makes them (types, keys, guards) is the migrations'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import sqlalchemy as sa

CursorState = Literal["open", "closed", "quarantined"]


class Record(Protocol):
    """What is kept of a usage record; `meter.record.UsageRecord` says what each field means."""

    @property
    def id(self) -> bytes: ...
    @property
    def seq(self) -> int: ...
    @property
    def final(self) -> bool: ...
    @property
    def source(self) -> str: ...
    @property
    def tenant(self) -> str: ...
    @property
    def owner(self) -> str: ...
    @property
    def project(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def deployment(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def plan_version(self) -> str | None: ...
    @property
    def tier(self) -> str: ...
    @property
    def protocol(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def ts(self) -> int: ...
    @property
    def lease(self) -> str | None: ...
    @property
    def quantities(self) -> dict[str, int]: ...
    @property
    def estimated(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a segment is in: bytes, state, the latest `ts` taken from it (0: none)."""

    offset: int
    state: CursorState
    last_ts_ms: int


class Alarm(Protocol):
    """Something a person must look at. `dedup`: raised twice, it is kept once."""

    @property
    def kind(self) -> str: ...
    @property
    def tenant(self) -> str: ...
    @property
    def detail(self) -> Mapping[str, Any]: ...
    @property
    def dedup(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Ingested:
    """What became of a batch. `late` are new ones inside a period that is invoiced already."""

    new: int = 0
    duplicates: int = 0
    conflicts: int = 0
    late: int = 0


@dataclass(frozen=True, slots=True)
class RollupRow:
    """A payer's quantity of one meter on one deployment at one tier under one plan version.

    It is of a window of time that begins at `from_ms`; `first_ms` is its first bucket there.
    """

    meter: str
    deployment: str
    plan_version: str | None
    quantity: int
    tier: str
    first_ms: int
    from_ms: int


metadata = sa.MetaData()
views = sa.MetaData()


def texts(*names: str, primary_key: bool = False) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, primary_key=primary_key) for name in names]


# A usage record is an entry and its context: what the many requests of one caller have in
# common is kept once, which halves what a record costs to insert. `records` joins the two.
contexts = sa.Table(
    "usage_context",
    metadata,
    sa.Column("context", sa.BigInteger, primary_key=True),
    sa.Column("payer", sa.BigInteger),
    *texts("tenant_id", "source", "owner_id", "project_id", "key_id", "deployment", "version"),
    *texts("plan_version", "tier", "protocol", "status", "lease"),
    sa.Column("final", sa.Boolean),
    sa.Column("estimated", sa.Boolean),
)
entries = sa.Table(
    "usage_entry",
    metadata,
    sa.Column("id", sa.LargeBinary, primary_key=True),
    sa.Column("payer", sa.BigInteger, primary_key=True),
    sa.Column("seq", sa.Integer),
    sa.Column("context", sa.BigInteger),
    sa.Column("ts_ms", sa.BigInteger),
    *texts("quantities"),
)
records = sa.Table(
    "usage_record",
    views,
    sa.Column("id", sa.LargeBinary),
    *texts("tenant_id", "source"),
    sa.Column("seq", sa.Integer),
    sa.Column("final", sa.Boolean),
    *texts("owner_id", "project_id", "key_id", "deployment", "version", "plan_version"),
    *texts("tier", "protocol", "status"),
    sa.Column("ts_ms", sa.BigInteger),
    *texts("lease", "quantities"),
    sa.Column("estimated", sa.Boolean),
)
rollup = sa.Table(
    "usage_rollup",
    metadata,
    *texts("tenant_id", primary_key=True),
    sa.Column("bucket_ms", sa.BigInteger, primary_key=True),
    *texts("owner_id", "project_id", "key_id", "deployment", "version", primary_key=True),
    *texts("meter", "tier", "plan_version", primary_key=True),
    sa.Column("quantity", sa.BigInteger),
)
daily = sa.Table(
    "usage_daily",
    metadata,
    *texts("tenant_id", primary_key=True),
    sa.Column("day_ms", sa.BigInteger, primary_key=True),
    *texts("owner_id", "project_id", "deployment", "meter", "tier", primary_key=True),
    *texts("plan_version", primary_key=True),
    sa.Column("first_ms", sa.BigInteger),
    sa.Column("quantity", sa.BigInteger),
)
elsewhere = sa.Table(
    "usage_elsewhere",
    metadata,
    sa.Column("id", sa.LargeBinary, primary_key=True),
    sa.Column("payer", sa.BigInteger, primary_key=True),
    sa.Column("bucket_ms", sa.BigInteger, primary_key=True),
    *texts("meter", primary_key=True),
    sa.Column("quantity", sa.BigInteger),
    sa.Column("context", sa.BigInteger),
    sa.Column("own_ms", sa.BigInteger),
    *texts("reason"),
)
events = sa.Table(
    "usage_event",
    metadata,
    *texts("tenant_id", "source", "event_id", primary_key=True),
    sa.Column("digest", sa.LargeBinary),
    sa.Column("seen_ms", sa.BigInteger),
)
archive = sa.Table(
    "usage_archive",
    metadata,
    *texts("day", primary_key=True),
    sa.Column("part", sa.Integer, primary_key=True),
    *texts("state"),
    sa.Column("first", sa.LargeBinary),
    sa.Column("until", sa.LargeBinary),
    sa.Column("before_ms", sa.BigInteger),
    sa.Column("records", sa.BigInteger),
    sa.Column("min_ts_ms", sa.BigInteger),
    sa.Column("max_ts_ms", sa.BigInteger),
    *texts("digest", "blob", "sums"),
    sa.Column("bytes", sa.BigInteger),
    sa.Column("created_ms", sa.BigInteger),
)
cursors = sa.Table(
    "journal_cursor",
    metadata,
    *texts("segment", primary_key=True),
    sa.Column("offset", sa.BigInteger),
    *texts("state"),
    sa.Column("last_ts_ms", sa.BigInteger),
    sa.Column("updated_ms", sa.BigInteger),
)
alarms = sa.Table(
    "alarm",
    metadata,
    *texts("id", primary_key=True),
    *texts("tenant_id", "project_id"),
    sa.Column("ts_ms", sa.BigInteger),
    *texts("kind", "detail", "dedup"),
)
reconciliations = sa.Table(
    "reconciliation",
    metadata,
    *texts("id", primary_key=True),
    sa.Column("ts_ms", sa.BigInteger),
    sa.Column("differences", sa.Integer),
    *texts("body"),
)
