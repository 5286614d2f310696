"""Model files of our own as versions of a home: put where a job would have put them."""

from __future__ import annotations

import io
from pathlib import Path

from meuse.core.ids import new_id
from meuse.core.nouns import Artifact, Lineage, NewVersion, Scope
from meuse.serve.engines import load
from meuse.settings import load as load_settings
from meuse.store.blobs import FolderBlobs
from meuse.store.database import Database
from meuse.store.registry import SqlRegistry


def register(home: Path, name: str, model: bytes) -> str:
    """The reference of the new version, such as "table:2"."""
    settings, scope = load_settings(home), Scope("default")
    digest, size = FolderBlobs(settings.blobs).put(scope.tenant, io.BytesIO(model))
    database = Database(settings.database("meuse"))
    try:
        version = SqlRegistry(database).add_version(
            scope,
            NewVersion(
                model=name,
                task="regression",
                artifacts=(Artifact("model.onnx", "onnx", digest, size),),
                signature=load("onnx", model).signature,
                metrics={},
                lineage=Lineage(new_id("job"), "none:1", "0" * 64, "0" * 64, 0, "y"),
            ),
        )
    finally:
        database.close()
    return version.ref
