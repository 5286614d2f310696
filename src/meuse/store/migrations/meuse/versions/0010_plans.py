"""Terms of plans beside prices, and which plan a tenant had from when on.

Revision ID: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("plan_version") as batch:
        batch.add_column(sa.Column("terms", sa.Text))
    op.create_table(
        "tenant_plan",
        sa.Column("tenant_id", sa.String(63), primary_key=True),
        sa.Column("from_ms", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("plan", sa.String(63)),
    )
    # Nobody noted changes before: the plan of now counts from the tenant's beginning.
    op.execute(
        "INSERT INTO tenant_plan (tenant_id, from_ms, plan) "
        "SELECT tenant_id, created_ms, plan FROM tenant"
    )


def downgrade() -> None:
    op.drop_table("tenant_plan")
    with op.batch_alter_table("plan_version") as batch:
        batch.drop_column("terms")
