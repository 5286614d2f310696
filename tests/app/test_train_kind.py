"""What control does at the end of a training: the version registered, and deployed when asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from meuse.app.kinds.import_ import Foreign
from meuse.app.kinds.shared import Stores
from meuse.app.kinds.train import Train
from meuse.core.nouns import (
    GENERATION,
    Artifact,
    DatasetVersion,
    Deployment,
    Job,
    Lineage,
    NewVersion,
    Scale,
    Scope,
    Signature,
)
from meuse.core.states import JobStatus
from meuse.deploy.completion import completed
from meuse.deploy.spec import parse
from meuse.store.database import Database
from meuse.store.datasets import SqlDatasets
from meuse.store.deployments import SqlDeployments
from meuse.store.registry import SqlRegistry

SCOPE = Scope("acme")
RESULT: dict[str, Any] = {
    "task": "classification", "signature": {"inputs": [], "outputs": []}, "metrics": {},
    "code_digest": "", "target": "digit",
    "artifacts": [
        {"name": "model.onnx", "format": "onnx", "digest": "a" * 64, "bytes": 9},
    ],
}  # fmt: skip


@dataclass
class Desk:
    """Control's part, on real stores, with the data `digits:1`."""

    folder: Path

    def __post_init__(self) -> None:
        database = Database(f"sqlite:///{self.folder}/meuse.db")
        database.migrate("meuse")
        datasets, self.registry = SqlDatasets(database), SqlRegistry(database)
        self.deployments = SqlDeployments(database)
        datasets.add_version(SCOPE, DatasetVersion("digits", 0, "d" * 64, "csv", 9, (), 9, 1))
        self.woken = 0
        stores = Stores(datasets, self.registry, self.deployments, self._wake)
        self.kind = Train(stores, Foreign()).kind()

    def _wake(self) -> None:
        self.woken += 1

    def end(self, number: int = 1, **changes: Any) -> dict[str, Any]:
        """The result of a training of `digits` that was to be deployed."""
        spec = {"model_name": "digits", "data": "digits:1", "seed": 0, "deploy": True}
        job = Job(
            f"job-{number}", SCOPE, "train", spec, JobStatus.RUNNING, 0.0, 1, {}, None, None,
            False, 1, 1,
        )  # fmt: skip
        return self.kind.complete(job, {**RESULT, **changes})

    def deploy(self, model: str, **body: Any) -> Deployment:
        body = {"model": model, **body}
        wanted = completed(self.registry, parse(SCOPE, "digits", body), body, 1 << 40)
        return self.deployments.put(wanted)

    def language_model(self) -> None:
        told = {"layout": "ir", "context": 64, "kv_bytes_per_token": 8, "weight_bytes": 9,
                "vocabulary": 9}  # fmt: skip
        self.registry.add_version(SCOPE, NewVersion(
            model="smollm2", task=GENERATION, artifacts=(Artifact("m", "llm", "m" * 64, 9),),
            signature=Signature((), ()), metrics={}, report={"generation": told},
            lineage=Lineage("job-smollm2", "", "", "", 0, ""),
        ))  # fmt: skip


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_version_is_deployed_once(desk: Desk) -> None:
    """Under the model's own name; completing a second time changes nothing."""
    done = desk.end()
    assert (done["model"], done["deployment"]) == ("digits:1", "digits")
    made = desk.deployments.get(SCOPE, "digits")
    assert [target.model for target in made.targets] == ["digits:1"]
    assert desk.end() == done
    assert desk.deployments.get(SCOPE, "digits") == made, "the step changed it twice"
    assert desk.woken == 1


def test_the_next_version_takes_over_and_the_rest_stays_as_it_was(desk: Desk) -> None:
    desk.end()
    before = desk.deploy(
        "digits:1", scale={"min": 1, "max": 3}, timeout_ms=9_000, engine={"name": "openvino"}
    )
    assert desk.end(2)["model"] == "digits:2"
    after = desk.deployments.get(SCOPE, "digits")
    assert [target.model for target in after.targets] == ["digits:2"]
    assert (after.scale, after.timeout_ms) == (Scale(1, 3), 9_000)
    stays = {"generation": before.generation, "updated_ms": 0, "targets": before.targets}
    assert replace(after, **stays) == replace(before, updated_ms=0)


def test_a_deployment_of_a_language_model_takes_no_other(desk: Desk) -> None:
    """Its engine would never start with it: nothing is put, and the job says why."""
    desk.language_model()
    before = desk.deploy("smollm2:1", engine={"cache_mb": 64})
    done = desk.end()
    assert done["model"] == "digits:1"
    assert "deployment" not in done
    error = done["deployment_error"]
    assert error["field"] == "engine.name"
    assert "no artifact that the engine 'genai' runs" in error["message"]
    assert desk.deployments.get(SCOPE, "digits") == before
    assert desk.woken == 0


def test_an_engine_that_the_version_has_no_file_for_is_told(desk: Desk) -> None:
    """Safetensors lie beside the ONNX of some recipes, not of all."""
    safetensors = {"name": "m.safetensors", "format": "safetensors", "digest": "b" * 64, "bytes": 9}
    desk.end(artifacts=[*RESULT["artifacts"], safetensors])
    before = desk.deploy("digits:1", engine={"name": "torch"})
    error = desk.end(2)["deployment_error"]
    assert error["field"] == "engine.name"
    assert "Engines that run it: onnx, openvino" in error["hint"]
    assert desk.deployments.get(SCOPE, "digits") == before
