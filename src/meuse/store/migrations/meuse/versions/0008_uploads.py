"""Uploads on their way to a dataset, profiles of versions, and the numbers of deleted ones.

Revision ID: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0006"
branch_labels = None
depends_on = None


def _table(name: str, *columns: sa.Column[object] | sa.UniqueConstraint) -> None:
    op.create_table(
        name,
        sa.Column("tenant_id", sa.String(63), nullable=False, primary_key=True),
        sa.Column("project_id", sa.String(63), nullable=False, primary_key=True),
        *columns,
        sa.Column("owner", sa.String(63), nullable=False, server_default=""),
    )


def upgrade() -> None:
    _table(
        "upload",
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("job_id", sa.String(63), nullable=False, server_default=""),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("updated_ms", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("id"),
    )
    _table(
        "dataset_profile",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("asked", sa.String(64), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
    )
    _table(
        "dataset_deleted",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("digests", sa.Text, nullable=False),
        sa.Column("deleted_ms", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    for name in ("dataset_deleted", "dataset_profile", "upload"):
        op.drop_table(name)
