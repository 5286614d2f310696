"""The ledger: accounts, entries and their legs, wallets and their grants. What is in stays.

Revision ID: 0004
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_SCOPE: dict[str, Any] = {"nullable": False, "server_default": "default"}
_KEPT = {
    "ledger_account": ("account",),
    "ledger_entry": ("id",),
    "ledger_leg": ("entry", "account"),
    "wallet": ("id",),
    "wallet_grant": ("id",),
}
"""Tables whose rows nobody changes or deletes, and their keys."""


def upgrade() -> None:
    _ledger()
    _wallets()
    _guard()


def _ledger() -> None:
    op.create_table(
        "ledger_account",
        sa.Column("account", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("tenant_id", sa.Text, **_SCOPE),
        sa.Column("project_id", sa.Text, **_SCOPE),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("class", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.UniqueConstraint("tenant_id", "currency", "name", name="ledger_account_name"),
    )
    op.create_table(
        "ledger_entry",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("seq", sa.BigInteger, nullable=False, unique=True),
        sa.Column("tenant_id", sa.Text, **_SCOPE),
        sa.Column("project_id", sa.Text, **_SCOPE),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("reference", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("effective_ms", sa.BigInteger, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("tenant_id", "reference", name="ledger_entry_reference"),
    )
    op.create_index("ledger_entry_subject", "ledger_entry", ["tenant_id", "subject"])
    op.create_index("ledger_entry_order", "ledger_entry", ["tenant_id", "currency", "seq"])
    op.create_table(
        "ledger_leg",
        sa.Column("entry", sa.Text, sa.ForeignKey("ledger_entry.id"), primary_key=True),
        sa.Column(
            "account", sa.BigInteger, sa.ForeignKey("ledger_account.account"), primary_key=True
        ),
        # The order says which grant was spent first.
        sa.Column("line", sa.Integer, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.CheckConstraint("amount <> 0", name="ledger_leg_amount"),
    )
    op.create_index("ledger_leg_account", "ledger_leg", ["account"])
    op.create_table(
        "ledger_sum",
        sa.Column(
            "account", sa.BigInteger, sa.ForeignKey("ledger_account.account"), primary_key=True
        ),
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("amount", sa.BigInteger, nullable=False),
    )


def _wallets() -> None:
    op.create_table(
        "wallet",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("tenant_id", sa.Text, **_SCOPE),
        sa.Column("project_id", sa.Text, **_SCOPE),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("tenant_id", "currency", name="wallet_currency"),
    )
    op.create_table(
        "wallet_grant",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False, unique=True),
        sa.Column("wallet", sa.Text, sa.ForeignKey("wallet.id"), nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("expires_ms", sa.BigInteger),
        sa.Column("reference", sa.Text, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.CheckConstraint("kind IN ('granted', 'purchased')", name="wallet_grant_kind"),
        sa.CheckConstraint("amount > 0", name="wallet_grant_amount"),
    )
    op.create_index("wallet_grant_wallet", "wallet_grant", ["wallet"])
    op.create_index("wallet_grant_expires", "wallet_grant", ["expires_ms"])


def _guard() -> None:
    """No statement, whoever sends it, changes or deletes what is in."""
    told = "the ledger is immutable: book another entry"
    if op.get_bind().dialect.name == "sqlite":
        for table, key in _KEPT.items():
            for event in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {table}_{event.lower()} BEFORE {event} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{told}'); END"
                )
            # INSERT OR REPLACE deletes without asking the trigger above.
            same = " AND ".join(f"{name} = NEW.{name}" for name in key)
            op.execute(
                f"CREATE TRIGGER {table}_replace BEFORE INSERT ON {table} "  # noqa: S608
                f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {same}) "
                f"BEGIN SELECT RAISE(ABORT, '{told}'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION ledger_immutable() RETURNS trigger LANGUAGE plpgsql AS $$ "
        f"BEGIN RAISE EXCEPTION '{told}'; END $$"
    )
    for table in _KEPT:
        op.execute(
            f"CREATE TRIGGER {table}_immutable BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION ledger_immutable()"
        )
        op.execute(
            f"CREATE TRIGGER {table}_truncate BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION ledger_immutable()"
        )


def downgrade() -> None:
    tables = (
        "ledger_sum", "ledger_leg", "ledger_entry", "ledger_account", "wallet_grant", "wallet",
    )  # fmt: skip
    for table in tables:
        op.drop_table(table)
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION ledger_immutable()")
