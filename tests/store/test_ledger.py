"""The ledger in money.db: what is in stays, each reference once, sums are those of the legs."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from meuse.core.errors import Code, MeuseError
from meuse.core.ledger import Entry, Grant, Leg, Wallet
from meuse.store import ledger_tables
from meuse.store.database import Database
from meuse.store.ledger import LedgerStore

PAID = Entry(
    "acme", "EUR", "payment", "payment/1", "inv-1", (Leg("cash", 5), Leg("receivable:inv-1", -5)), 7
)
WALLET = Wallet("wallet-1", "acme", "EUR", 3)
GRANT = Grant("grant-1", "wallet-1", "purchased", 5, 0, None, "pay-1", 4)


@pytest.fixture
def database(database_url):
    database = Database(database_url)
    database.migrate("money")
    yield database
    database.close()


@pytest.fixture
def ledger(database):
    return LedgerStore(database, lambda: 9)


def test_migrated_tables_are_the_ones_we_use(database):
    """Every table and column that the ledger names exists."""
    with database.read() as connection:
        context = MigrationContext.configure(connection)
        found = [
            d for d in compare_metadata(context, ledger_tables.metadata) if isinstance(d, tuple)
        ]
        wanted = ("add_table", "add_column", "remove_column")
        ours = set(ledger_tables.metadata.tables)
        assert [d for d in found if d[0] in wanted] == []
        assert ours <= set(sa.inspect(connection).get_table_names())


def test_an_entry_comes_back_as_it_was_posted(ledger):
    """With its legs in their order, detail and number; of its tenant, by reference and subject."""
    asked = replace(
        PAID, reference="payment/2", asked={"amount": 5}, detail={"by": "bank"},
        legs=(Leg("receivable:inv-1", -5), Leg("cash", 5)),
    )  # fmt: skip
    with ledger.books() as books:
        first, second = books.post(PAID), books.post(asked)
        assert (first.seq, second.seq, first.created_ms) == (1, 2, 9)
        assert books.posted("acme", "payment/1") == first
        assert books.about("acme", "inv-1") == [first, second]
        assert books.posted("acme", "payment/2").entry == asked
        assert books.posted("other", "payment/1") is None
        assert books.about("other", "inv-1") == []
        assert books.balances("acme", "EUR") == {"cash": 10, "receivable:inv-1": -10}
        assert books.balances("acme", "USD") == {}


def test_a_reference_is_booked_once(ledger):
    """The same again is the same entry; anything else under it is a conflict and books nothing."""
    with ledger.books() as books:
        first = books.post(PAID)
        assert books.post(replace(PAID, effective_ms=8)) == first
    other = (Leg("cash", 6), Leg("receivable:inv-1", -6))
    for wrong in (replace(PAID, legs=other), replace(PAID, kind="refund")):
        with pytest.raises(MeuseError) as caught, ledger.books() as books:
            books.post(wrong)
        assert (caught.value.code, caught.value.field) == (Code.CONFLICT, "reference")
    with ledger.books() as books:
        assert books.balances("acme", "EUR")["cash"] == 5
        books.post(replace(PAID, tenant="other"))  # another tenant's references are its own
    assert ledger.differences() == []


def test_a_repetition_may_have_come_to_other_legs(ledger):
    """What was asked for counts, not what it came to at the time."""
    first = replace(PAID, asked={"amount": 5})
    with ledger.books() as books:
        kept = books.post(first)
        again = books.post(replace(first, legs=(Leg("cash", 1), Leg("revenue", -1))))
        assert again == kept
        assert books.balances("acme", "EUR") == {"cash": 5, "receivable:inv-1": -5}


def test_a_failure_books_nothing(ledger):
    """What is raised in the block undoes all of it."""

    def fail():
        with ledger.books() as books:
            books.post(PAID)
            books.add_wallet(WALLET)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with ledger.books() as books:
        assert books.balances("acme", "EUR") == {}
        assert books.wallet("acme", "EUR") is None


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("ledger_entry", "kind"), ("ledger_leg", "amount"), ("ledger_account", "name"),
        ("wallet", "currency"), ("wallet_grant", "amount"),
    ],
)  # fmt: skip
def test_what_is_in_stays(ledger, database, table, column):
    """The database refuses every statement that changes, deletes or replaces a row."""
    with ledger.books() as books:
        books.post(PAID)
        books.add_wallet(WALLET)
        books.add_grant(GRANT)
    statements = [
        f"UPDATE {table} SET {column} = {column}",
        f"DELETE FROM {table}",
        f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}"
        if database.sqlite
        else f"TRUNCATE {table} CASCADE",
    ]
    for statement in statements:
        with pytest.raises(sa.exc.DatabaseError, match="immutable"), database.write() as connection:
            connection.exec_driver_sql(statement)


def test_wallets_and_grants_are_kept(ledger):
    """A wallet is found by tenant and currency or by id; grants are numbered in order."""
    with ledger.books() as books:
        books.add_wallet(WALLET)
        books.add_grant(GRANT)
        books.add_grant(replace(GRANT, id="grant-0", expires_ms=50, kind="granted"))
        assert books.wallet("acme", "EUR") == WALLET
        assert books.wallet("acme", "USD") is None
        assert books.wallet_by_id("wallet-1") == books.wallet_by_id("wallet-1", "acme") == WALLET
        first, second = books.grants("wallet-1")
        assert (first, second.id) == (replace(GRANT, number=1), "grant-0")
        assert (second.number, second.expires_ms) == (2, 50)
        for wallet_id, tenant in (("wallet-1", "other"), ("wallet-2", None)):
            with pytest.raises(MeuseError) as caught:
                books.wallet_by_id(wallet_id, tenant)
            assert (caught.value.code, caught.value.field) == (Code.NOT_FOUND, "wallet")
    assert ledger.list_wallets(None) == ledger.list_wallets("acme") == [WALLET]
    assert ledger.list_wallets("other") == []


def test_lapsed_wallets_have_something_left_of_what_expired(ledger):
    """Not before its time, and not when all of it is spent."""
    with ledger.books() as books:
        books.add_wallet(WALLET)
        books.add_grant(replace(GRANT, expires_ms=50))
        legs = (Leg("cash", 5), Leg("credit:grant-1", -5))
        books.post(replace(PAID, reference="a", legs=legs))
        assert books.lapsed(49) == []
        assert books.lapsed(50) == [WALLET]
        books.post(replace(PAID, reference="b", legs=(Leg("cash", -5), Leg("credit:grant-1", 5))))
        assert books.lapsed(50) == []


def test_entries_of_a_wallet_are_paged_from_the_newest(ledger):
    """Those alone that moved its credit; payments of invoices do not."""
    with ledger.books() as books:
        books.add_wallet(WALLET)
        for n in range(1, 4):
            legs = (Leg("cash", n), Leg("credit:grant-1", -n))
            books.post(replace(PAID, reference=f"w{n}", legs=legs))
            books.post(replace(PAID, reference=f"p{n}"))
            books.post(replace(PAID, reference=f"d{n}", legs=legs, currency="USD"))
    page = ledger.list_entries(WALLET, None, 2)
    assert [posted.entry.reference for posted in page] == ["w3", "w2"]
    assert [p.entry.reference for p in ledger.list_entries(WALLET, page[-1].seq, 2)] == ["w1"]


def test_a_glance_sees_one_moment(ledger):
    """What is booked meanwhile is for the next one, and nobody waits."""
    with ledger.glance() as before:
        assert before.balances("acme", "EUR") == {}
        with ledger.books() as books:
            books.post(PAID)
        assert before.posted("acme", "payment/1") is None
    with ledger.glance() as after:
        assert after.posted("acme", "payment/1") is not None


def test_differences_are_found(ledger, database):
    """An entry that does not add up, a sum that is not its legs', credit below zero."""
    with ledger.books() as books:
        books.post(PAID)
    assert ledger.differences() == []
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE ledger_sum SET amount = 6 WHERE amount = 5")
    (found,) = ledger.differences()
    assert found == {"what": "sum", "account": 1, "kind": "payment", "found": 6, "expected": 5}
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE ledger_sum SET amount = 5 WHERE amount = 6")
        connection.exec_driver_sql(
            "INSERT INTO ledger_account (account, currency, class, name, tenant_id) "
            "VALUES (3, 'EUR', 'credit', 'credit:grant-1', 'acme')"
        )
        connection.exec_driver_sql(
            "INSERT INTO ledger_leg (entry, account, line, amount) "
            "SELECT id, 3, 2, 2 FROM ledger_entry"
        )
    what = [found["what"] for found in ledger.differences()]
    assert what == ["entry", "sum", "overdrawn"]


def test_two_writers_with_one_reference_book_one_entry(ledger):
    """Whoever comes second finds what the first one booked."""
    barrier = threading.Barrier(4)
    found = []

    def work():
        barrier.wait(10)
        with ledger.books() as books:
            found.append(books.post(PAID))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == 4
    assert len({posted.id for posted in found}) == 1
    assert ledger.differences() == []


@pytest.mark.parametrize(
    "legs",
    [
        (Leg("cash", 1),),
        (),
        (Leg("cash", 1), Leg("revenue", -2)),
        (Leg("cash", 1), Leg("cash", -1)),
        (Leg("cash", 0), Leg("revenue", 0)),
    ],
)
def test_what_is_no_transfer_is_no_entry(legs):
    """Two legs or more, on accounts of their own, none of nothing, that add up to zero."""
    with pytest.raises(ValueError, match="payment/1"):
        replace(PAID, legs=legs)
