"""Whether quantities of a record are estimates; the view `usage_record` shows it.

Revision ID: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_COLUMNS = (
    "e.id", "c.tenant_id", "c.source", "e.seq", "c.final", "c.owner_id", "c.project_id", "c.key_id",
    "c.deployment", "c.version", "c.plan_version", "c.tier", "c.protocol", "c.status", "e.ts_ms",
    "c.lease", "e.quantities",
)  # fmt: skip


def upgrade() -> None:
    op.execute("DROP VIEW usage_record")
    op.add_column(
        "usage_context",
        sa.Column("estimated", sa.Boolean, nullable=False, server_default=sa.false()),
    )
    _view("c.estimated")


def downgrade() -> None:
    op.execute("DROP VIEW usage_record")
    op.drop_column("usage_context", "estimated")
    _view()


def _view(*more: str) -> None:
    op.execute(
        f"CREATE VIEW usage_record AS SELECT {', '.join((*_COLUMNS, *more))} "  # noqa: S608
        "FROM usage_entry e JOIN usage_context c ON c.context = e.context"
    )
