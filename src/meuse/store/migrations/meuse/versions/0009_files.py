"""Files and batches of the OpenAI API.

Revision ID: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
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
        "file",
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("deleted_ms", sa.BigInteger),
        sa.UniqueConstraint("id"),
    )
    _table(
        "batch",
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("job_id", sa.String(63), nullable=False),
        sa.Column("input_file", sa.String(63), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("cancelling_ms", sa.BigInteger),
        sa.Column("outcome", sa.Text),
        sa.UniqueConstraint("id"),
    )


def downgrade() -> None:
    for name in ("batch", "file"):
        op.drop_table(name)
