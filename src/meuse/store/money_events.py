"""Usage that outside services report, exactly once by (tenant, source, id).

Ids are kept `KEPT_MS` from when they were first seen; whoever sends them again later than that
is not recognised, so events of that age are refused before they come here. All of a request is
taken in one transaction, or nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import sqlalchemy as sa

from meuse.core.clock import Clock, now_ms
from meuse.core.errors import invalid
from meuse.store import money_tables as t
from meuse.store.database import Database
from meuse.store.money_contexts import Contexts
from meuse.store.money_ingest import add_records, raise_alarms, tell
from meuse.store.money_tables import Record
from meuse.store.turns import take_turn

_DAY_MS = 86_400_000
KEPT_MS = 46 * _DAY_MS
"""Events may be 45 days old, and were some minutes ahead of their time when they were seen."""
_MOST_SUM = 2**62
_PER_QUERY = 300


class Event(Protocol):
    """`index`: its place in the request. `digest`: of what it says; equal for equal events."""

    @property
    def index(self) -> int: ...
    @property
    def event_id(self) -> str: ...
    @property
    def digest(self) -> bytes: ...
    @property
    def record(self) -> Record: ...


@dataclass(frozen=True, slots=True)
class Reported:
    """What became of the events of a request, by their places in it. `late`: with the bucket in
    which each is billed. With `conflicts` nothing was taken."""

    accepted: tuple[int, ...] = ()
    duplicates: tuple[int, ...] = ()
    conflicts: tuple[int, ...] = ()
    late: tuple[tuple[int, int], ...] = ()


class UsageEvents:
    """In the same `Database` as `MoneyStore`."""

    def __init__(self, database: Database, clock: Clock = now_ms) -> None:
        self._database = database
        self._clock = clock
        self._contexts: dict[tuple[Any, ...], tuple[int, int]] = {}

    def report(self, events: Sequence[Event]) -> Reported:
        """Take what is new; what was taken before with the same content is a duplicate."""
        now = self._clock()
        contexts = Contexts(self._contexts)
        with self._database.write() as connection:
            take_turn(connection)
            e = t.events.c
            connection.execute(sa.delete(t.events).where(e.seen_ms < now - KEPT_MS))
            known = _known(connection, events)
            fresh: list[Event] = []
            duplicates, conflicts = [], []
            for event in events:
                key = _key(event)
                if key not in known:
                    known[key] = event.digest
                    fresh.append(event)
                elif known[key] == event.digest:
                    duplicates.append(event.index)
                else:
                    conflicts.append(event.index)
            if conflicts:
                return Reported(conflicts=tuple(conflicts))
            records = [(event.record, b"") for event in fresh]
            _, raised, moved = add_records(connection, records, contexts, now)
            _check_sums(connection, fresh)
            if fresh:
                connection.execute(
                    sa.insert(t.events),
                    [
                        {
                            "tenant_id": event.record.tenant,
                            "source": event.record.source,
                            "event_id": event.event_id,
                            "digest": event.digest,
                            "seen_ms": now,
                        }
                        for event in fresh
                    ],
                )
            alarms = raise_alarms(connection, raised, now)
        contexts.keep()
        tell(alarms)
        places = [(event.index, moved.get(id(event.record))) for event in fresh]
        return Reported(
            accepted=tuple(event.index for event in fresh),
            duplicates=tuple(duplicates),
            late=tuple((index, place.bucket_ms) for index, place in places if place is not None),
        )


def _check_sums(connection: sa.Connection, events: Sequence[Event]) -> None:
    """Raises `invalid_field` where they come near to what a sum can hold: what comes behind them
    in the journal must always find room."""
    if not events:
        return
    d = t.daily.c
    since = min(event.record.ts for event in events)
    query = sa.select(sa.func.max(d.quantity)).where(
        d.tenant_id.in_({event.record.tenant for event in events}),
        d.day_ms >= since - since % _DAY_MS,
    )
    if (connection.execute(query).scalar() or 0) > _MOST_SUM:
        raise invalid("data.quantities", "the sum of their day is more than can be kept")


def _key(event: Event) -> tuple[str, str, str]:
    return event.record.tenant, event.record.source, event.event_id


def _known(connection: sa.Connection, events: Sequence[Event]) -> dict[tuple[str, str, str], bytes]:
    e = t.events.c
    keys = list(dict.fromkeys(_key(event) for event in events))
    found: dict[tuple[str, str, str], bytes] = {}
    for at in range(0, len(keys), _PER_QUERY):
        chunk = keys[at : at + _PER_QUERY]
        query = sa.select(e.tenant_id, e.source, e.event_id, e.digest).where(
            sa.tuple_(e.tenant_id, e.source, e.event_id).in_(chunk)
        )
        for row in connection.execute(query):
            found[row.tenant_id, row.source, row.event_id] = bytes(row.digest)
    return found
