"""Books of every adapter, and a tenant's wallet in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from billing.ledger.memory import MemoryBooks
from meuse.billing.ledger.wallets import open_wallet
from meuse.core.ids import new_id


@contextmanager
def undone(database: Any) -> Iterator[Any]:
    """Books in a transaction that is rolled back at the end."""
    from meuse.store.ledger import SqlBooks

    with database.write() as connection:
        yield SqlBooks(connection, lambda: 1)
        connection.rollback()


@contextmanager
def migrated(url: str) -> Iterator[Any]:
    from meuse.store.database import Database

    database = Database(url, "normal")
    database.migrate("money")
    yield database
    database.close()


@pytest.fixture(scope="module")
def sqlite_money(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with migrated(f"sqlite:///{tmp_path_factory.mktemp('money') / 'test.db'}") as database:
        yield database


@pytest.fixture(scope="module")
def postgres_money(postgres_server: Callable[[], str]) -> Iterator[Any]:
    with migrated(postgres_server()) as database:
        yield database


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def books(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Empty ones of each adapter; what a test books is undone."""
    if request.param == "memory":
        yield MemoryBooks()
        return
    with undone(request.getfixturevalue(f"{request.param}_money")) as books:
        yield books


@pytest.fixture
def invoiced(books: Any) -> Callable[[int, int], None]:
    """Says that acme has an issued invoice of a period."""
    return lambda start_ms, end_ms: issue(books, start_ms, end_ms)


def issue(books: Any, start_ms: int, end_ms: int) -> None:
    """What the store of invoices does."""
    if isinstance(books, MemoryBooks):
        books.periods.setdefault("acme", []).append((start_ms, end_ms))
        return
    import sqlalchemy as sa

    from meuse.store.invoice_tables import invoices

    books._connection.execute(
        sa.insert(invoices).values(
            id=new_id("inv"), tenant_id="acme", project_id="default", number=new_id("n"),
            status="issued", period_start_ms=start_ms, period_end_ms=end_ms, currency="EUR",
            total="0", body="{}", created_ms=0, updated_ms=0,
        )
    )  # fmt: skip


@pytest.fixture
def wallet(books: Any) -> Any:
    return open_wallet(books, "acme", "EUR", 1)[0]


@pytest.fixture
def ledger(database: Any) -> Any:
    from meuse.store.ledger import LedgerStore

    return LedgerStore(database, lambda: 1)
