"""Versions of datasets: the canonical table, how the upload was read, what was found.

The same bytes read in another way are another version, so the way is part of what is unique.

Revision ID: 0004_datasets
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_KEPT = (
    "tenant_id", "project_id", "name", "version", "digest", "format", "rows", "columns", "bytes",
    "created_ms", "owner",
)  # fmt: skip


def _table(name: str, *columns: sa.Column[object], unique: tuple[str, ...]) -> None:
    op.create_table(
        name,
        sa.Column("tenant_id", sa.String(63), nullable=False, primary_key=True),
        sa.Column("project_id", sa.String(63), nullable=False, primary_key=True),
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("format", sa.String(16), nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("columns", sa.Text, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        *columns,
        sa.Column("owner", sa.String(63), nullable=False, server_default=""),
        sa.UniqueConstraint("tenant_id", "project_id", "name", "digest", *unique),
    )


def _move(into: str) -> None:
    """The rows of `dataset_version` into the new table, which takes its name."""
    old, new = (
        sa.table(name, *(sa.column(column) for column in _KEPT))
        for name in ("dataset_version", into)
    )
    op.execute(new.insert().from_select(list(_KEPT), sa.select(*old.c)))
    op.drop_table("dataset_version")
    op.rename_table(into, "dataset_version")


def upgrade() -> None:
    _table(
        "dataset_version_read",
        sa.Column("table_digest", sa.String(64), nullable=False, server_default=""),
        sa.Column("table_bytes", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("reading", sa.String(64), nullable=False, server_default=""),
        sa.Column("body", sa.Text, nullable=False, server_default="{}"),
        unique=("format", "reading"),
    )
    _move("dataset_version_read")


def downgrade() -> None:
    _table("dataset_version_plain", unique=())
    _move("dataset_version_plain")
