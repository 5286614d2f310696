"""What a fine-tuning made through the OpenAI API does at its start and its end, on real stores."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from meuse.api.context import Control
from meuse.api.tuning_bases import base_of
from meuse.app.kinds.fine_tuning_api import FineTunings
from meuse.app.kinds.shared import Stores
from meuse.core.errors import MeuseError
from meuse.core.nouns import (
    GENERATION,
    Artifact,
    Deployment,
    Job,
    Lineage,
    NewVersion,
    Scope,
    Signature,
)
from meuse.core.states import JobStatus
from meuse.core.tuning import FineTuning
from meuse.deploy.completion import completed
from meuse.deploy.spec import parse
from meuse.jobs.kinds import JobKind
from meuse.store.blobs import FolderBlobs
from meuse.store.database import Database
from meuse.store.deployments import SqlDeployments
from meuse.store.files import SqlFiles
from meuse.store.jobs import SqlJobs
from meuse.store.registry import SqlRegistry

SCOPE = Scope("acme")
MIB = 1 << 20
EXCLUDED: list[dict[str, Any]] = [
    {"prefix_cache": True}, {"prompt_lookup": True}, {"draft_model": "smollm2:2"},
]  # fmt: skip


@dataclass
class Desk:
    """smollm2:1 (GGUF) ← smollm2:2 (IR), the adapter polite:1, and a deployment `chat` of :2."""

    folder: Path
    budget: int = 1 << 40
    kind: JobKind = field(init=False)

    def __post_init__(self) -> None:
        database = Database(f"sqlite:///{self.folder}/meuse.db")
        database.migrate("meuse")
        self.registry, self.jobs = SqlRegistry(database), SqlJobs(database)
        self.deployments, self.files = SqlDeployments(database), SqlFiles(database)
        self.add("smollm2", None, layout="gguf")
        self.add("smollm2", "smollm2:1", layout="ir")
        self.add("polite", "smollm2:1", layout="adapter", base="smollm2:1", dora=False)
        stores = Stores(cast("Any", None), self.registry, self.deployments, lambda: None)
        blobs = FolderBlobs(self.folder / "files")
        tunings = FineTunings(stores, self.jobs, self.files, blobs, lambda: self.budget)
        trained = {"model": "polite:1", "metrics": {}}
        self.kind = tunings.around(
            JobKind(lambda scope, spec: spec, lambda job: {}, lambda job, result: dict(trained))
        )

    def add(self, model: str, parent: str | None, **told: Any) -> None:
        report = {"context": 64, "kv_bytes_per_token": 8, "weight_bytes": MIB, "vocabulary": 9,
                  **told}  # fmt: skip
        count = len(self.registry.versions(SCOPE, model)) if parent == "smollm2:1" else 0
        self.registry.add_version(SCOPE, NewVersion(
            model=model, task=GENERATION, artifacts=(Artifact("m", "llm", "m" * 64, 9),),
            signature=Signature((), ()), metrics={}, report={"generation": report},
            lineage=Lineage(f"job-{model}-{count}", "", "", "", 0, "", parent),
        ))  # fmt: skip

    def deploy(self, **body: Any) -> Deployment:
        body = {"model": "smollm2:2", **body}
        wanted = completed(self.registry, parse(SCOPE, "chat", body), body, 1 << 40)
        return self.deployments.put(wanted)

    def end(self) -> dict[str, Any]:
        """The result of a job whose adapter `new` is to be on `chat`."""
        told = FineTuning("chat", deployment="chat", adapter="new").to_dict()
        job = Job(
            "job-01", SCOPE, "train", {"recipe": "llm-lora", "fine_tuning": told},
            JobStatus.RUNNING, 0.0, 1, {}, None, None, False, 1, 1,
        )  # fmt: skip
        return self.kind.complete(job, {})

    def base_of(self, text: str) -> tuple[str, str | None]:
        parts = SimpleNamespace(registry=self.registry, deployments=self.deployments)
        version, deployment = base_of(cast("Control", parts), SCOPE, text)
        return version.ref, deployment


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_an_adapter_is_attached_and_the_rest_stays_as_it_was(desk: Desk) -> None:
    before = desk.deploy(timeout_ms=9_000, engine={"max_sequences": 4})
    assert desk.base_of("chat") == ("smollm2:1", "chat")
    done = desk.end()
    assert done["fine_tuned_model"] == "chat:new"
    after = desk.deployments.get(SCOPE, "chat")
    assert {each.name: each.model for each in after.adapters} == {"new": "polite:1"}
    stays = {"generation": before.generation, "updated_ms": before.updated_ms, "adapters": ()}
    assert replace(after, **stays) == before
    assert desk.end()["fine_tuned_model"] == "chat:new"
    assert desk.deployments.get(SCOPE, "chat") == after, "the step changed it twice"


@pytest.mark.parametrize("engine", EXCLUDED)
def test_nothing_is_trained_for_a_deployment_that_cannot_have_adapters(
    desk: Desk, engine: dict[str, Any]
) -> None:
    """A cache of prefixes would give base and adapter each other's keys and values."""
    desk.deploy(engine=engine)
    with pytest.raises(MeuseError, match=f"engine.{next(iter(engine))}") as caught:
        desk.base_of("chat")
    assert caught.value.field == "model"
    assert desk.base_of("smollm2:2") == ("smollm2:1", None)


@pytest.mark.parametrize("engine", EXCLUDED)
def test_an_option_that_came_meanwhile_keeps_the_adapter_off(
    desk: Desk, engine: dict[str, Any]
) -> None:
    """What PUT refuses, the end of a job does not do either; the version is there all the same."""
    before = desk.deploy(engine=engine)
    done = desk.end()
    assert done["deployment_error"]["field"] == f"engine.{next(iter(engine))}"
    assert "fine_tuned_model" not in done
    assert done["model"] == "polite:1"
    assert desk.deployments.get(SCOPE, "chat") == before


def test_an_adapter_that_memory_does_not_hold_is_kept_off(desk: Desk) -> None:
    before = desk.deploy()
    desk.budget = 8 * MIB
    assert desk.end()["deployment_error"]["field"] == "engine.cache_mb"
    assert desk.deployments.get(SCOPE, "chat") == before
