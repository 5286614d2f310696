"""Invoices that are paid, credited or void; what reconciliations found.

Revision ID: 0003
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_SCOPE: dict[str, Any] = {"nullable": False, "server_default": "default"}
_OLD = (
    "id", "tenant_id", "project_id", "number", "period_start_ms", "period_end_ms", "status",
    "currency", "total", "body", "created_ms", "updated_ms",
)  # fmt: skip
_SAME = (*(name for name in _OLD if name not in ("status", "updated_ms")), "issued_ms", "due_on")
"""What no statement changes once an invoice has its number."""


def upgrade() -> None:
    op.rename_table("invoice", "invoice_old")
    _invoices()
    columns = ", ".join(_OLD)
    op.execute(
        f"INSERT INTO invoice ({columns}, issued_ms) SELECT {columns}, "  # noqa: S608
        "CASE WHEN status = 'draft' THEN NULL ELSE updated_ms END FROM invoice_old"
    )
    op.drop_table("invoice_old")  # and the triggers on it
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION invoice_issued()")
    _settlements()
    _guards()
    op.create_table(
        "reconciliation",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("ts_ms", sa.BigInteger, nullable=False),
        sa.Column("differences", sa.Integer, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )


def _invoices() -> None:
    op.create_table(
        "invoice",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant_id", sa.Text, **_SCOPE),
        sa.Column("project_id", sa.Text, **_SCOPE),
        sa.Column("number", sa.Text),
        sa.Column("period_start_ms", sa.BigInteger, nullable=False),
        sa.Column("period_end_ms", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("total", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("updated_ms", sa.BigInteger, nullable=False),
        sa.Column("issued_ms", sa.BigInteger),
        sa.Column("due_on", sa.Text),
        sa.Column("voided_ms", sa.BigInteger),
        sa.Column("void_reason", sa.Text),
        sa.CheckConstraint(
            "status IN ('draft', 'issued', 'paid', 'void')", name="invoice_known_status"
        ),
        sa.CheckConstraint("(status = 'draft') = (number IS NULL)", name="invoice_has_number"),
        sa.CheckConstraint(
            "(status = 'void') = (void_reason IS NOT NULL AND voided_ms IS NOT NULL)",
            name="invoice_void_reason",
        ),
    )
    op.create_index("invoice_numbers", "invoice", ["number"], unique=True)
    # A void invoice keeps its number and leaves its period to another one.
    op.create_index(
        "invoice_of_period",
        "invoice",
        ["tenant_id", "project_id", "period_start_ms", "period_end_ms"],
        unique=True,
        sqlite_where=sa.text("status <> 'void'"),
        postgresql_where=sa.text("status <> 'void'"),
    )


def _settlements() -> None:
    op.create_table(
        "payment",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant_id", sa.Text, **_SCOPE),
        sa.Column("project_id", sa.Text, **_SCOPE),
        sa.Column("invoice_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("adapter", sa.Text, nullable=False),
        sa.Column("reference", sa.Text, nullable=False),
        sa.Column("amount", sa.Text, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("date", sa.Text, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("invoice_id", "adapter", "reference", name="payment_reference"),
        sa.CheckConstraint("kind IN ('payment', 'refund')", name="payment_kind"),
        sa.ForeignKeyConstraint(["invoice_id"], ["invoice.id"]),
    )
    op.create_table(
        "credit_note",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant_id", sa.Text, **_SCOPE),
        sa.Column("project_id", sa.Text, **_SCOPE),
        sa.Column("invoice_id", sa.Text, nullable=False),
        sa.Column("number", sa.Text, nullable=False),
        sa.Column("reference", sa.Text, nullable=False),
        sa.Column("amount", sa.Text, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("number", name="credit_note_number"),
        sa.UniqueConstraint("invoice_id", "reference", name="credit_note_reference"),
        sa.ForeignKeyConstraint(["invoice_id"], ["invoice.id"]),
    )


def _guards() -> None:
    """What the database itself refuses, whoever asks: any change of what an invoice says once it
    has its number, any step but issued → paid and issued → void, and any change of payments and
    credit notes."""
    stays = " AND ".join(f"NEW.{name} IS NOT DISTINCT FROM OLD.{name}" for name in _SAME)
    if op.get_bind().dialect.name == "sqlite":
        stays = stays.replace("IS NOT DISTINCT FROM", "IS")
    step = f"OLD.status = 'issued' AND NEW.status IN ('paid', 'void') AND {stays}"
    told = "an issued invoice is immutable"
    _guard("invoice", "UPDATE", told, f"OLD.status <> 'draft' AND NOT ({step})")
    _guard("invoice", "DELETE", told, "OLD.status <> 'draft'")
    for table in ("payment", "credit_note"):
        for event in ("UPDATE", "DELETE"):
            _guard(table, event, f"a {table} is immutable", None)


def _guard(table: str, event: str, told: str, when: str | None) -> None:
    name = f"{table}_keeps_{event.lower()}"
    condition = f"WHEN ({when}) " if when else ""
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            f"CREATE TRIGGER {name} BEFORE {event} ON {table} {condition}"
            f"BEGIN SELECT RAISE(ABORT, '{told}'); END"
        )
        return
    op.execute(
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ "
        f"BEGIN RAISE EXCEPTION '{told}'; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {name} BEFORE {event} ON {table} FOR EACH ROW {condition}"
        f"EXECUTE FUNCTION {name}()"
    )


def downgrade() -> None:
    raise NotImplementedError("payments and credit notes have no place in what was before")
