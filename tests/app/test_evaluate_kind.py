"""How much memory the evaluation of a language model is given, on real stores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from meuse.app import estimates
from meuse.app.kinds.evaluate import Evaluate
from meuse.app.kinds.shared import Stores
from meuse.core.nouns import (
    GENERATION,
    Artifact,
    Job,
    Lineage,
    NewVersion,
    Scope,
    Signature,
    StoredFile,
)
from meuse.core.states import JobStatus
from meuse.store.database import Database
from meuse.store.files import SqlFiles
from meuse.store.registry import SqlRegistry

SCOPE = Scope("acme")
FILE = f"file-{1:032x}"
MIB = 1 << 20
SMALL, LARGE = 135_000_000, 1_000_000_000
WORDS = 49_152


@dataclass
class Desk:
    """small:1 (checkpoint), large:1 (checkpoint), served:1 (GGUF), polite:1 (adapter of it)."""

    folder: Path

    def __post_init__(self) -> None:
        database = Database(f"sqlite:///{self.folder}/meuse.db")
        database.migrate("meuse")
        self.registry, files = SqlRegistry(database), SqlFiles(database)
        files.add(StoredFile(FILE, SCOPE, "f.jsonl", "fine-tune", "d" * 64, 9, 1))
        self.add("small", layout="hf", parameters=SMALL, weight_bytes=2 * SMALL)
        self.add("large", layout="hf", parameters=LARGE, weight_bytes=2 * LARGE)
        self.add("served", layout="gguf", parameters=SMALL, weight_bytes=SMALL)
        self.add("polite", layout="adapter", base="served:1", parameters=9, weight_bytes=36)
        stores = Stores(cast("Any", None), self.registry, cast("Any", None), lambda: None)
        self.kind = Evaluate(stores, files).kind()

    def add(self, model: str, **told: Any) -> None:
        report = {"context": 8192, "vocabulary": WORDS, "kv_bytes_per_token": 23_040, **told}
        self.registry.add_version(SCOPE, NewVersion(
            model=model, task=GENERATION, artifacts=(Artifact("m", "llm", "m" * 64, 9),),
            signature=Signature((), ()), metrics={}, report={"generation": report},
            lineage=Lineage(f"job-{model}", "", "", "", 0, ""),
        ))  # fmt: skip

    def estimate(self, *models: str, **more: Any) -> int:
        spec = self.kind.check(SCOPE, {"models": list(models), "data": FILE, **more})
        job = Job(
            "job-1", SCOPE, "evaluate", spec, JobStatus.QUEUED, 0.0, 1, {}, None, None, False, 1, 1
        )
        found = self.kind.estimate(job)
        assert found is not None
        return found


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_of_several_versions_the_largest_counts(desk: Desk) -> None:
    """Each is opened when the one before it is gone."""
    small, large = desk.estimate("small"), desk.estimate("large")
    assert large - small == 4 * (LARGE - SMALL)
    assert desk.estimate("small", "large") == desk.estimate("large", "small") == large


def test_a_window_costs_its_logits(desk: Desk) -> None:
    wide, narrow = desk.estimate("small"), desk.estimate("small", window=512)
    assert wide - narrow == 4 * WORDS * (2048 - 512)


def test_an_adapter_needs_its_base_as_transformers_has_it(desk: Desk) -> None:
    assert desk.estimate("polite") == desk.estimate("small")


def test_a_cache_counts_where_answers_may_be_written(desk: Desk) -> None:
    """No more of it than the engine is given."""
    plain = desk.estimate("served", metrics=["perplexity"])
    assert desk.estimate("served", metrics=["perplexity", "exact_match"]) == plain + 1024 * MIB
    assert desk.estimate("served") == plain + 1024 * MIB
    assert plain == estimates.of_judging_served("gguf", SMALL, WORDS, 0)
