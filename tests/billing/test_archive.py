"""Raw records on their way to Parquet: none is lost, none is kept twice, sums can be made again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from billing.failing import Killed, Points
from billing.make_usage import DAY, HOUR, usage_record
from meuse.app.archive import make_part, part_of, recount, to_json
from meuse.app.archiver import Outside
from meuse.billing.archive import KEEP_MS, ROWS, SUMS, TENANT, Archiver
from meuse.core.errors import MeuseError
from meuse.meter.record import encode
from meuse.settings import load
from meuse.store import money_tables as t
from meuse.store.blobs import FolderBlobs
from meuse.store.database import Database
from meuse.store.money import MoneyStore
from meuse.store.money_archive import Digest, UsageArchive

parquet = pytest.importorskip("meuse.billing.parquet", reason="pyarrow is not installed")

DAY_MS = 24 * HOUR
NOW = DAY + 10 * DAY_MS + 12 * HOUR
SCRIPT = Path(__file__).with_name("children.py")
# The tests first: a benchmark may have put its own folder, with a `billing.py`, before them.
PATHS = os.pathsep.join([str(SCRIPT.parents[1]), *sys.path])


def record(ts, **fields):
    """One whose id begins with its time, as those of the gateway do."""
    return usage_record(id=ts.to_bytes(6, "big") + os.urandom(10), ts=ts, **fields)


def ingest(store, *records):
    segment = f"h-0-1-{len(store.listed)}"
    store.listed.append(segment)
    batch = [(r, encode(r)) for r in records]
    return store.ingest(segment, batch, offset=0, next_offset=1, state="closed")


@pytest.fixture
def store(database):
    store = MoneyStore(database, lambda: NOW)
    store.listed = []
    return store


@pytest.fixture
def archive(database):
    return UsageArchive(database, lambda: NOW)


@pytest.fixture
def blobs(tmp_path):
    return FolderBlobs(tmp_path / "usage")


class Small:
    """The archive in parts of five records."""

    def __init__(self, archive):
        self._archive = archive

    def __getattr__(self, name):
        return getattr(self._archive, name)

    def next_span(self, before_ms):
        return self._archive.next_span(before_ms, 5)


def archiver(archive, blobs, tmp_path, store=None, make=None):
    def made(span, folder):
        return make_part(archive, span, folder)

    return Archiver(store or Small(archive), blobs, make or made, tmp_path / "making", lambda: NOW)


def fill(store):
    """Eight days, some of whose records are odd; how many."""
    records = [
        record(DAY + day * DAY_MS + n * 3 * HOUR, tenant=tenant,
               quantities={"rows": n, "requests": 1})
        for day in range(8)
        for n in range(7)
        for tenant in ("acme", "blue")
    ]  # fmt: skip
    records += [
        record(DAY + 5, plan_version=None, lease="lease-1", status="error", key="schlüssel"),
        record(DAY + 6, source="job", tier="batch", quantities={"training_ms": 2**53 - 1}),
        record(DAY + 7, key="guessed", estimated=True),
    ]
    first = record(DAY + HOUR)
    records += [
        usage_record(id=first.id, seq=seq, final=seq == 2, ts=DAY + HOUR + seq * HOUR,
                     quantities={"completion_tokens": 10 * (seq + 1)})
        for seq in range(3)
    ]  # fmt: skip
    ingest(store, *records)
    return len(records) - 2


def entries(database):
    with database.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(t.entries)).scalar_one()


def named(archive):
    """The digests of blobs that the archive names."""
    parts = archive.parts()
    assert archive.parts("putting") == []
    return {digest for part in parts for digest in (part.blob, part.sums)}


def kept(tmp_path):
    folder = tmp_path / "usage" / TENANT
    names = [p.name for p in folder.iterdir()] if folder.exists() else []
    return {name for name in names if "." not in name}


def books_agree(database, archive, blobs, count):
    report = recount(archive, blobs, DAY, DAY + 8 * DAY_MS)
    assert report["differences"] == []
    assert report["daily_differences"] == 0
    assert report["archived"] + report["in_database"] == count
    assert report["in_database"] == entries(database)
    return report


def test_old_days_leave_the_database_and_can_be_counted_again(
    database, store, archive, blobs, tmp_path
):
    """A part is of one day, holds every field as it was, and names its sums and digest."""
    count = fill(store)
    done = archiver(archive, blobs, tmp_path).run_once(NOW)
    parts = archive.parts()
    cut = NOW - KEEP_MS
    assert done == sum(part.records for part in parts) == count - entries(database)
    assert {part.span.day for part in parts} == {
        "2026-11-01",
        "2026-11-02",
        "2026-11-03",
        "2026-11-04",
    }
    assert all(part.records <= 5 and part.max_ts_ms < cut for part in parts)
    report = books_agree(database, archive, blobs, count)
    assert report["archived"] == done
    assert kept(tmp_path) == named(archive)
    assert not (tmp_path / "making").exists()
    summary = archive.summary()
    assert (summary["records"], summary["through"]) == (done, "2026-11-04")
    rows, sums = [], {}
    for part in parts:
        for name, digest in ((ROWS, part.blob), (SUMS, part.sums)):
            blobs.copy_to(TENANT, digest, tmp_path / name)
        mine = list(parquet.read_rows(tmp_path / ROWS))
        assert len(mine) == part.records
        rows += mine
        for key, quantity in parquet.read_sums(tmp_path / SUMS).items():
            sums[key] = sums.get(key, 0) + quantity
    odd = {row[3][4]: row for row in rows}["schlüssel"]
    assert odd[3][7] is None
    assert odd[3][10:] == ("error", "lease-1", True, False)
    assert {row[3][4] for row in rows if row[3][13]} == {"guessed"}
    assert sum(q for key, q in sums.items() if key[7] == "rows") == sum(
        row[4].get("rows", 0) for row in rows
    )
    assert max(sums.values()) == 2**53 - 1
    assert archiver(archive, blobs, tmp_path).run_once(NOW) == 0


def test_a_part_from_before_estimates_is_read_the_same(tmp_path):
    """Its rows were not estimated, and its digest holds."""
    rows = list(kept_rows())
    path, before, now = tmp_path / ROWS, Digest(), Digest()
    parquet.write_rows(path, rows)
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pq.read_table(path).drop_columns(["estimated"]), path)
    assert list(parquet.read_rows(path)) == rows
    for id_, seq, ts, shared, quantities in parquet.read_rows(path):
        now.add((id_, seq, ts, shared, quantities))
        before.add((id_, seq, ts, shared[:-1], quantities))  # the last was `final`
    assert now.hex() == before.hex()
    guessed = (*rows[0][:3], (*rows[0][3][:-1], True), rows[0][4])
    now.add(guessed)
    before.add(rows[0])
    assert now.hex() != before.hex()


def kept_rows():
    for n in range(3):
        r = record(DAY + n)
        shared = (
            r.tenant, r.source, r.owner, r.project, r.key, r.deployment, r.version, r.plan_version,
            r.tier, r.protocol, r.status, r.lease, r.final, r.estimated,
        )  # fmt: skip
        yield r.id, r.seq, r.ts, shared, r.quantities


def test_what_is_not_complete_or_not_old_stays(database, store, archive, blobs, tmp_path):
    """Of a segment in quarantine more may come under an id that was seen, also under one that is a
    little older than what is complete: a week is left of that, as of the clock."""
    count = fill(store)
    week = 7 * DAY_MS
    assert archiver(archive, blobs, tmp_path).run_once(0) == 0
    assert archiver(archive, blobs, tmp_path).run_once(DAY + week - 1) == 0
    assert archiver(archive, blobs, tmp_path).run_once(DAY + week + 1) == 2
    assert entries(database) == count - 2
    archiver(archive, blobs, tmp_path).run_once(DAY + week + DAY_MS)
    assert {part.span.day for part in archive.parts()} == {"2026-11-01"}
    books_agree(database, archive, blobs, count)


def test_what_comes_later_for_an_archived_day_is_another_part(
    database, store, archive, blobs, tmp_path
):
    """Its sums and those of the first add up to the rollup."""
    count = fill(store)
    archiver(archive, blobs, tmp_path, store=archive).run_once(NOW)
    before = len(archive.parts())
    ingest(store, record(DAY + 3 * HOUR + 1), record(DAY + DAY_MS))
    assert archiver(archive, blobs, tmp_path, store=archive).run_once(NOW) == 2
    days = [(part.span.day, part.span.part) for part in archive.parts()]
    assert len(days) == before + 2
    assert ("2026-11-01", 2) in days
    books_agree(database, archive, blobs, count + 2)


def test_records_that_change_while_they_are_written_stay(database, store, archive, blobs, tmp_path):
    """What came between the file and the deletion is in neither: the part is made anew."""
    count = fill(store)
    extra = [record(DAY + 2)]

    def make(span, folder):
        part = make_part(archive, span, folder)
        if extra:
            ingest(store, extra.pop())
        return part

    assert archiver(archive, blobs, tmp_path, make=make).run_once(NOW) == 0
    assert entries(database) == count + 1
    assert kept(tmp_path) == named(archive) == set()
    assert archiver(archive, blobs, tmp_path, make=make).run_once(NOW) > 0
    books_agree(database, archive, blobs, count + 1)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_dying_at_any_point_loses_and_doubles_nothing(database, store, archive, blobs, tmp_path):
    """At the first point, the second, … until a pass meets none: what is left is finished."""
    count = fill(store)
    died = 0
    while True:

        def die():
            raise Killed

        points = Points(died + 1, die)
        dying = archiver(
            archive, points.of(blobs), tmp_path, store=points.of(Small(archive)),
            make=points.around(lambda span, folder: make_part(archive, span, folder)),
        )  # fmt: skip
        try:
            dying.run_once(NOW)
        except Killed:
            died += 1
        else:
            break
        books_agree(database, archive, blobs, count)
        if died % 2:  # the next process puts in order what this one left, or dies on it too
            archiver(archive, blobs, tmp_path).run_once(0)
            assert kept(tmp_path) == named(archive)
            books_agree(database, archive, blobs, count)
    assert died >= 20
    assert kept(tmp_path) == named(archive)
    books_agree(database, archive, blobs, count)
    assert entries(database) < count


@pytest.mark.parametrize("point", [8, 10, 13])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_kill_9_in_the_middle(database, store, archive, blobs, tmp_path, point):
    """A real process that a real SIGKILL ends: nothing is lost, and no blob is nobody's."""
    count = fill(store)
    url = database.url.render_as_string(False)
    command = [sys.executable, str(SCRIPT), "archive", str(tmp_path), url, str(point), str(NOW)]
    environment = os.environ | {"PYTHONPATH": PATHS}
    killed = subprocess.run(command, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    books_agree(database, archive, blobs, count)
    archiver(archive, blobs, tmp_path).run_once(NOW)
    assert kept(tmp_path) == named(archive)
    assert not (tmp_path / "making").exists()
    books_agree(database, archive, blobs, count)


def test_a_difference_is_found(database, store, archive, blobs, tmp_path):
    """By the key of the rollup, with both numbers; in an archived day and in one that is not."""
    fill(store)
    archiver(archive, blobs, tmp_path).run_once(NOW)
    r = t.rollup.c
    with database.write() as connection:
        for bucket in (DAY + 3 * HOUR, DAY + 7 * DAY_MS + 3 * HOUR):
            connection.execute(
                sa.update(t.rollup)
                .where(r.bucket_ms == bucket, r.tenant_id == "acme", r.meter == "rows")
                .values(quantity=r.quantity + 1)
            )
    report = recount(archive, blobs, DAY, DAY + 8 * DAY_MS)
    assert report["n_differences"] == 2
    found = [(d["tenant"], d["meter"], d["rollup"], d["records"]) for d in report["differences"]]
    assert found == [("acme", "rows", 2, 1)] * 2
    assert report["daily_differences"] == 2
    # A part of a day says nothing of its sum.
    assert recount(archive, blobs, DAY, DAY + 6 * HOUR)["daily_differences"] == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_damaged_part_is_told(database, store, archive, blobs, tmp_path):
    """Its bytes are verified, and its records against the digest of what was archived."""
    fill(store)
    archiver(archive, blobs, tmp_path).run_once(NOW)
    part = archive.parts()[0]
    path = tmp_path / "usage" / TENANT / part.blob
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] + b"x" + whole[-8:])
    with pytest.raises(MeuseError, match="damaged"):
        recount(archive, blobs, DAY, DAY + DAY_MS)
    path.write_bytes(whole)
    with database.write() as connection:
        a = t.archive.c
        connection.execute(
            sa.update(t.archive)
            .where(a.day == part.span.day, a.part == part.span.part)
            .values(digest="0" * 64)
        )
    with pytest.raises(MeuseError, match="is not what was archived"):
        recount(archive, blobs, DAY, DAY + DAY_MS)


def test_a_process_of_its_own_writes_and_reads(tmp_path):
    """The ledger loads no Parquet: it asks, and reads one line of JSON."""
    settings = load(tmp_path / "home", {})
    settings.home.mkdir()
    database = Database(settings.database("money"))
    database.migrate("money")
    store = MoneyStore(database, lambda: NOW)
    store.listed = []
    count = fill(store)
    archive, outside = UsageArchive(database, lambda: NOW), Outside(settings)
    assert outside.is_there
    own = Archiver(
        archive, FolderBlobs(settings.archive), outside.make, settings.archive / ".making",
        lambda: NOW,
    )  # fmt: skip
    done = own.run_once(DAY + DAY_MS + KEEP_MS)
    assert done > 0
    report = outside.recount(DAY, DAY + 8 * DAY_MS)
    assert report["differences"] == []
    assert (report["archived"], report["in_database"]) == (done, count - done)
    part = archive.parts()[0]
    assert part_of(json.loads(json.dumps(to_json(part)))) == part
    (settings.archive / TENANT / part.blob).unlink()
    with pytest.raises(MeuseError, match="there is no blob"):
        outside.recount(DAY, DAY + DAY_MS)
    database.close()
