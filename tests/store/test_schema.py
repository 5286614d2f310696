"""The migrations and the declared tables say the same."""

import sqlalchemy as sa

from meuse.core.nouns import Column, Scope
from meuse.core.plans import PlanVersion, Price
from meuse.store.access import SqlAccess, SqlPlans
from meuse.store.database import Database
from meuse.store.datasets import SqlDatasets
from meuse.store.tables import metadata


def test_migrations_make_the_declared_tables(database_url: str) -> None:
    """After `upgrade head` every declared column, key and unique constraint is there, no more."""
    database = Database(database_url)
    database.migrate("meuse")
    database.migrate("meuse")  # again: nothing to do
    with database.read() as connection:
        inspector = sa.inspect(connection)
        there = set(inspector.get_table_names()) - {"alembic_meuse"}
        assert set(metadata.tables) == there
        for name, table in metadata.tables.items():
            columns = {c["name"]: c for c in inspector.get_columns(name)}
            assert {c.name for c in table.columns} == set(columns), name
            assert {c.name: bool(c.nullable) for c in table.columns} == {
                n: c["nullable"] for n, c in columns.items()
            }, name
            key = inspector.get_pk_constraint(name)["constrained_columns"]
            assert {c.name for c in table.primary_key} == set(key), name
            unique = {
                frozenset(c.name for c in constraint.columns)
                for constraint in table.constraints
                if isinstance(constraint, sa.UniqueConstraint)
            }
            found = {frozenset(c["column_names"]) for c in inspector.get_unique_constraints(name)}
            assert unique == found, name
    database.close()


def test_datasets_from_before_the_canonical_form_are_kept(database_url: str) -> None:
    """Rows of the schema before are there after the migration, and can be read."""
    database = Database(database_url)
    database.migrate("meuse", "0003")
    old = {
        "tenant_id": "default", "project_id": "default", "name": "old", "version": 1,
        "digest": "d" * 64, "format": "csv", "rows": 3, "bytes": 10, "created_ms": 1,
        "columns": '[{"name": "x", "kind": "integer", "missing": 0}]',
    }  # fmt: skip
    with database.write() as connection:
        table = sa.table("dataset_version", *(sa.column(name) for name in old))
        connection.execute(table.insert().values(**old))
    database.migrate("meuse")
    found = SqlDatasets(database).get(Scope("default"), "old")
    assert (found.rows, found.columns, found.table_digest) == (3, (Column("x", "integer"),), "")
    database.close()


def test_plans_from_before_their_terms_are_kept(database_url: str) -> None:
    """A tenant has had its plan from its beginning; a plan of prices alone reads as it did."""
    database = Database(database_url)
    database.migrate("meuse", "0009")
    prices = '[{"meter": "rows", "amount": "0.50", "per": 1000, "model": "*"}]'
    rows = {
        "tenant": {"tenant_id": "old", "plan": "basic", "created_ms": 5},
        "plan_version": {
            "name": "basic", "version": 1, "currency": "EUR", "prices": prices, "created_ms": 4,
        },
    }  # fmt: skip
    with database.write() as connection:
        for name, values in rows.items():
            table = sa.table(name, *(sa.column(column) for column in values))
            connection.execute(table.insert().values(**values))
    database.migrate("meuse")
    assert SqlAccess(database).plan_changes("old") == [(5, "basic")]
    kept = SqlPlans(database).plan("basic")
    assert kept == PlanVersion("basic", 1, "EUR", (Price("rows", "0.50", 1000),), 4)
    assert SqlPlans(database).put_plan(kept) == kept
    database.close()


def test_every_owned_table_has_tenant_project_and_owner() -> None:
    """Whose a row is stands in every table, from the first migration."""
    operators = {"tenant", "tenant_plan", "tenant_billing", "plan_version"}
    for name, table in metadata.tables.items():
        if name not in operators:
            assert {"tenant_id", "project_id", "owner"} <= set(table.columns.keys()), name
