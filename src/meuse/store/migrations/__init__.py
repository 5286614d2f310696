"""Alembic migrations: one branch per database, `meuse` and `money`."""
