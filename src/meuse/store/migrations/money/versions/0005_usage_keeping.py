"""Usage by day, or in another bucket than its own; events of outside services; the archive.

Revision ID: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


_DAILY = ("owner_id", "project_id", "deployment", "meter", "tier", "plan_version")
_DAY_MS = 86_400_000


def upgrade() -> None:
    _daily()
    op.create_table(
        "usage_elsewhere",
        sa.Column("id", sa.LargeBinary, primary_key=True),
        sa.Column("payer", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("bucket_ms", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("meter", sa.Text, primary_key=True),
        sa.Column("quantity", sa.BigInteger, nullable=False),
        sa.Column("context", sa.BigInteger, nullable=False),
        sa.Column("own_ms", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("usage_elsewhere_bucket", "usage_elsewhere", ["bucket_ms"])
    op.create_index("usage_elsewhere_own", "usage_elsewhere", ["own_ms"])
    op.create_table(
        "usage_event",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("seen_ms", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("usage_event_seen", "usage_event", ["seen_ms"])
    op.create_table(
        "usage_archive",
        sa.Column("day", sa.Text, primary_key=True),
        sa.Column("part", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("first", sa.LargeBinary, nullable=False),
        sa.Column("until", sa.LargeBinary, nullable=False),
        sa.Column("before_ms", sa.BigInteger, nullable=False),
        sa.Column("records", sa.BigInteger, nullable=False),
        sa.Column("min_ts_ms", sa.BigInteger, nullable=False),
        sa.Column("max_ts_ms", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("blob", sa.Text, nullable=False),
        sa.Column("sums", sa.Text, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.CheckConstraint("state IN ('putting', 'done')", name="archive_state"),
    )


def _daily() -> None:
    """The rollup without keys and versions, by day: what usage is mostly asked by, and invoices."""
    op.create_table(
        "usage_daily",
        sa.Column("tenant_id", sa.Text, primary_key=True),
        sa.Column("day_ms", sa.BigInteger, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.Text, primary_key=True) for name in _DAILY),
        # The first bucket of the day: usage of the version that was used first comes first.
        sa.Column("first_ms", sa.BigInteger, nullable=False),
        sa.Column("quantity", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("usage_daily_day", "usage_daily", ["day_ms"])
    op.create_index("usage_daily_owner", "usage_daily", ["owner_id", "day_ms"])
    names = ", ".join(_DAILY)
    op.execute(
        f"INSERT INTO usage_daily (tenant_id, day_ms, {names}, first_ms, quantity) "  # noqa: S608
        f"SELECT tenant_id, bucket_ms - bucket_ms % {_DAY_MS}, {names}, min(bucket_ms), "
        "sum(quantity) "
        f"FROM usage_rollup GROUP BY tenant_id, bucket_ms - bucket_ms % {_DAY_MS}, {names}"
    )


def downgrade() -> None:
    for table in (
        "usage_daily",
        "usage_archive",
        "usage_event",
        "usage_elsewhere",
    ):
        op.drop_table(table)
