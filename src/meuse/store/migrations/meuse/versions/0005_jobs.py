"""When a job may start, how it stands, and that it may be paused.

Revision ID: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("job") as job:
        job.add_column(sa.Column("priority", sa.String(8), nullable=False, server_default="normal"))
        job.add_column(
            sa.Column("pause_requested", sa.Boolean, nullable=False, server_default=sa.false())
        )
        job.add_column(sa.Column("started_ms", sa.BigInteger))
        job.add_column(sa.Column("ended_ms", sa.BigInteger))
        job.add_column(sa.Column("estimate_bytes", sa.BigInteger))
        job.add_column(sa.Column("live", sa.Text))
    op.create_index("ix_job_event_job_id_seq", "job_event", ["job_id", "seq"])


def downgrade() -> None:
    op.drop_index("ix_job_event_job_id_seq", "job_event")
    with op.batch_alter_table("job") as job:
        for name in (
            "live", "estimate_bytes", "ended_ms", "started_ms", "pause_requested", "priority",
        ):  # fmt: skip
            job.drop_column(name)
