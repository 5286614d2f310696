"""What control does for a fine-tuning: refuse early, pin, register, meter."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helpers_llama import chat, jsonl
from meuse.app.kinds.finetune import READ_NOW, Finetune, by_recipe
from meuse.app.kinds.shared import Stores
from meuse.app.work.finetune import cost
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import (
    GENERATION,
    Artifact,
    Job,
    Lineage,
    NewVersion,
    PlanVersion,
    Price,
    Scope,
    Signature,
    StoredFile,
)
from meuse.core.states import JobStatus
from meuse.store.blobs import FolderBlobs
from meuse.store.database import Database
from meuse.store.files import SqlFiles
from meuse.store.registry import SqlRegistry

SCOPE = Scope("acme")
GOOD, BAD, BATCH, LARGE, NONE, LATIN = (f"file-{n:032x}" for n in range(6))
SPEC: dict[str, Any] = {
    "recipe": "llm-lora", "model_name": "polite", "base": "smollm2", "data": GOOD,
}  # fmt: skip
ROWS = jsonl([chat("a", "b")] * 20)


@dataclass
class Desk:
    """Control's part, on real stores."""

    registry: SqlRegistry
    files: SqlFiles
    blobs: FolderBlobs
    plan: PlanVersion | None = None
    kind: Any = field(init=False)

    def __post_init__(self) -> None:
        stores = Stores(None, self.registry, None, lambda: None)  # type: ignore[arg-type]
        self.kind = Finetune(stores, self.files, self.blobs, lambda tenant: self.plan).kind()

    def check(self, **changes: Any) -> dict[str, Any]:
        spec: dict[str, Any] = self.kind.check(SCOPE, {**SPEC, **changes})
        return spec

    def base(
        self, name: str, layout: str = "gguf", task: str = GENERATION, vocabulary: int = 49_152
    ) -> None:
        told = {"layout": layout, "parameters": 134_515_008, "context": 8192,
                "vocabulary": vocabulary}  # fmt: skip
        self.registry.add_version(SCOPE, NewVersion(
            model=name, task=task, artifacts=(Artifact("manifest.json", "llm", "m" * 64, 1),),
            signature=Signature((), ()), metrics={}, report={"generation": told},
            lineage=Lineage(f"job-{name}", "", "", "", 0, ""),
        ))  # fmt: skip

    def file(self, name: str, body: bytes, purpose: str = "fine-tune") -> None:
        digest, size = self.blobs.put(SCOPE.tenant, io.BytesIO(body))
        self.files.add(StoredFile(name, SCOPE, "f.jsonl", purpose, digest, size, 1))

    def job(self, **changes: Any) -> Job:
        return Job(
            "job-1", SCOPE, "train", self.check(**changes), JobStatus.RUNNING, 0.0, 1, {}, None,
            None, False, 1, 1,
        )  # fmt: skip


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    database = Database(f"sqlite:///{tmp_path}/meuse.db")
    database.migrate("meuse")
    made = Desk(SqlRegistry(database), SqlFiles(database), FolderBlobs(tmp_path / "files"))
    made.base("smollm2")
    made.file(GOOD, ROWS)
    return made


def test_a_spec_is_completed_and_pinned(desk: Desk) -> None:
    found = desk.check(epochs="2", deploy=False)
    assert (found["base"], found["epochs"], found["batch_size"]) == ("smollm2:1", 2, 8)
    assert found["config"]["rank"] == 8
    assert found["validation_fraction"] == 0.1
    again = desk.kind.check(SCOPE, json.loads(json.dumps(found)))
    assert again == found
    assert desk.check(validation=GOOD)["validation_fraction"] == 0.0


@pytest.mark.parametrize(
    ("changes", "field", "told"),
    [
        ({"data": "digits:1"}, "data", "not the id of a file"),
        ({"data": None}, "data", "a file is missing"),
        ({"data": NONE}, "data", "there is no file"),
        ({"data": BATCH}, "data", "was uploaded for 'batch'"),
        ({"data": BAD}, "data", "line 17: it is not JSON"),
        ({"validation": BAD}, "validation", "line 17"),
        ({"data": LATIN}, "data", "line 2: it is not UTF-8"),
        ({"base": "nothing:1"}, "base", "there is no version"),
        ({"base": "served"}, "base", "layout ir"),
        ({"base": "digits"}, "base", "no language model"),
        ({"deploy": True}, "deploy", "not deployed"),
        ({"augment": {}}, "augment", "no field"),
        ({"optimizer": "gd"}, "optimizer", "one step per epoch"),
        ({"config": {"rank": 0}}, "config.rank", ">= 1"),
        ({"recipe": "llm-full", "config": {"rank": 4}}, "config.rank", "no option"),
        ({"validation_fraction": 0.9}, "validation_fraction", "not a share"),
        ({"check_only": "yes"}, "check_only", "not true or false"),
    ],
)
def test_refusals(desk: Desk, changes: dict[str, Any], field: str, told: str) -> None:
    desk.base("served", "ir")
    desk.base("digits", task="classification")
    desk.file(BATCH, ROWS, "batch")
    desk.file(LATIN, jsonl([chat("a", "b")]) + b'{"prompt": "caf\xe9", "completion": "b"}\n')
    desk.file(BAD, jsonl([chat("a", "b")] * 16) + b"{]\n" + ROWS)
    with pytest.raises(MeuseError, match=told) as caught:
        desk.check(**changes)
    assert caught.value.field == field


def test_a_large_file_is_left_to_the_job(desk: Desk) -> None:
    desk.file(LARGE, b"{]\n" * (READ_NOW // 3 + 1))
    assert desk.check(data=LARGE)["data"] == LARGE


def test_other_tenants_files_are_not_there(desk: Desk) -> None:
    with pytest.raises(MeuseError) as caught:
        desk.kind.check(Scope("globex"), dict(SPEC))
    assert caught.value.code is Code.NOT_FOUND


def test_what_the_process_gets(desk: Desk) -> None:
    """Digests, and the prices that its tenant pays by."""
    prices = (
        Price("training_tokens", "2", 1000, "*"),
        Price("training_tokens", "1", 1000, "polite"),
    )
    desk.plan = PlanVersion("basic", 3, "EUR", prices, 1)
    inputs = desk.kind.prepare(desk.job())
    assert inputs["base"] == {"ref": "smollm2:1", "manifest": "m" * 64}
    assert set(inputs["files"]) == {"data"}
    assert inputs["prices"] == [
        {"meter": "training_tokens", "amount": "1", "per": 1000, "currency": "EUR"}
    ]


def test_an_estimate_counts_started_packages_whole(desk: Desk) -> None:
    """And granules, as the invoice will."""
    prices = (
        Price("training_tokens", "5", 1000, scheme="package", free=100),
        Price("training_ms", "1", 1000, round_up_to=60_000),
    )
    desk.plan = PlanVersion("basic", 3, "EUR", prices, 1)
    told = desk.kind.prepare(desk.job())["prices"]
    assert told[0] == {
        "meter": "training_tokens", "amount": "5", "per": 1000, "currency": "EUR",
        "scheme": "package",
    }  # fmt: skip
    counts = SimpleNamespace(training_tokens=2001, seconds=60.0005)
    assert cost(counts, told) == {"amount": "135.000000", "currency": "EUR"}
    assert cost(counts, []) is None


def test_memory_is_estimated(desk: Desk) -> None:
    """All weights need more than an adapter; recomputing needs less."""
    lora, full = desk.kind.estimate(desk.job()), desk.kind.estimate(desk.job(recipe="llm-full"))
    less = desk.kind.estimate(desk.job(config={"gradient_checkpointing": True}))
    assert less < lora < full < 16 << 30
    desk.base("wide", vocabulary=128_256)
    wide = desk.kind.estimate(desk.job(base="wide"))
    assert wide - lora == 1024 * 16 * (128_256 - 49_152), "logits are as wide as the vocabulary"


def test_versions_are_registered_once(desk: Desk) -> None:
    """Adapter and merged model, children of the base, also when the step runs again."""
    job = desk.job(config={"merge": True})
    version = {
        "artifacts": [], "signature": Signature((), ()).to_dict(), "metrics": {"train_loss": 1.0},
        "dataset_digest": "d" * 64, "code_digest": "c" * 64, "split": {"by": "ratio"},
        "report": {"generation": {"layout": "adapter"}}, "card": {},
    }  # fmt: skip
    whole = {**version, "report": {"generation": {"layout": "hf"}}}
    result = {
        "check": {"tokens": 1}, "versions": [version, whole], "trained_tokens": 77,
        "best_update": 3,
    }  # fmt: skip
    done = desk.kind.complete(job, result)
    assert (done["trained_tokens"], done["best_update"]) == (77, 3)
    assert (done["model"], done["merged"]) == ("polite:1", "polite:2")
    assert desk.kind.complete(job, result) == done
    made = desk.registry.versions(SCOPE, "polite")
    assert [v.report["generation"]["layout"] for v in made] == ["adapter", "hf"]
    lineage = made[0].lineage
    assert (lineage.parent, lineage.dataset, lineage.seed) == ("smollm2:1", GOOD, 0)
    checked = replace(job, spec={**job.spec, "check_only": True})
    assert desk.kind.complete(checked, {"check": {"tokens": 1}}) == {"check": {"tokens": 1}}


def test_other_recipes_go_elsewhere(desk: Desk) -> None:
    other = replace(desk.kind, check=lambda scope, spec: {"other": True})
    both = by_recipe(other, desk.kind)
    assert both.check(SCOPE, {"recipe": "mlp"}) == {"other": True}
    assert both.check(SCOPE, {}) == {"other": True}
    assert both.check(SCOPE, dict(SPEC))["recipe"] == "llm-lora"
