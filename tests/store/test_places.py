"""Usage that counts in another bucket than its own, and the rollup that follows from records."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.make_usage import DAY, HOUR, usage_record
from meuse.core.clock import BUCKET_MS, month_end
from meuse.store.database import Database
from meuse.store.money import MoneyStore
from meuse.store.money_archive import UsageArchive
from store.test_money import Draft, batch

END = DAY + 30 * 24 * HOUR
HERE = END + 3 * HOUR
NOW = HERE + 7
_numbers = itertools.count()


@pytest.fixture
def database(database_url):
    database = Database(database_url)
    database.migrate("money")
    yield database
    database.close()


@pytest.fixture
def store(database):
    return MoneyStore(database, lambda: NOW, ahead_ms=5 * 60_000)


def ingest(store, *records):
    segment = f"h-0-1-{next(_numbers)}"
    return store.ingest(segment, batch(*records), offset=0, next_offset=9, state="closed")


def issue(store, start, end, tenant="acme"):
    return store.put_invoice(tenant, start, end, lambda rows: Draft(final=True))[0]


def counted(store, start, end, tenant="acme"):
    rows = store.usage(start, end, ["meter"], tenant=tenant)
    return {row["meter"]: row["quantity"] for row in rows if row["quantity"]}


def differences(database, start=DAY - 384 * HOUR, end=END + 384 * HOUR):
    found = UsageArchive(database).recount(start, end, lambda part: ())
    assert found.daily == 0
    return found.differences


def test_the_end_of_a_month():
    """Also of December, and of February in a leap year."""
    assert month_end(DAY) == month_end(END - 1) == END
    assert month_end(1_798_761_599_999) == 1_798_761_600_000  # 2026-12-31T23:59:59.999Z
    assert month_end(1_709_164_800_000) == 1_709_251_200_000  # 2024-02-29


def test_what_is_late_for_a_whole_month_counts_now(store, database):
    """Where the month's last part is invoiced no invoice is left for it; its own time is kept."""
    issue(store, DAY, END)
    done = ingest(store, usage_record(ts=DAY + HOUR + 1), usage_record(ts=END),
                  usage_record(tenant="guest"))  # fmt: skip
    assert (done.new, done.late) == (3, 1)
    assert counted(store, DAY, END) == {}
    assert counted(store, HERE, HERE + BUCKET_MS) == {"requests": 1, "rows": 8}
    assert counted(store, END, END + BUCKET_MS) == {"requests": 1, "rows": 8}
    assert counted(store, DAY, END, "guest") == {"requests": 1, "rows": 8}
    assert store.late_usage("guest", DAY, HERE + HOUR) == []
    rows = store.late_usage("acme", HERE, HERE + BUCKET_MS)
    assert [(row["meter"], row["quantity"], row["from"]) for row in rows] == [
        ("requests", 1, "2026-11-01T01:00:00.000Z"), ("rows", 8, "2026-11-01T01:00:00.000Z"),
    ]  # fmt: skip
    assert store.late_usage(None, HERE, HERE + BUCKET_MS) == rows
    assert differences(database) == ()


def test_what_is_late_for_a_part_stays_where_a_later_part_bills_it(store, database):
    """The month's later part says the month less what was invoiced (decision 0036)."""
    issue(store, DAY, DAY + HOUR)
    done = ingest(store, usage_record())
    assert done.late == 1
    assert counted(store, DAY, DAY + HOUR) == {"requests": 1, "rows": 8}
    issue(store, DAY + HOUR, END)
    assert ingest(store, usage_record(), usage_record(ts=DAY + 2 * HOUR)).late == 2
    assert counted(store, DAY, END) == {"requests": 1, "rows": 8}
    assert counted(store, END, HERE + HOUR) == {"requests": 2, "rows": 16}
    assert {alarm["kind"] for alarm in store.alarms()} == {"late_usage"}
    assert [("billed_in" in alarm["detail"]) for alarm in store.alarms()] == [False, True, True]
    assert differences(database) == ()


def test_records_of_the_future_count_now(store, database):
    """A clock that is wrong by years must not put usage where nobody bills it for years."""
    year = 365 * 24 * HOUR
    done = ingest(store, usage_record(ts=NOW + year), usage_record(ts=NOW + 4 * 60_000))
    assert done.new == 2
    assert counted(store, HERE, HERE + HOUR) == {"requests": 2, "rows": 16}
    (alarm,) = store.alarms()
    assert alarm["kind"] == "usage_from_the_future"
    assert (alarm["detail"]["n"], alarm["detail"]["ahead_s"]) == (1, year // 1000)
    assert store.late_usage("acme", 0, HERE + 2 * year) == []
    assert differences(database, end=HERE + 2 * year) == ()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One SQLite database for all examples; each has a tenant of its own."""
    url = f"sqlite:///{tmp_path_factory.mktemp('money') / 'money.db'}"
    database = Database(url, durability="normal")
    database.migrate("money")
    yield database
    database.close()


PARTS = [(DAY, DAY + 27 * HOUR), (DAY + 27 * HOUR, END)]
STEP = st.tuples(
    st.integers(0, 2),  # which request
    st.integers(-2, 5),  # quarters of an hour from the one before
    st.integers(0, 30),  # tokens
    st.booleans(),  # whether a batch ends here
    st.sampled_from([None, None, None, "month", "part"]),  # an invoice that is issued before
)


@settings(max_examples=25, deadline=None)
@given(st.lists(STEP, min_size=1, max_size=12))
def test_the_rollup_follows_from_what_is_kept(shared, steps):
    """However answers stretch over buckets, batches and invoices, records counted again are the
    rollup, and all of it is what the last records say."""
    store = MoneyStore(shared, lambda: NOW, ahead_ms=5 * 60_000)
    tenant = f"t{next(_numbers)}"
    firsts = [usage_record(tenant=tenant) for _ in range(3)]
    at, seq, tokens = [DAY + 26 * HOUR] * 3, [0] * 3, [0] * 3
    waiting, whole = [], False
    for which, quarters, more, ends, invoiced in steps:
        had = len(store.list_invoices(tenant))
        if invoiced == "month" and not had:
            issue(store, DAY, END, tenant)
            whole = True
        elif invoiced == "part" and had < 2 and not whole:
            issue(store, *PARTS[had], tenant)
        at[which] += quarters * BUCKET_MS
        tokens[which] += more
        waiting.append(
            usage_record(
                tenant=tenant, id=firsts[which].id, seq=seq[which], final=False, ts=at[which],
                quantities={"requests": 1, "completion_tokens": tokens[which]},
            )
        )  # fmt: skip
        seq[which] += 1
        if ends:
            ingest(store, *waiting)
            waiting = []
    ingest(store, *waiting)
    sums = counted(store, DAY - 400 * HOUR, HERE + 400 * HOUR, tenant)
    assert sums.get("completion_tokens", 0) == sum(tokens)
    assert sums["requests"] == sum(n > 0 for n in seq)
    assert differences(shared) == ()
