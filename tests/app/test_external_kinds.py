"""Jobs that need weights refuse a version that another server runs, by the field that names it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, cast

import pytest

from helpers_llama import chat, jsonl
from meuse.app.kinds import pull
from meuse.app.kinds.compress_language import LanguageCompress, by_task
from meuse.app.kinds.evaluate import Evaluate
from meuse.app.kinds.finetune import Finetune
from meuse.app.kinds.shared import Stores
from meuse.core.errors import MeuseError
from meuse.core.nouns import Artifact, Lineage, NewVersion, Scope, StoredFile
from meuse.registry.external import FORMAT, SIGNATURE, TASK, External
from meuse.store.blobs import FolderBlobs
from meuse.store.database import Database
from meuse.store.files import SqlFiles
from meuse.store.registry import SqlRegistry

SCOPE = Scope("acme")
FILE = f"file-{1:032x}"


@pytest.mark.parametrize(
    ("kind", "spec", "field"),
    [
        ("evaluate", {"models": ["far"], "data": FILE}, "models[0]"),
        ("compress", {"model": "far:1", "data": FILE}, "model"),
        ("train", {"recipe": "llm-lora", "model_name": "a", "base": "far", "data": FILE}, "base"),
        ("import", "far", "base"),
    ],
)
def test_a_version_without_weights_is_refused(
    tmp_path: Path, kind: str, spec: Any, field: str
) -> None:
    database = Database(f"sqlite:///{tmp_path}/meuse.db")
    database.migrate("meuse")
    registry, files = SqlRegistry(database), SqlFiles(database)
    blobs = FolderBlobs(tmp_path / "files")
    far = External("https://host/v1", "gpt", 128)
    registry.add_version(SCOPE, NewVersion(
        model="far", task=TASK, artifacts=(Artifact("external.json", FORMAT, "e" * 64, 9),),
        signature=SIGNATURE, metrics={}, report=far.report(has_key=False),
        lineage=Lineage("job-far", "", "", "", 0, ""),
    ))  # fmt: skip
    digest, size = blobs.put(SCOPE.tenant, io.BytesIO(jsonl([chat("a", "b")])))
    files.add(StoredFile(FILE, SCOPE, "f.jsonl", "fine-tune", digest, size, 1))
    stores = Stores(cast("Any", None), registry, cast("Any", None), lambda: None)
    checks = {
        "evaluate": Evaluate(stores, files).kind().check,
        "compress": by_task(cast("Any", None), LanguageCompress(stores, files)).check,
        "train": Finetune(stores, files, blobs, lambda tenant: None).kind().check,
        "import": lambda scope, base: pull.base_of(registry, scope, base),
    }
    with pytest.raises(MeuseError, match="far:1 runs on another server") as caught:
        checks[kind](SCOPE, spec)
    assert caught.value.field == field
