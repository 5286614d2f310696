"""Turns of those who write money, where exactness depends on being alone."""

from __future__ import annotations

import sqlalchemy as sa

_LOCK = 0x6D65757365  # any number, the same everywhere: "meuse"


def take_turn(connection: sa.Connection) -> None:
    """One writer at a time, to the end of the transaction. SQLite's BEGIN IMMEDIATE is that."""
    if connection.dialect.name != "sqlite":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
