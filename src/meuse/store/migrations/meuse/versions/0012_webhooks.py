"""Webhooks, the alerts that they are told of, and what became of telling.

Revision ID: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def _owned() -> list[sa.Column[str]]:
    return [
        sa.Column("tenant_id", sa.String(63), nullable=False, primary_key=True),
        sa.Column("project_id", sa.String(63), nullable=False, primary_key=True),
        sa.Column("owner", sa.String(63), nullable=False, server_default=""),
    ]


def upgrade() -> None:
    op.create_table(
        "webhook",
        *_owned(),
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("everyone", sa.Boolean, nullable=False),
        sa.Column("disabled", sa.Boolean, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("id"),
    )
    op.create_table(
        "alert",
        *_owned(),
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("budget_id", sa.String(63), nullable=False),
        sa.Column("period", sa.String(63), nullable=False),
        sa.Column("threshold", sa.Integer, nullable=False),
        sa.Column("tenants", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("id"),
        sa.UniqueConstraint("budget_id", "period", "threshold"),
    )
    op.create_table(
        "webhook_delivery",
        *_owned(),
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("webhook_id", sa.String(63), nullable=False),
        sa.Column("alert_id", sa.String(63), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_ms", sa.BigInteger, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("updated_ms", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("id"),
    )
    op.create_index("ix_webhook_delivery_status", "webhook_delivery", ["status", "next_ms"])


def downgrade() -> None:
    op.drop_table("webhook_delivery")
    op.drop_table("alert")
    op.drop_table("webhook")
