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
    sa.Column("table_digest", sa.String(64), nullable=False, server_default=""),
    sa.Column("table_bytes", sa.BigInteger, nullable=False, server_default="0"),
    # The digest of the options of reading, and the options and what was found.
    sa.Column("reading", sa.String(64), nullable=False, server_default=""),
    sa.Column("body", sa.Text, nullable=False, server_default="{}"),
    sa.UniqueConstraint("tenant_id", "project_id", "name", "digest", "format", "reading"),
    name="dataset_version",
)

dataset_profile = _owned(
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    # The digest of what was asked for (target, split); the profile itself is a blob.
    sa.Column("asked", sa.String(64), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    name="dataset_profile",
)

dataset_deleted = _owned(
    # Numbers are given once. `digests` are blobs to be swept, as long as there are any.
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("digests", sa.Text, nullable=False),
    sa.Column("deleted_ms", sa.BigInteger, nullable=False),
    name="dataset_deleted",
)

upload = _owned(
    sa.Column("id", sa.String(63), primary_key=True),
    sa.Column("name", sa.String(63), nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    # The job that reads it; empty while parts may come.
    sa.Column("job_id", sa.String(63), nullable=False, server_default=""),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("updated_ms", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("id"),
    name="upload",
)

file = _owned(
    sa.Column("id", sa.String(63), primary_key=True),
    sa.Column("filename", sa.Text, nullable=False),
    sa.Column("purpose", sa.String(32), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    # Set when it is deleted; the row goes with the bytes.
    sa.Column("deleted_ms", sa.BigInteger),
    sa.UniqueConstraint("id"),
    name="file",
)

batch = _owned(
    sa.Column("id", sa.String(63), primary_key=True),
    sa.Column("job_id", sa.String(63), nullable=False),
    sa.Column("input_file", sa.String(63), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("cancelling_ms", sa.BigInteger),
    sa.Column("outcome", sa.Text),
    sa.UniqueConstraint("id"),
    name="batch",
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
    sa.Column("gate", sa.Text),
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

evaluation = _owned(
    sa.Column("model", sa.String(63), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("job_id", sa.String(63), primary_key=True),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.ForeignKeyConstraint(
        ["tenant_id", "project_id", "model", "version"],
        [
            "model_version.tenant_id",
            "model_version.project_id",
            "model_version.model",
            "model_version.version",
        ],
    ),
    name="evaluation",
)

deployment = _owned(
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("updated_ms", sa.BigInteger, nullable=False),
    name="deployment",
)

rollout = _owned(
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("updated_ms", sa.BigInteger, nullable=False),
    name="rollout",
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
    sa.Column("priority", sa.String(8), nullable=False, server_default="normal"),
    sa.Column("pause_requested", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("started_ms", sa.BigInteger),
    sa.Column("ended_ms", sa.BigInteger),
    sa.Column("estimate_bytes", sa.BigInteger),
    sa.Column("live", sa.Text),
    sa.UniqueConstraint("id"),
    name="job",
)

job_event = _owned(
    sa.Column("job_id", sa.String(63), primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("ts_ms", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    # The key begins with the tenant, and a story is read by its job alone.
    sa.Index("ix_job_event_job_id_seq", "job_id", "seq"),
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

webhook = _owned(
    sa.Column("id", sa.String(63), primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    # The secret, encrypted for this id.
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sa.Column("everyone", sa.Boolean, nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("id"),
    name="webhook",
)

alert = _owned(
    sa.Column("id", sa.String(63), primary_key=True),
    sa.Column("budget_id", sa.String(63), nullable=False),
    sa.Column("period", sa.String(63), nullable=False),
    sa.Column("threshold", sa.Integer, nullable=False),
    # All whom it concerns.
    sa.Column("tenants", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("id"),
    sa.UniqueConstraint("budget_id", "period", "threshold"),
    name="alert",
)

webhook_delivery = _owned(
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
    sa.Index("ix_webhook_delivery_status", "status", "next_ms"),
    name="webhook_delivery",
)

tenant = sa.Table(
    "tenant",
    metadata,
    sa.Column("tenant_id", sa.String(63), primary_key=True),
    sa.Column("plan", sa.String(63)),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
)

tenant_plan = sa.Table(
    "tenant_plan",
    metadata,
    # Which plan a tenant had from when on: fees go by it.
    sa.Column("tenant_id", sa.String(63), primary_key=True),
    sa.Column("from_ms", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("plan", sa.String(63)),
)

tenant_billing = sa.Table(
    "tenant_billing",
    metadata,
    sa.Column("tenant_id", sa.String(63), primary_key=True),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("updated_ms", sa.BigInteger, nullable=False),
)

plan_version = sa.Table(
    "plan_version",
    metadata,
    # Price lists are the operator's: they belong to no tenant.
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("currency", sa.String(3), nullable=False),
    sa.Column("prices", sa.Text, nullable=False),
    sa.Column("terms", sa.Text),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
)
