"""Fine-tuning jobs as their process runs them: a platform's stores, with a tiny model in them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgspec

from helpers_jobs import RecordedJob
from helpers_llama import CHATML, chat, jsonl
from meuse.app.work import finetune
from meuse.pull import checkpoint as checkpoints
from meuse.pull import facts
from meuse.serve.generation import manifest as manifests
from meuse.store.blobs import FolderBlobs
from meuse.train.llm.spec import TuneSpec

TENANT = "acme"
FILE = f"file-{1:032x}"
ROWS = [chat(f"What is {n}?", f"It is the number {n}.") for n in range(12)]
SPEC: dict[str, Any] = {
    "recipe": "llm-lora", "model_name": "counting", "base": "tiny:1", "data": FILE,
    "epochs": 3, "batch_size": 4, "learning_rate": 0.02, "seed": 5, "checkpoint_seconds": 0,
    "config": {"rank": 4},
}  # fmt: skip


class Desk:
    """The stores of a platform, and jobs on them."""

    def __init__(self, folder: Path, tiny: Path, template: str = CHATML) -> None:
        self.blobs = FolderBlobs(folder / "blobs")
        self.files = FolderBlobs(folder / "files")
        found = checkpoints.look(tiny, checkpoints.config_of(tiny))
        kept = []
        for name, path in found.files.items():
            digest, size = self.blobs.put(TENANT, io.BytesIO(path.read_bytes()))
            kept.append(manifests.File(name, digest, size))
        made = facts.manifest(found, tuple(kept), "here", "")
        document = msgspec.structs.replace(made, chat_template=template)
        self.manifest, _ = self.blobs.put(TENANT, io.BytesIO(manifests.encode(document)))
        self.folder = folder

    def order(self, rows: Any = ROWS, **changes: Any) -> dict[str, Any]:
        body = rows if isinstance(rows, bytes) else jsonl(rows)
        digest, _ = self.files.put(TENANT, io.BytesIO(body))
        spec = TuneSpec.from_dict({**SPEC, **changes})
        return {
            "spec": {**spec.to_dict(), "card": {}},
            "inputs": {
                "tenant": TENANT, "attempt": 1, "prices": [],
                "base": {"ref": "tiny:1", "manifest": self.manifest},
                "files": {"data": {"id": FILE, "digest": digest}},
                "token_budgets": {"meter": "training_tokens", "limits": [], "cells": ""},
            },
        }  # fmt: skip

    def run(
        self, rows: Any = ROWS, job: RecordedJob | None = None, **changes: Any
    ) -> dict[str, Any]:
        order = self.order(rows, **changes)
        job = job or RecordedJob(self.folder / "job")
        return finetune.work(self.blobs, job, order, self.files)

    def read(self, version: dict[str, Any], name: str) -> bytes:
        (found,) = [a for a in version["artifacts"] if a["name"] == name]
        return self.blobs.read(TENANT, found["digest"])

    def written(self, version: dict[str, Any], folder: Path) -> Path:
        """Its files, in a folder of their own."""
        folder.mkdir()
        for artifact in version["artifacts"]:
            (folder / artifact["name"]).write_bytes(self.read(version, artifact["name"]))
        return folder
