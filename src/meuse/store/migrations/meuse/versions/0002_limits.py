"""Limits and budgets.

Revision ID: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "request_limit",
        sa.Column("tenant_id", sa.String(63), nullable=False, primary_key=True),
        sa.Column("project_id", sa.String(63), nullable=False, primary_key=True),
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("by_admin", sa.Boolean, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("id"),
        sa.Column("owner", sa.String(63), nullable=False, server_default=""),
    )


def downgrade() -> None:
    op.drop_table("request_limit")
