"""How the rollout of each deployment stands.

Revision ID: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rollout",
        sa.Column("tenant_id", sa.String(63), nullable=False, primary_key=True),
        sa.Column("project_id", sa.String(63), nullable=False, primary_key=True),
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("updated_ms", sa.BigInteger, nullable=False),
        sa.Column("owner", sa.String(63), nullable=False, server_default=""),
    )


def downgrade() -> None:
    op.drop_table("rollout")
