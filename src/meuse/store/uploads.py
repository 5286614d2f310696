"""Uploads on their way to datasets, in SQL: adapter of `core.ports.UploadStore`."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from meuse.core.errors import Code, MeuseError, not_found
from meuse.core.nouns import Scope, Upload
from meuse.store.database import Database
from meuse.store.tables import upload as table


def _load(row: sa.Row[Any]) -> Upload:
    r, body = row._mapping, json.loads(row._mapping["body"])
    return Upload(
        id=r["id"],
        scope=Scope(r["tenant_id"], r["project_id"]),
        name=r["name"],
        format=body["format"],
        bytes=r["bytes"],
        part_bytes=body["part_bytes"],
        sha256=body["sha256"],
        options=body["options"],
        created_ms=r["created_ms"],
        updated_ms=r["updated_ms"],
        job=r["job_id"],
    )


class SqlUploads:
    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, upload: Upload, most: int, most_bytes: int) -> tuple[Upload, bool]:
        scope = upload.scope
        with self._database.write_alone("upload", scope.tenant) as connection:
            mine = sa.and_(table.c.tenant_id == scope.tenant, table.c.job_id == "")
            there = [_load(row) for row in connection.execute(sa.select(table).where(mine))]
            for other in there:
                if upload.sha256 and _same(other, upload):
                    return other, False
            _check_room(there, upload, most, most_bytes)
            body = {
                "format": upload.format,
                "part_bytes": upload.part_bytes,
                "sha256": upload.sha256,
                "options": upload.options,
            }
            connection.execute(
                table.insert().values(
                    tenant_id=scope.tenant,
                    project_id=scope.project,
                    id=upload.id,
                    name=upload.name,
                    bytes=upload.bytes,
                    job_id=upload.job,
                    body=json.dumps(body),
                    created_ms=upload.created_ms,
                    updated_ms=upload.updated_ms,
                )
            )
        return upload, True

    def get(self, scope: Scope | None, upload_id: str) -> Upload:
        query = sa.select(table).where(table.c.id == upload_id)
        if scope is not None:
            query = query.where(
                table.c.tenant_id == scope.tenant, table.c.project_id == scope.project
            )
        with self._database.read() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise not_found("upload", upload_id, "Begin one with POST /api/datasets/uploads.")
        return _load(row)

    def touch(self, upload_id: str, at_ms: int) -> None:
        with self._database.write() as connection:
            connection.execute(
                table.update().where(table.c.id == upload_id).values(updated_ms=at_ms)
            )

    def take(self, upload_id: str, job: str, at_ms: int, instead_of: str = "") -> None:
        with self._database.write() as connection:
            done = connection.execute(
                table.update()
                .where(table.c.id == upload_id, table.c.job_id == instead_of)
                .values(job_id=job, updated_ms=at_ms)
            )
            if done.rowcount == 0:
                raise MeuseError(
                    Code.CONFLICT,
                    f"the upload {upload_id!r} is complete, or gone",
                    field="upload",
                    hint="GET it to see its job.",
                )

    def idle(self, before_ms: int) -> list[Upload]:
        query = sa.select(table).where(table.c.updated_ms < before_ms).order_by(table.c.id)
        with self._database.read() as connection:
            return [_load(row) for row in connection.execute(query)]

    def delete(self, upload_id: str) -> None:
        with self._database.write() as connection:
            connection.execute(table.delete().where(table.c.id == upload_id))


def _same(one: Upload, other: Upload) -> bool:
    """Whether both announce the same file, to be read in the same way."""
    return (one.scope, one.name, one.format, one.bytes, one.sha256, one.options) == (
        other.scope, other.name, other.format, other.bytes, other.sha256, other.options
    )  # fmt: skip


def _check_room(there: list[Upload], upload: Upload, most: int, most_bytes: int) -> None:
    hint = "Complete or delete one: DELETE /api/datasets/uploads/{id}."
    if len(there) >= most:
        raise MeuseError(
            Code.CONFLICT,
            f"{len(there)} uploads are open, which is the most at once: "
            f"{', '.join(other.id for other in there[:20])}",
            field="upload",
            hint=hint,
        )
    held = sum(other.bytes for other in there)
    if held + upload.bytes > most_bytes:
        raise MeuseError(
            Code.CONFLICT,
            f"the uploads that are open announce {held:,} bytes; with {upload.bytes:,} more "
            f"they would be over the {most_bytes:,} that a tenant may have",
            field="bytes",
            hint=hint,
        )
