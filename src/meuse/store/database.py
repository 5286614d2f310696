"""One database: how to read, how to write, how to migrate, on SQLite and Postgres.

Writers take turns: on SQLite every process has one writer connection per file, its
transactions begin IMMEDIATE and are short. Readers have their own connections and, in WAL
mode, never wait. No transaction spans two databases.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from alembic import command
from alembic.config import Config as AlembicConfig

MIGRATIONS = Path(__file__).parent / "migrations"


class Database:
    """A database by URL (`sqlite:///…` or `postgresql://…`).

    `durability` "full" fsyncs each commit (keys, deployments, money).
    """

    def __init__(self, url: str, durability: Literal["full", "normal"] = "full") -> None:
        parsed = sa.make_url(url)
        self.sqlite = parsed.get_backend_name() == "sqlite"
        if not self.sqlite:
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.url = parsed
        self._lock = threading.Lock()
        if self.sqlite:
            self._reader = sa.create_engine(parsed, pool_size=8, max_overflow=8)
            self._writer = sa.create_engine(parsed, pool_size=1, max_overflow=0)
            for engine in (self._reader, self._writer):
                _prepare_sqlite(engine, durability)

            @sa.event.listens_for(self._writer, "begin")
            def _begin(connection: sa.Connection) -> None:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            self._reader = self._writer = sa.create_engine(
                parsed, pool_size=8, max_overflow=8, pool_pre_ping=True
            )

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection for SELECTs; it sees one moment per statement."""
        with self._reader.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction: committed at the end of the block, rolled back on an exception."""
        if self.sqlite:
            with self._lock, self._writer.begin() as connection:
                yield connection
        else:
            with self._writer.begin() as connection:
                yield connection

    @contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """A connection for SELECTs that all see one moment."""
        with self._reader.connect() as connection:
            if self.sqlite:
                connection.exec_driver_sql("BEGIN")
            else:
                connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    @contextmanager
    def write_alone(self, *key: str) -> Iterator[sa.Connection]:
        """As `write`, and no other writer with the same key at the same time.

        For "read the highest number, insert the next". SQLite's writers take turns anyway.
        """
        with self.write() as connection:
            if not self.sqlite:
                connection.execute(
                    sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"),
                    {"key": "\x1f".join(key)},
                )
            yield connection

    def migrate(self, branch: Literal["meuse", "money"], revision: str = "head") -> None:
        """Bring one set of tables up to date; its versions stand in `alembic_<branch>`."""
        config = AlembicConfig()
        config.set_main_option("script_location", str(MIGRATIONS / branch))
        config.attributes["version_table"] = f"alembic_{branch}"
        with self.write() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, revision)

    def close(self) -> None:
        self._reader.dispose()
        self._writer.dispose()


def _prepare_sqlite(engine: sa.Engine, durability: str) -> None:
    @sa.event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        # SQLAlchemy sends BEGIN itself: the driver's own, deferred one would upgrade late.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute(f"PRAGMA synchronous={durability.upper()}")
        cursor.execute("PRAGMA busy_timeout=10000")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()


def upsert(
    connection: sa.Connection, table: sa.Table, values: Any, *, add: tuple[str, ...] = ()
) -> None:
    """INSERT rows; on an equal primary key replace the other columns, or sum those in `add`."""
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert
    else:
        from sqlalchemy.dialects.postgresql import insert  # type: ignore[assignment]
    statement = insert(table).values(values)
    keys = {column.name for column in table.primary_key}
    changed = {
        column.name: (
            table.c[column.name] + statement.excluded[column.name]
            if column.name in add
            else statement.excluded[column.name]
        )
        for column in table.columns
        if column.name not in keys
    }
    connection.execute(
        statement.on_conflict_do_update(index_elements=sorted(keys), set_=changed)
        if changed
        else statement.on_conflict_do_nothing()
    )
