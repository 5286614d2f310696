"""Child processes for the tests of sudden death. Run as a script; each waits to be killed.

`write FOLDER SLOT EPOCH ACKS`: appends records and writes each id to ACKS once it is appended.
`ingest FOLDER URL`: prints a line, then ingests in small batches without a pause.
"""

from __future__ import annotations

import os
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


if __name__ == "__main__":
    {"write": write, "ingest": ingest}[sys.argv[1]](*sys.argv[2:])
