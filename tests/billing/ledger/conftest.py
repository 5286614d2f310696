"""A ledger on a real database, and a tenant's wallet in it."""

from __future__ import annotations

import pytest

from meuse.billing.ledger.wallets import open_wallet
from meuse.store.ledger import LedgerStore


@pytest.fixture
def ledger(database):
    return LedgerStore(database, lambda: 1)


@pytest.fixture
def books(ledger):
    """One transaction for the whole test."""
    with ledger.books() as books:
        yield books


@pytest.fixture
def wallet(books):
    return open_wallet(books, "acme", "EUR", 1)[0]
