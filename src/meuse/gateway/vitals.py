"""What a worker says of itself: memory, connections, snapshot, journal.

Knows where to read it; what is summed goes on from what the slot's earlier workers had.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from meuse.gateway.counters import clock_ms
from meuse.gateway.dataplane import DataPlane
from meuse.gateway.snapshots import SnapshotClient
from meuse.meter.journal import JournalWriter
from meuse.serve.stats import Vitals

_STATM = Path("/proc/self/statm")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def watch(
    before: Vitals,
    plane: DataPlane,
    snapshots: SnapshotClient,
    journal: JournalWriter,
    connections: Callable[[], int],
) -> Callable[[Vitals], None]:
    """A function that brings vitals up to date; `before` are those at the worker's start."""
    cpu_s, records, written = before.cpu_s, before.journal_records, before.journal_bytes
    lost, durability = before.journal_lost, plane.usage.durability

    def look(vitals: Vitals) -> None:
        vitals.resident_bytes = int(_STATM.read_text().split()[1]) * _PAGE
        vitals.connections = connections()
        vitals.snapshot = plane.snapshot_number
        vitals.snapshot_ms = snapshots.taken_ms
        vitals.follows_control = snapshots.is_following
        vitals.cpu_s = cpu_s + time.process_time()
        vitals.journal_records = records + plane.recorded
        vitals.journal_bytes = written + journal.written
        vitals.journal_lost = lost + durability.lost
        vitals.journal_mode = "group" if durability.commits is None else "strict"
        vitals.journal_policy = "serve" if durability.serves_when_full else "refuse"
        state = journal.state()
        vitals.journal_segment = state.segment
        vitals.journal_lag_ms = state.lag_s * 1000
        if state.synced_s is not None:
            vitals.journal_synced_ms = clock_ms() - state.synced_s * 1000
        vitals.journal_refusing = state.is_refusing

    return look
