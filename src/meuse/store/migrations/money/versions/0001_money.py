"""The tables of usage and invoices, on SQLite and Postgres."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_SCOPE: dict[str, Any] = {"nullable": False, "server_default": "default"}


def upgrade() -> None:
    _usage()
    _journal()
    _invoices()
    _guard_issued()


def _usage() -> None:
    op.create_table(
        "usage_record",
        # The id comes first: it grows with time, so that rows are added at the end of the key.
        sa.Column("id", sa.LargeBinary, primary_key=True),
        sa.Column("tenant_id", sa.Text, primary_key=True, **_SCOPE),
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("final", sa.Boolean, nullable=False),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("project_id", sa.Text, **_SCOPE),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("deployment", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("plan_version", sa.Text),
        sa.Column("tier", sa.Text, nullable=False),
        sa.Column("protocol", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("ts_ms", sa.BigInteger, nullable=False),
        sa.Column("lease", sa.Text),
        sa.Column("quantities", sa.Text, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "usage_rollup",
        sa.Column("tenant_id", sa.Text, primary_key=True, **_SCOPE),
        sa.Column("bucket_ms", sa.BigInteger, primary_key=True),
        sa.Column("owner_id", sa.Text, primary_key=True),
        sa.Column("project_id", sa.Text, primary_key=True, **_SCOPE),
        sa.Column("key_id", sa.Text, primary_key=True),
        sa.Column("deployment", sa.Text, primary_key=True),
        sa.Column("version", sa.Text, primary_key=True),
        sa.Column("meter", sa.Text, primary_key=True),
        sa.Column("tier", sa.Text, primary_key=True),
        sa.Column("plan_version", sa.Text, primary_key=True),
        sa.Column("quantity", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("usage_rollup_bucket", "usage_rollup", ["bucket_ms"])
    op.create_index("usage_rollup_owner", "usage_rollup", ["owner_id", "bucket_ms"])


def _journal() -> None:
    op.create_table(
        "journal_cursor",
        sa.Column("segment", sa.Text, primary_key=True),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("last_ts_ms", sa.BigInteger, nullable=False),
        sa.Column("updated_ms", sa.BigInteger, nullable=False),
        sa.CheckConstraint("state IN ('open', 'closed', 'quarantined')", name="cursor_state"),
    )
    op.create_table(
        "alarm",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant_id", sa.Text, **_SCOPE),
        sa.Column("project_id", sa.Text, **_SCOPE),
        sa.Column("ts_ms", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("dedup", sa.Text, nullable=False, unique=True),
    )


def _invoices() -> None:
    op.create_table(
        "invoice",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant_id", sa.Text, **_SCOPE),
        sa.Column("project_id", sa.Text, **_SCOPE),
        sa.Column("number", sa.Text, unique=True),
        sa.Column("period_start_ms", sa.BigInteger, nullable=False),
        sa.Column("period_end_ms", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("total", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("updated_ms", sa.BigInteger, nullable=False),
        sa.UniqueConstraint(
            "tenant_id", "project_id", "period_start_ms", "period_end_ms", name="invoice_period"
        ),
        sa.CheckConstraint(
            "(status = 'draft' AND number IS NULL) OR (status = 'issued' AND number IS NOT NULL)",
            name="invoice_status",
        ),
    )
    counter = op.create_table(
        "invoice_counter",
        sa.Column("series", sa.Text, primary_key=True),
        sa.Column("last", sa.BigInteger, nullable=False),
    )
    # Seeded here, so that the first two invoices cannot race to create it.
    op.bulk_insert(counter, [{"series": "default", "last": 0}])


def _guard_issued() -> None:
    """No statement, whoever sends it, changes or deletes an issued invoice."""
    if op.get_bind().dialect.name == "sqlite":
        for event in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER invoice_issued_{event.lower()} BEFORE {event} ON invoice "
                "WHEN OLD.status = 'issued' "
                "BEGIN SELECT RAISE(ABORT, 'an issued invoice is immutable'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION invoice_issued() RETURNS trigger LANGUAGE plpgsql AS $$ "
        "BEGIN RAISE EXCEPTION 'an issued invoice is immutable'; END $$"
    )
    op.execute(
        "CREATE TRIGGER invoice_issued BEFORE UPDATE OR DELETE ON invoice "
        "FOR EACH ROW WHEN (OLD.status = 'issued') EXECUTE FUNCTION invoice_issued()"
    )


def downgrade() -> None:
    for table in (
        "invoice_counter",
        "invoice",
        "alarm",
        "journal_cursor",
        "usage_rollup",
        "usage_record",
    ):
        op.drop_table(table)
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION invoice_issued()")
