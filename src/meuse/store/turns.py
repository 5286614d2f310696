"""Who may write money.db: one writer at a time, to the end of its transaction."""

from __future__ import annotations

import sqlalchemy as sa

_LOCK = 0x6D65757365  # any number, the same everywhere: "meuse"


def take_turn(connection: sa.Connection) -> None:
    """SQLite's BEGIN IMMEDIATE is that; on Postgres an advisory lock."""
    if connection.dialect.name != "sqlite":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
