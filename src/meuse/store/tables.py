"""The tables of the `meuse` database. Every table has a tenant, a project and an owner.

Declared here for queries; made by the migrations (a test holds the two together). JSON
documents are text: both dialects read them alike and nothing queries inside them.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.schema import SchemaItem

metadata = sa.MetaData()


def _owned(*columns: SchemaItem, name: str) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        sa.Column("tenant_id", sa.String(63), nullable=False, primary_key=True),
        sa.Column("project_id", sa.String(63), nullable=False, primary_key=True),
        *columns,
        # Who made the row: room for a principal; empty until things have owners inside a project.
        sa.Column("owner", sa.String(63), nullable=False, server_default=""),
    )


dataset_version = _owned(
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("format", sa.String(16), nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("columns", sa.Text, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("tenant_id", "project_id", "name", "digest"),
    name="dataset_version",
)

model_version = _owned(
    sa.Column("model", sa.String(63), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("job_id", sa.String(63), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    # A step that runs twice registers once.
    sa.UniqueConstraint("tenant_id", "job_id"),
    name="model_version",
)

alias = _owned(
    sa.Column("model", sa.String(63), primary_key=True),
    sa.Column("alias", sa.String(63), primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("updated_ms", sa.BigInteger, nullable=False),
    sa.ForeignKeyConstraint(
        ["tenant_id", "project_id", "model", "version"],
        [
            "model_version.tenant_id",
            "model_version.project_id",
            "model_version.model",
            "model_version.version",
        ],
    ),
    name="alias",
)

deployment = _owned(
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("updated_ms", sa.BigInteger, nullable=False),
    name="deployment",
)

job = _owned(
    sa.Column("id", sa.String(63), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("status", sa.String(16), nullable=False, index=True),
    sa.Column("progress", sa.Float, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("metrics", sa.Text, nullable=False),
    sa.Column("result", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("cancel_requested", sa.Boolean, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("updated_ms", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("id"),
    name="job",
)

job_event = _owned(
    sa.Column("job_id", sa.String(63), primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("ts_ms", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    name="job_event",
)

api_key = _owned(
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sa.Column("name", sa.String(63), nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("expires_ms", sa.BigInteger),
    sa.Column("revoked_ms", sa.BigInteger),
    sa.UniqueConstraint("id"),
    name="api_key",
)

request_limit = _owned(
    sa.Column("id", sa.String(63), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("by_admin", sa.Boolean, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("id"),
    name="request_limit",
)

tenant = sa.Table(
    "tenant",
    metadata,
    sa.Column("tenant_id", sa.String(63), primary_key=True),
    sa.Column("plan", sa.String(63)),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
)

plan_version = sa.Table(
    "plan_version",
    metadata,
    # Price lists are the operator's: they belong to no tenant.
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("currency", sa.String(3), nullable=False),
    sa.Column("prices", sa.Text, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
)
