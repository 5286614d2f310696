"""What usage records have in common, kept once; `usage_record` becomes a view.

Revision ID: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_SHARED = (
    "tenant_id", "source", "owner_id", "project_id", "key_id", "deployment", "version",
    "plan_version", "tier", "protocol", "status", "lease", "final",
)  # fmt: skip
_OWN = ("id", "seq", "ts_ms", "quantities")
_COLUMNS = (
    "id", "tenant_id", "source", "seq", "final", "owner_id", "project_id", "key_id", "deployment",
    "version", "plan_version", "tier", "protocol", "status", "ts_ms", "lease", "quantities",
)  # fmt: skip
_NULLABLE = ("plan_version", "lease")


def upgrade() -> None:
    op.rename_table("usage_record", "usage_record_old")
    op.create_table(
        "usage_context",
        sa.Column("context", sa.BigInteger, primary_key=True, autoincrement=False),
        # The least context with the same tenant and source.
        sa.Column("payer", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.Text, nullable=name in _NULLABLE) for name in _SHARED[:-1]),
        sa.Column("final", sa.Boolean, nullable=False),
    )
    op.create_index("usage_context_head", "usage_context", ["tenant_id", "source", "key_id"])
    op.create_table(
        "usage_entry",
        # The id comes first: it grows with time, so that rows are added at the end of the key.
        sa.Column("id", sa.LargeBinary, primary_key=True),
        sa.Column("payer", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("context", sa.BigInteger, nullable=False),
        sa.Column("ts_ms", sa.BigInteger, nullable=False),
        sa.Column("quantities", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
    _move()
    op.drop_table("usage_record_old")
    where = {name: "e" if name in _OWN else "c" for name in _COLUMNS}
    columns = ", ".join(f"{where[name]}.{name}" for name in _COLUMNS)
    op.execute(
        f"CREATE VIEW usage_record AS SELECT {columns} "  # noqa: S608  names of ours
        "FROM usage_entry e JOIN usage_context c ON c.context = e.context"
    )


def _move() -> None:
    """Number what there is, and refer to it."""
    shared = ", ".join(_SHARED)
    op.execute(
        f"INSERT INTO usage_context (context, payer, {shared}) "  # noqa: S608
        f"SELECT n, min(n) OVER (PARTITION BY tenant_id, source), {shared} FROM "
        f"(SELECT row_number() OVER (ORDER BY {shared}) AS n, {shared} FROM "
        f"(SELECT DISTINCT {shared} FROM usage_record_old) AS found) AS numbered"
    )
    same = " AND ".join(
        f"(c.{name} = r.{name} OR (c.{name} IS NULL AND r.{name} IS NULL))"
        if name in _NULLABLE
        else f"c.{name} = r.{name}"
        for name in _SHARED
    )
    op.execute(
        "INSERT INTO usage_entry (id, payer, seq, context, ts_ms, quantities) "  # noqa: S608
        "SELECT r.id, c.payer, r.seq, c.context, r.ts_ms, r.quantities "
        f"FROM usage_record_old r JOIN usage_context c ON {same}"
    )


def downgrade() -> None:
    raise NotImplementedError("the digests of records, which 0001 compares, are gone")
