"""A ledger on a real database and a real journal folder."""

from __future__ import annotations

import pytest

from meuse.billing.ingest import Ingester
from meuse.meter.segments import JournalReader
from meuse.store.database import Database
from meuse.store.money import MoneyStore


@pytest.fixture
def database(database_url):
    database = Database(database_url)
    database.migrate("money")
    yield database
    database.close()


@pytest.fixture
def store(database):
    return MoneyStore(database)


@pytest.fixture
def journal(tmp_path):
    """The journal folder."""
    folder = tmp_path / "journal"
    folder.mkdir()
    return folder


@pytest.fixture
def ingester(store, journal):
    return Ingester(store, JournalReader(journal))
