"""money.db on SQLite and Postgres: exactly once, sums that agree, invoices that stay."""

from __future__ import annotations

import json
import random
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config as AlembicConfig
from alembic.migration import MigrationContext

from billing.make_usage import DAY, HOUR, usage_record
from meuse.core.clock import BUCKET_MS
from meuse.core.errors import Code, MeuseError
from meuse.meter.record import encode
from meuse.store import invoice_tables, money_tables
from meuse.store.database import MIGRATIONS, Database
from meuse.store.money import MoneyStore


@dataclass
class Draft:
    currency: str = "EUR"
    total: str = "1.00"
    body: dict[str, Any] = field(default_factory=lambda: {"lines": []})
    final: bool = False
    alarms: tuple[Any, ...] = ()
    series: str = "INV-2026"
    due_on: str | None = None
    book: Any = None


@dataclass
class Unrated:
    kind: str = "unrated_usage"
    tenant: str = "acme"
    detail: dict[str, Any] = field(default_factory=dict)
    dedup: str = "unrated:acme"


@pytest.fixture
def database(database_url):
    database = Database(database_url)
    database.migrate("money")
    yield database
    database.close()


@pytest.fixture
def store(database):
    return MoneyStore(database)


def batch(*records):
    return [(record, encode(record)) for record in records]


def ingest(store, *records, segment="h-0-1-0", state="open"):
    offset = store.cursor(segment).offset
    return store.ingest(
        segment, batch(*records), offset=offset, next_offset=offset + len(records), state=state
    )


def quantities(store, **where):
    rows = store.usage(DAY, DAY + 24 * HOUR, ["meter"], **where)
    return {row["meter"]: row["quantity"] for row in rows}


def test_migrated_tables_are_the_ones_we_use(database):
    """Every table and column that the store names exists, and migrating again changes nothing."""
    database.migrate("money")
    with database.read() as connection:
        context = MigrationContext.configure(connection)
        found = [
            d for d in compare_metadata(context, money_tables.metadata) if isinstance(d, tuple)
        ]
        kinds = [d for d in found if d[0] in ("add_table", "add_column", "remove_column")]
        assert kinds == []
        tables = set(sa.inspect(connection).get_table_names())
    assert set(money_tables.metadata.tables) <= tables


def test_records_of_an_older_platform_are_kept_and_known(database_url):
    """Records that were rows of their own read the same, and are still taken only once."""
    database = Database(database_url)
    migrate_to(database, "0001")
    records = [
        usage_record(),
        usage_record(plan_version=None),
        usage_record(plan_version=None, status="error", final=False, seq=3),
        usage_record(tenant="other", lease="lease-1"),
    ]
    names = (
        "id", "tenant_id", "source", "seq", "final", "owner_id", "project_id", "key_id",
        "deployment", "version", "plan_version", "tier", "protocol", "status", "ts_ms", "lease",
    )  # fmt: skip
    kept = [
        dict(
            zip(
                names,
                (r.id, r.tenant, r.source, r.seq, r.final, r.owner, r.project, r.key,
                 r.deployment, r.version, r.plan_version, r.tier, r.protocol, r.status, r.ts,
                 r.lease),
                strict=True,
            ),
            quantities=json.dumps(r.quantities, separators=(",", ":")),
        )
        for r in records
    ]  # fmt: skip
    old = sa.table("usage_record", *(sa.column(name) for name in (*kept[0], "digest")))
    with database.write() as connection:
        connection.execute(sa.insert(old), [row | {"digest": bytes(16)} for row in kept])
    database.migrate("money")
    with database.read() as connection:
        query = sa.select(money_tables.records).order_by(money_tables.records.c.id)
        assert [dict(row) for row in connection.execute(query).mappings()] == sorted(
            (row | {"estimated": False} for row in kept), key=lambda row: row["id"]
        )
    store = MoneyStore(database)
    done = ingest(store, *records, usage_record(), usage_record(tenant="third"))
    assert (done.new, done.duplicates, done.conflicts) == (2, 4, 0)
    assert ingest(store, usage_record(id=records[0].id, lease="lease-2")).conflicts == 1
    database.close()


def test_estimates_are_kept_as_such(store, database):
    """Of a long answer what its last record says, whatever those before it did."""
    guessed, told = usage_record(estimated=True), usage_record()
    steps = [
        usage_record(seq=0, final=False, estimated=True, quantities={"completion_tokens": 64}),
    ]
    steps.append(
        usage_record(id=steps[0].id, seq=1, quantities={"completion_tokens": 70}, estimated=False)
    )
    assert ingest(store, guessed, told, *steps).new == 4
    r = money_tables.records.c
    with database.read() as connection:
        found = dict(connection.execute(sa.select(r.id, r.estimated)).all())
    assert found == {guessed.id: True, told.id: False, steps[0].id: False}
    other = usage_record(id=guessed.id)
    assert ingest(store, other).conflicts == 1


def migrate_to(database, revision):
    config = AlembicConfig()
    config.set_main_option("script_location", str(MIGRATIONS / "money"))
    config.attributes["version_table"] = "alembic_money"
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def test_what_records_share_is_kept_once_and_survives_a_failed_batch(store, database):
    """Numbers of a batch that was rolled back are not used for a later one."""
    bad = (usage_record(seq=None), b"payload")
    with pytest.raises(sa.exc.IntegrityError):
        store.ingest(
            "h-0-1-0", [*batch(usage_record(key="lost")), bad], offset=0, next_offset=9,
            state="open",
        )  # fmt: skip
    ingest(store, usage_record(key="other"), usage_record(key="lost"), usage_record(key="other"))
    ingest(MoneyStore(database), usage_record(key="lost"), segment="h-0-2-0")
    with database.read() as connection:
        found = connection.execute(
            sa.select(money_tables.records.c.key_id, sa.func.count()).group_by(
                money_tables.records.c.key_id
            )
        ).all()
        assert sorted(tuple(row) for row in found) == [("lost", 2), ("other", 2)]
        shared = connection.execute(sa.select(money_tables.contexts)).all()
        assert len(shared) == 2
        assert len({row.payer for row in shared}) == 1


def test_records_rollup_and_cursor_move_together(store, database):
    """A batch is kept, added up by bucket and counted in the cursor."""
    done = ingest(
        store,
        usage_record(),
        usage_record(ts=DAY + BUCKET_MS - 1, quantities={"rows": 2}),
        usage_record(ts=DAY + BUCKET_MS, quantities={"rows": 4}, plan_version=None),
    )
    assert (done.new, done.duplicates, done.conflicts, done.late) == (3, 0, 0, 0)
    cursor = store.cursor("h-0-1-0")
    assert (cursor.offset, cursor.state, cursor.last_ts_ms) == (3, "open", DAY + BUCKET_MS)
    assert quantities(store) == {"requests": 1, "rows": 14}
    rows = store.rollup_rows("acme", DAY, DAY + BUCKET_MS)
    assert [(r.meter, r.plan_version, r.quantity) for r in rows] == [
        ("requests", "basic:1", 1), ("rows", "basic:1", 10),
    ]  # fmt: skip
    assert store.rollup_rows("acme", DAY + BUCKET_MS, DAY + HOUR)[0].plan_version is None
    with database.read() as connection:
        row = connection.execute(sa.select(money_tables.records)).mappings().first()
    assert json.loads(row["quantities"])["rows"] in (2, 4, 8)
    assert (row["final"], row["tenant_id"], row["key_id"]) == (True, "acme", "key-1")


def test_usage_of_an_older_platform_has_sums_by_day(database_url):
    """They are made of the rollup that is there, with the first bucket of each day."""
    database = Database(database_url)
    migrate_to(database, "0002")
    rollup = money_tables.rollup
    with database.write() as connection:
        for bucket, plan, n in ((5, "basic:1", 3), (2, "basic:1", 4), (97, "", 5)):
            values = ("acme", DAY + bucket * BUCKET_MS, "acme", "default", f"k{n}", "acme/m", "m:1",
                      "rows", "standard", plan, n)  # fmt: skip
            connection.execute(sa.insert(rollup).values(values))
    database.migrate("money")
    store = MoneyStore(database)
    rows = store.usage(DAY, DAY + 48 * HOUR, ["day"])
    assert [(row["day"], row["quantity"]) for row in rows] == [("2026-11-01", 7), ("2026-11-02", 5)]
    found = store.rollup_rows("acme", DAY, DAY + 48 * HOUR)
    assert [(r.plan_version, r.quantity, r.first_ms) for r in found] == [
        (None, 5, DAY + 97 * BUCKET_MS), ("basic:1", 7, DAY + 2 * BUCKET_MS),
    ]  # fmt: skip
    database.close()


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 3 * 96), (1, 96), (1, 95), (5, 200), (96, 200), (95, 97), (0, 95), (40, 288)],
)
def test_sums_by_day_are_those_of_the_rollup(store, start, end):
    """Whole days come from a table of their own: with parts of days around them, by any grouping
    and for whomever, the sums are what finer rows add up to."""
    at = [DAY + quarter * BUCKET_MS for quarter in range(0, 288, 7)]
    ingest(store, *(
        usage_record(ts=ts, key=f"key-{n % 3}", deployment=f"acme/m{n % 2}", tenant=tenant,
                     project="lab" if n % 5 else "default", quantities={"rows": n, "requests": 1})
        for n, ts in enumerate(at)
        for tenant in ("acme", "blue")
    ))  # fmt: skip
    bounds = (DAY + start * BUCKET_MS, DAY + end * BUCKET_MS)
    for names in (["day", "model", "meter"], ["tenant", "tier"], ["owner", "project"], ["meter"]):
        for where in ({}, {"tenant": "acme"}, {"tenant": "blue", "project": "lab"},
                      {"owner": "acme"}):  # fmt: skip
            sums: dict[tuple[Any, ...], int] = {}
            for row in store.usage(*bounds, [*names, "key"], **where):
                key = tuple(row[name] for name in dict.fromkeys((*names, "meter")))
                sums[key] = sums.get(key, 0) + row["quantity"]
            found = store.usage(*bounds, names, **where)
            assert {tuple(row.values())[:-1]: row["quantity"] for row in found} == sums
            assert list(sums) == sorted(sums) or names != ["meter"]


def test_the_same_record_counts_once(store):
    """A record that comes again, in the batch or later, in any segment, is passed over."""
    records = [usage_record() for _ in range(20)]
    assert ingest(store, *records, records[3], records[3]).duplicates == 2
    again = ingest(store, *records, usage_record(), segment="h-1-1-0")
    assert (again.new, again.duplicates) == (1, 20)
    assert quantities(store) == {"requests": 21, "rows": 168}
    assert store.alarms() == []


def test_many_records_that_come_again_count_once(store):
    """As many as Postgres is sent by its own way of copying."""
    records = [usage_record() for _ in range(700)]
    assert ingest(store, *records).new == 700
    again = ingest(store, *records, usage_record(), segment="h-1-1-0")
    assert (again.new, again.duplicates) == (1, 700)
    assert quantities(store) == {"requests": 701, "rows": 8 * 701}


def test_the_same_id_with_other_bytes_is_an_alarm(store, caplog):
    """A conflicting record is never counted; its alarm is kept and logged once per content."""
    record = usage_record()
    other = usage_record(id=record.id, quantities={"rows": 999})
    assert ingest(store, record, other).conflicts == 1
    assert ingest(store, other).conflicts == 1
    assert quantities(store) == {"requests": 1, "rows": 8}
    (alarm,) = store.alarms()
    assert alarm["kind"] == "usage_conflict"
    assert alarm["tenant"] == "acme"
    assert alarm["detail"]["id"] == record.id.hex()
    (line,) = [entry for entry in caplog.records if entry.name.startswith("meuse.store")]
    assert line.levelname == "ERROR"
    assert line.getMessage().startswith("alarm usage_conflict of tenant acme: {")
    assert record.id.hex() in line.getMessage()
    # Another tenant's or source's record may have the same id.
    assert ingest(store, usage_record(id=record.id, tenant="other")).new == 1
    assert ingest(store, usage_record(id=record.id, source="import")).new == 1


def test_a_line_of_a_batch_that_is_answered_again_is_billed_once(store):
    """The first answer counts and nothing is an alarm; other sources of that tier conflict."""
    first = usage_record(tier="batch", quantities={"completion_tokens": 7})
    again = usage_record(id=first.id, tier="batch", quantities={"completion_tokens": 9})
    assert ingest(store, first, again).duplicates == 1
    assert ingest(store, again).duplicates == 1
    assert quantities(store) == {"completion_tokens": 7}
    assert store.alarms() == []
    job = usage_record(source="job", tier="batch", quantities={"rows": 7})
    assert ingest(store, job, usage_record(id=job.id, source="job", tier="batch")).conflicts == 1


def steps_of(*counts, **fields):
    """Records of one request that has so many tokens, and then so many; the last is final."""
    first = usage_record(**fields)
    return [
        usage_record(
            id=first.id, seq=seq, final=seq == len(counts) - 1, ts=DAY + seq + 1,
            quantities={"requests": 1, "completion_tokens": n}, **fields,
        )
        for seq, n in enumerate(counts)
    ]  # fmt: skip


@pytest.mark.parametrize("at_once", [1, 2, 9])
def test_what_a_request_came_to_so_far_adds_the_difference(store, database, at_once):
    """However they are batched, rising records count as the last of them, and one is kept."""
    steps = steps_of(64, 128, 128, 150)
    other = usage_record()
    stream = [*steps[:2], other, *steps[2:]]
    for at in range(0, len(stream), at_once):
        ingest(store, *stream[at : at + at_once])
    assert quantities(store) == {"requests": 2, "rows": 8, "completion_tokens": 150}
    with database.read() as connection:
        rows = connection.execute(sa.select(money_tables.records)).mappings().all()
    (kept,) = [row for row in rows if row["id"] == steps[0].id]
    assert (kept["seq"], kept["final"]) == (3, True)
    assert json.loads(kept["quantities"]) == {"requests": 1, "completion_tokens": 150}
    again = ingest(store, *stream)
    assert (again.new, again.duplicates, again.conflicts) == (0, 5, 0)
    assert store.alarms() == []


def test_the_difference_counts_when_it_was_made(store):
    """A request over a bucket's border counts in each what was produced in it."""
    first, last = steps_of(10, 30)
    ingest(store, first)
    late = usage_record(
        id=first.id, seq=1, ts=DAY + BUCKET_MS, quantities=last.quantities, status="error"
    )
    assert ingest(store, late).new == 1
    before = store.rollup_rows("acme", DAY, DAY + BUCKET_MS)
    assert {r.meter: r.quantity for r in before} == {"requests": 1, "completion_tokens": 10}
    after = {r.meter: r.quantity for r in store.rollup_rows("acme", DAY + BUCKET_MS, DAY + HOUR)}
    assert after == {"completion_tokens": 20}


def test_records_that_contradict_what_a_request_came_to_are_alarms(store):
    """The same number with other bytes, less than before, and anything after the last one."""
    first, second, last = steps_of(10, 20, 30)
    ingest(store, first, second)
    for wrong in (
        usage_record(id=first.id, seq=1, final=False, quantities={"completion_tokens": 21}),
        usage_record(id=first.id, seq=2, final=False, quantities={"completion_tokens": 19}),
        usage_record(id=first.id, seq=2, final=False, quantities={"requests": 1}),
    ):
        assert ingest(store, wrong).conflicts == 1
    assert ingest(store, last).new == 1
    beyond = usage_record(id=first.id, seq=3, final=False, quantities={"completion_tokens": 99})
    assert ingest(store, beyond).conflicts == 1
    assert quantities(store) == {"requests": 1, "completion_tokens": 30}
    assert len(store.alarms()) == 4


def test_a_batch_is_all_or_nothing(store):
    """A batch at another offset, of a closed segment or with a row that fails changes nothing."""
    ingest(store, usage_record(), state="closed")
    for offset in (0, 1):
        with pytest.raises(MeuseError) as caught:
            store.ingest(
                "h-0-1-0", batch(usage_record()), offset=offset, next_offset=2, state="open"
            )
        assert caught.value.code is Code.CONFLICT
    bad = (usage_record(tenant=None), b"payload")
    with pytest.raises(sa.exc.IntegrityError):
        store.ingest(
            "h-0-2-0", [*batch(usage_record()), bad], offset=0, next_offset=9, state="open"
        )
    assert store.cursor("h-0-2-0").offset == 0
    assert quantities(store) == {"requests": 1, "rows": 8}


def test_two_ingesters_count_once(database_url, store):
    """Batches that arrive from several threads and connections at once count each id once."""
    records = [usage_record() for _ in range(300)]
    others = [Database(database_url) for _ in range(3)]
    errors: list[BaseException] = []

    def run(number: int, database: Database) -> None:
        mine = records[:]
        random.Random(number).shuffle(mine)
        try:
            for at in range(0, 300, 50):
                ingest(MoneyStore(database), *mine[at : at + 50], segment=f"h-{number}-1-0")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(others)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for database in others:
        database.close()
    assert errors == []
    assert quantities(store) == {"requests": 300, "rows": 2400}


def test_usage_is_grouped_and_filtered(store):
    """Every grouping works, the meter is always told apart, tenants see their own."""
    ingest(
        store,
        usage_record(key="k1"),
        usage_record(key="k2", ts=DAY + 24 * HOUR, tier="batch"),
        usage_record(tenant="guest", project="lab", version="digits:2"),
    )
    rows = store.usage(DAY, DAY + 48 * HOUR, ["day", "model", "meter"], tenant="acme")
    assert rows[0] == {
        "day": "2026-11-01", "model": "acme/digits", "meter": "requests", "quantity": 1,
    }  # fmt: skip
    assert [(row["day"], row["meter"], row["quantity"]) for row in rows] == [
        ("2026-11-01", "requests", 1), ("2026-11-01", "rows", 8),
        ("2026-11-02", "requests", 1), ("2026-11-02", "rows", 8),
    ]  # fmt: skip
    assert quantities(store, tenant="guest") == {"requests": 1, "rows": 8}
    assert quantities(store, owner="acme") == {"requests": 2, "rows": 16}
    assert quantities(store, project="lab") == {"requests": 1, "rows": 8}
    everything = ["day", "model", "meter", "version", "key", "project", "tenant", "owner",
                  "deployment", "tier"]  # fmt: skip
    full = store.usage(DAY, DAY + 48 * HOUR, everything)
    assert len(full) == 6
    assert set(full[0]) == {*everything, "quantity"}
    assert store.usage(DAY, DAY + HOUR, ["key"], tenant="acme") == [
        {"key": "k1", "meter": "requests", "quantity": 1},
        {"key": "k1", "meter": "rows", "quantity": 8},
    ]
    for by, start in ((["colour"], DAY), (["day"], DAY + 1)):
        with pytest.raises(MeuseError) as caught:
            store.usage(start, DAY + HOUR, by)
        assert caught.value.code is Code.INVALID_FIELD
        assert caught.value.hint


def test_quantities_beyond_32_bits_stay_exact(store):
    """Sums of large quantities are exact integers on both databases."""
    large = 2**53 - 1
    ingest(store, *(usage_record(quantities={"egress_bytes": large}) for _ in range(500)))
    assert quantities(store) == {"egress_bytes": 500 * large}


def test_invoices_get_gapless_numbers_and_drafts_keep_their_id(store):
    """A draft keeps its id when made again; numbers go to issued invoices only, one by one."""
    draft, new = store.put_invoice("acme", DAY, DAY + HOUR, lambda rows: Draft())
    assert (new, draft.status, draft.number) == (True, "draft", None)
    again, new = store.put_invoice("acme", DAY, DAY + HOUR, lambda rows: Draft(total="2.00"))
    assert (again.id, again.total, new) == (draft.id, "2.00", False)
    issued, new = store.put_invoice("acme", DAY, DAY + HOUR, lambda rows: Draft(final=True))
    assert (issued.id, issued.number, new) == (draft.id, "INV-2026-000001", False)

    def fails(rows):
        raise MeuseError(Code.CONFLICT, "no")

    with pytest.raises(MeuseError, match="no"):
        store.put_invoice("other", DAY, DAY + HOUR, fails)
    second, new = store.put_invoice("other", DAY, DAY + HOUR, lambda rows: Draft(final=True))
    assert (second.number, new) == ("INV-2026-000002", True)
    assert json.loads(second.body)["number"] == "INV-2026-000002"
    assert [i.id for i in store.list_invoices("acme")] == [issued.id]
    assert len(store.list_invoices(None)) == 2
    with pytest.raises(MeuseError):
        store.get_invoice("other", issued.id)
    assert store.get_invoice(None, issued.id) == store.get_invoice("acme", issued.id) == issued


def test_the_newest_alarms_are_told_first(store):
    """With how many there are in all."""
    assert store.newest_alarms(2) == (0, [])
    for segment in ("h-0-1-0", "h-0-1-1", "h-0-1-2"):
        record = usage_record()
        ingest(store, record, usage_record(id=record.id, quantities={}), segment=segment)
    count, newest = store.newest_alarms(2)
    assert count == 3
    assert newest == sorted(store.alarms(), key=lambda a: (a["ts_ms"], a["id"]))[:0:-1]


def test_a_preview_leaves_nothing(store, caplog):
    """Neither an invoice nor a number nor an alarm; an issued period gives its invoice."""
    alarm = Unrated()
    preview, new = store.put_invoice(
        "acme", DAY, DAY + HOUR, lambda rows: Draft(final=True, alarms=(alarm,)), keep=False
    )
    assert (preview.id, preview.number, preview.status, new) == (None, None, "draft", False)
    assert json.loads(preview.body) | {"created": ""} == {
        "id": None, "number": None, "status": "draft", "lines": [], "created": "",
    }  # fmt: skip
    assert (store.list_invoices(None), store.alarms(), caplog.records) == ([], [], [])
    issued, _ = store.put_invoice(
        "acme", DAY, DAY + HOUR, lambda rows: Draft(final=True, alarms=(alarm,))
    )
    assert issued.number == "INV-2026-000001"
    assert "alarm unrated_usage of tenant acme" in caplog.text
    same, _ = store.put_invoice("acme", DAY, DAY + HOUR, lambda rows: Draft(), keep=False)
    assert same == issued
    with pytest.raises(MeuseError, match="INV-2026-000001"):
        store.put_invoice("acme", DAY, DAY + 2 * HOUR, lambda rows: Draft(), keep=False)


def test_an_issued_invoice_cannot_be_changed(store, database):
    """Asked for again it is the same; the database refuses every UPDATE and DELETE of it."""
    issued, _ = store.put_invoice("acme", DAY, DAY + HOUR, lambda rows: Draft(final=True))
    same, _ = store.put_invoice("acme", DAY, DAY + HOUR, lambda rows: Draft(total="9.00"))
    assert same == issued
    table = invoice_tables.invoices
    for statement in (sa.update(table).values(total="0.00"), sa.delete(table)):
        refused = pytest.raises(sa.exc.DBAPIError, match="issued invoice is immutable")
        with refused, database.write() as connection:
            connection.execute(statement)
    assert store.get_invoice("acme", issued.id) == issued


def test_no_usage_is_invoiced_twice(store):
    """A period that overlaps an issued invoice is refused; one beside it is not."""
    store.put_invoice("acme", DAY, DAY + 2 * HOUR, lambda rows: Draft(final=True))
    with pytest.raises(MeuseError) as caught:
        store.put_invoice("acme", DAY + HOUR, DAY + 3 * HOUR, lambda rows: Draft())
    assert caught.value.code is Code.CONFLICT
    assert "INV-2026-000001" in caught.value.message
    store.put_invoice("acme", DAY + 2 * HOUR, DAY + 3 * HOUR, lambda rows: Draft(final=True))
    store.put_invoice("guest", DAY + HOUR, DAY + 3 * HOUR, lambda rows: Draft())


def test_usage_after_its_invoice_raises_an_alarm(store):
    """A record that arrives for an invoiced period is counted and told of."""
    issued, _ = store.put_invoice("acme", DAY, DAY + HOUR, lambda rows: Draft(final=True))
    done = ingest(store, usage_record(), usage_record(), usage_record(tenant="guest"),
                  usage_record(ts=DAY + HOUR))  # fmt: skip
    assert (done.new, done.late) == (4, 2)
    (alarm,) = store.alarms()
    assert (alarm["kind"], alarm["tenant"]) == ("late_usage", "acme")
    assert (alarm["detail"]["invoice"], alarm["detail"]["n"]) == (issued.id, 2)
