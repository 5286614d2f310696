"""What versions scored, and the gates of aliases.

Revision ID: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "evaluation",
        sa.Column("tenant_id", sa.String(63), nullable=False, primary_key=True),
        sa.Column("project_id", sa.String(63), nullable=False, primary_key=True),
        sa.Column("model", sa.String(63), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("job_id", sa.String(63), primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("owner", sa.String(63), nullable=False, server_default=""),
        sa.ForeignKeyConstraint(
            ["tenant_id", "project_id", "model", "version"],
            [
                "model_version.tenant_id",
                "model_version.project_id",
                "model_version.model",
                "model_version.version",
            ],
        ),
    )
    op.add_column("alias", sa.Column("gate", sa.Text))


def downgrade() -> None:
    op.drop_column("alias", "gate")
    op.drop_table("evaluation")
