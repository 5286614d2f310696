"""From journal segments into the store, exactly once.

Knows the order of things: ask whether the writer is gone, then read, then commit, then delete.
Knows no format and no SQL; the journal and the store are ports.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import Any

from meuse.billing.invoice_ports import Alarm
from meuse.billing.ports import Batch, Cursor, CursorState, Journal, UsageSink
from meuse.core.clock import Clock, now_ms

_log = logging.getLogger(__name__)

BATCH_BYTES = 2 * 1024 * 1024
"""Read and committed at once: about ten thousand records."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What one pass did. Everything journaled before `complete_to_ms` is in."""

    records: int
    complete_to_ms: int


class Ingester:
    """Walks the journal from the cursors that the store keeps; safe for threads.

    A segment that is still written is read up to its last whole record. One whose writer is
    gone is read to its end, closed in the store and then deleted; only an incomplete last
    record is left out: its request was never answered. Damage before that quarantines the
    rest: an alarm, the file stays, other segments go on, and `complete_to_ms` stays at the
    last record before the damage until an operator mends or removes the file.
    """

    def __init__(
        self,
        store: UsageSink,
        journal: Journal,
        clock: Clock = now_ms,
        *,
        batch_bytes: int = BATCH_BYTES,
    ) -> None:
        self._store = store
        self._journal = journal
        self._clock = clock
        self._batch_bytes = batch_bytes
        self._turn = threading.Lock()
        self._complete_to = 0
        self._open: dict[str, int] = {}  # how far live segments are in: the store's cursors

    @property
    def complete_to_ms(self) -> int:
        """As of the last pass; 0 before the first."""
        return self._complete_to

    def standing(self) -> dict[str, Any]:
        """{segments, behind_bytes, quarantined: [{segment, offset}]}: what is in the journal now,
        and how much of it is not in the store."""
        behind, quarantined = 0, []
        segments = self._journal.segments()
        for segment in segments:
            cursor = self._store.cursor(segment)
            try:
                size = self._journal.size(segment)
            except FileNotFoundError:
                continue  # taken in meanwhile
            if cursor.state == "quarantined":
                quarantined.append({"segment": segment, "offset": cursor.offset})
            behind += max(size - cursor.offset, 0)
        return {
            "segments": len(segments),
            "behind_bytes": behind,
            "quarantined": quarantined,
        }

    def run_once(self) -> Progress:
        """One pass over all segments; a second caller waits for its turn.

        A segment that fails does not keep the others from going on; its error is raised at
        the end, and `complete_to_ms` does not advance.
        """
        with self._turn:
            # Before the walk: what is journaled during it may be behind us already.
            complete_to = self._clock()
            records = 0
            failed: Exception | None = None
            segments = self._journal.segments()
            self._open = {name: self._open[name] for name in segments if name in self._open}
            for segment in segments:
                try:
                    new, held_at = self._take(segment)
                except FileNotFoundError:
                    _log.warning("segment %s was removed by someone else", segment)
                except Exception as error:
                    _log.warning("segment %s could not be ingested: %s", segment, error)
                    failed = failed or error
                else:
                    records += new
                    complete_to = min(complete_to, held_at)
            if failed is not None:
                raise failed
            self._complete_to = complete_to
            return Progress(records, complete_to)

    def _take(self, segment: str) -> tuple[int, int]:
        """(new records, up to when this segment lets usage count as complete)."""
        # Forgotten until all went well: after an error the store says where it stands.
        offset = self._open.pop(segment, None)
        if offset is None:
            cursor = self._store.cursor(segment)
            if cursor.state == "quarantined":
                return 0, cursor.last_ts_ms
            if cursor.state == "closed":
                return 0, self._remove(segment, cursor)
            offset = cursor.offset
        # Asked before reading: a writer that dies after the read may have written more.
        released = self._journal.is_released(segment)
        # Bounded by the size now, or a busy writer would keep us here.
        size = self._journal.size(segment)
        new = 0
        if offset == size and not released:
            self._open[segment] = offset
            return 0, NEVER
        while True:
            batch = self._journal.read(segment, offset, self._batch_bytes, closed=released)
            state = _state(batch, released)
            if batch.records or state != "open":
                alarms = [_damage(segment, batch.next_offset)] if state == "quarantined" else []
                done = self._store.ingest(
                    segment,
                    batch.records,
                    offset=offset,
                    next_offset=batch.next_offset,
                    state=state,
                    alarms=alarms,
                )
                new += done.new
            offset = batch.next_offset
            if state == "closed":
                self._journal.remove(segment)
            if state == "quarantined":
                return new, self._store.cursor(segment).last_ts_ms
            if state == "closed":
                return new, NEVER
            if batch.state != "more" or offset >= size:
                self._open[segment] = offset
                return new, NEVER

    def _remove(self, segment: str, cursor: Cursor) -> int:
        """Delete a closed segment: the ledger was killed between the commit and this."""
        rest = self._journal.read(segment, cursor.offset, self._batch_bytes, closed=True)
        if not rest.records and self._journal.size(segment) >= cursor.offset:
            self._journal.remove(segment)
            return NEVER
        # Not the file that was closed: a writer used an old name. Its usage must not vanish.
        self._store.ingest(
            segment,
            (),
            offset=cursor.offset,
            next_offset=cursor.offset,
            state="quarantined",
            alarms=[Alarm("segment_name_reused", {"segment": segment}, f"reused:{segment}")],
        )
        return cursor.last_ts_ms


NEVER = 2**63 - 1
"""A moment after all others: this segment holds nothing back."""


def _state(batch: Batch, released: bool) -> CursorState:
    if batch.state == "corrupt":
        return "quarantined"
    return "closed" if released and batch.state in ("end", "tail") else "open"


def _damage(segment: str, offset: int) -> Alarm:
    return Alarm(
        "segment_quarantined", {"segment": segment, "offset": offset}, f"quarantine:{segment}"
    )
