"""kill -9 of writers and of the ledger: every acknowledged record is there exactly once."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from billing.make_usage import DAY, HOUR
from meuse.meter.segments import is_released, list_segments
from meuse.store import money_tables

SCRIPT = Path(__file__).with_name("children.py")
# The tests first: a benchmark may have put its own folder, with a `billing.py`, before them.
PATHS = os.pathsep.join([str(SCRIPT.parents[1]), *sys.path])


@contextmanager
def child(*arguments, **options):
    """A child that is killed with SIGKILL at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": PATHS},
        **options,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def ids_of(acks: Path) -> list[str]:
    """Whole lines only: SIGKILL may cut a write short where it crosses a page."""
    return acks.read_text().split("\n")[:-1] if acks.exists() else []


def wait_for_acks(acks: Path, n: int) -> None:
    deadline = time.monotonic() + 60
    while len(ids_of(acks)) < n:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_kill_9_loses_nothing_and_doubles_nothing(database, store, journal, ingester, tmp_path):
    """Writers and ledgers are killed at random; in the end each acknowledged id counts once."""
    rng = random.Random(os.getpid())
    acks: list[Path] = []  # one file per writer: a cut line must not run into another's
    for epoch in (1, 2):
        mine = [tmp_path / f"acks-{epoch}-{slot}" for slot in range(2)]
        with (
            child("write", journal, 0, epoch, mine[0]),
            child("write", journal, 1, epoch, mine[1]),
            child("ingest", journal, database.url.render_as_string(False)),
        ):
            for path in mine:
                wait_for_acks(path, 3_000)
            time.sleep(rng.uniform(0, 0.2))
        acks += mine
    assert all(is_released(path) for path in list_segments(journal))
    for _ in range(4):
        url = database.url.render_as_string(False)
        with child("ingest", journal, url, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            with process.stdout:
                process.stdout.readline()
                time.sleep(rng.uniform(0, 0.1))
    ingester.run_once()

    acknowledged = [line for path in acks for line in ids_of(path)]
    with database.read() as connection:
        kept = Counter(
            row_id.hex() for row_id in connection.scalars(sa.select(money_tables.records.c.id))
        )
    assert len(acknowledged) == len(set(acknowledged)) >= 12_000
    assert set(acknowledged) <= set(kept)
    assert set(kept.values()) == {1}
    # At most the one record that each writer had written but not yet acknowledged.
    assert len(kept) <= len(acknowledged) + len(acks)
    sums = {row["meter"]: row["quantity"] for row in store.usage(DAY, DAY + HOUR, ["meter"])}
    assert sums == {"requests": len(kept), "rows": 8 * len(kept)}
    assert [path.name for path in list_segments(journal)] == []
    assert store.alarms() == []
