"""Child processes for the tests of sudden death. Run as a script; each waits to be killed.

`write FOLDER SLOT EPOCH ACKS`: appends records and writes each id to ACKS once it is appended.
`ingest FOLDER URL`: prints a line, then ingests in small batches without a pause.
`archive FOLDER URL POINT NOW`: archives, and kills itself at a point.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from billing.make_usage import usage_record
from meuse.billing.ingest import Ingester
from meuse.meter.journal import JournalWriter
from meuse.meter.segments import JournalReader
from meuse.store.database import Database
from meuse.store.money import MoneyStore


def write(folder: str, slot: str, epoch: str, acks: str) -> None:
    writer = JournalWriter(Path(folder), "h", int(slot), int(epoch), segment_bytes=400_000)
    fd = os.open(acks, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    n = 0
    while True:
        record = usage_record()
        writer.append(record)
        os.write(fd, record.id.hex().encode() + b"\n")
        n += 1
        if n % 500 == 0:
            writer.sync()


def ingest(folder: str, url: str) -> None:
    ingester = Ingester(MoneyStore(Database(url)), JournalReader(Path(folder)), batch_bytes=1)
    print("started", flush=True)
    while True:
        ingester.run_once()


def archive(folder: str, url: str, point: str, now: str) -> None:
    from billing.failing import Points
    from meuse.app.archive import make_part
    from meuse.billing.archive import Archiver
    from meuse.store.blobs import FolderBlobs
    from meuse.store.money_archive import UsageArchive

    home, kept = Path(folder), UsageArchive(Database(url), lambda: int(now))
    points = Points(int(point), lambda: os.kill(os.getpid(), signal.SIGKILL))
    Archiver(
        points.of(kept), points.of(FolderBlobs(home / "usage")),
        points.around(lambda span, place: make_part(kept, span, place)), home / "making",
        lambda: int(now),
    ).run_once(int(now))  # fmt: skip


if __name__ == "__main__":
    {"write": write, "ingest": ingest, "archive": archive}[sys.argv[1]](*sys.argv[2:])
