"""The tables of the ledger in money.db. What makes them, and guards them, is the migrations'."""

from __future__ import annotations

import sqlalchemy as sa

from meuse.store.invoice_tables import invoices

__all__ = ["accounts", "entries", "grants", "invoices", "legs", "metadata", "sums", "wallets"]

metadata = sa.MetaData()


def _texts(*names: str, primary_key: bool = False) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, primary_key=primary_key) for name in names]


accounts = sa.Table(
    "ledger_account",
    metadata,
    sa.Column("account", sa.BigInteger, primary_key=True),
    *_texts("tenant_id", "project_id", "currency", "class", "name"),
)
entries = sa.Table(
    "ledger_entry",
    metadata,
    *_texts("id", primary_key=True),
    sa.Column("seq", sa.BigInteger),
    *_texts("tenant_id", "project_id", "currency", "kind", "reference", "subject"),
    *_texts("fingerprint", "detail"),
    sa.Column("effective_ms", sa.BigInteger),
    sa.Column("created_ms", sa.BigInteger),
)
legs = sa.Table(
    "ledger_leg",
    metadata,
    *_texts("entry", primary_key=True),
    sa.Column("account", sa.BigInteger, primary_key=True),
    sa.Column("line", sa.Integer),
    sa.Column("amount", sa.BigInteger),
)
# What the legs of entries of a kind come to on an account: derived, and checked against them.
sums = sa.Table(
    "ledger_sum",
    metadata,
    sa.Column("account", sa.BigInteger, primary_key=True),
    *_texts("kind", primary_key=True),
    sa.Column("amount", sa.BigInteger),
)
wallets = sa.Table(
    "wallet",
    metadata,
    *_texts("id", primary_key=True),
    *_texts("tenant_id", "project_id", "currency"),
    sa.Column("created_ms", sa.BigInteger),
)
grants = sa.Table(
    "wallet_grant",
    metadata,
    *_texts("id", primary_key=True),
    sa.Column("number", sa.BigInteger),
    *_texts("wallet", "kind"),
    sa.Column("amount", sa.BigInteger),
    sa.Column("priority", sa.Integer),
    sa.Column("expires_ms", sa.BigInteger),
    *_texts("reference"),
    sa.Column("created_ms", sa.BigInteger),
)
