"""Fine-tuning jobs as their process runs them, on a tiny model."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from helpers_jobs import RecordedJob
from helpers_llama import CHATML, chat, checkpoint, jsonl
from meuse.app.work import finetune
from meuse.pull import checkpoint as checkpoints
from meuse.pull import facts
from meuse.serve.generation import manifest as manifests
from meuse.store.blobs import FolderBlobs
from meuse.train.llm.spec import TuneSpec

TENANT = "acme"
ROWS = [chat(f"What is {n}?", f"It is the number {n}.") for n in range(12)]
SPEC: dict[str, Any] = {
    "recipe": "llm-lora", "model_name": "counting", "base": "tiny:1", "data": "file-1",
    "epochs": 3, "batch_size": 4, "learning_rate": 0.02, "seed": 5, "checkpoint_seconds": 0,
    "config": {"rank": 4},
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("tiny"))


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
        import msgspec

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
                "files": {"data": {"id": "file-1", "digest": digest}},
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


@pytest.fixture
def desk(tmp_path: Path, tiny: Path) -> Desk:
    return Desk(tmp_path, tiny)


def test_an_adapter_is_made(desk: Desk, tmp_path: Path) -> None:
    job = RecordedJob(tmp_path / "job")
    done = desk.run(job=job)
    (version,) = done["versions"]
    told = version["report"]["generation"]
    assert (told["layout"], told["base"], told["rank"], told["alpha"]) == (
        "adapter",
        "tiny:1",
        4,
        8,
    )
    assert told["targets"] == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert told["dora"] is False
    config = json.loads(desk.read(version, "adapter_config.json"))
    assert config["base_model_name_or_path"] == "tiny:1"
    assert config["r"] == 4
    names = [a["name"] for a in version["artifacts"]]
    assert names == ["manifest.json", "adapter_config.json", "adapter_model.safetensors"]
    metrics = version["metrics"]
    assert metrics["validation_loss"] < metrics["validation_loss_before"]
    assert metrics["trained_tokens"] == done["check"]["training_tokens"]
    assert done["check"]["validation_examples"] == 1
    steps = [labels["step"] for figures, labels in job.figures if "train_loss" in figures]
    assert steps[-1] == done["check"]["updates"] == 9
    json.dumps(done)
