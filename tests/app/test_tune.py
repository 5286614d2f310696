"""app.kinds.tune: what a tune job is given, and what it writes to a deployment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from meuse.app.kinds.shared import Stores
from meuse.app.kinds.tune import Tune
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import (
    GENERATION,
    Adapter,
    Artifact,
    Deployment,
    DeploymentTarget,
    Draft,
    EngineOptions,
    Job,
    Lineage,
    NewVersion,
    PromptLookup,
    Scale,
    Scope,
    Signature,
)
from meuse.store.database import Database
from meuse.store.datasets import SqlDatasets
from meuse.store.deployments import SqlDeployments
from meuse.store.registry import SqlRegistry

MINE = Scope("acme")
TOLD = {"layout": "gguf", "context": 64, "kv_bytes_per_token": 64, "weight_bytes": 1 << 20,
        "vocabulary": 99}  # fmt: skip


@pytest.fixture
def tune(tmp_path: Path) -> Iterator[Tune]:
    """With a deployment `chat` of a language model."""
    database = Database(f"sqlite:///{tmp_path / 'test.db'}")
    database.migrate("meuse")
    registry, deployments = SqlRegistry(database), SqlDeployments(database)
    for model, task, format in (
        ("m", GENERATION, "llm"), ("rows", "regression", "onnx"), ("small", GENERATION, "llm"),
    ):  # fmt: skip
        told = {**TOLD, "layout": "ir"} if model == "small" else TOLD
        registry.add_version(
            MINE,
            NewVersion(
                model=model, task=task, artifacts=(Artifact("a", format, "d" * 64, 9),),
                signature=Signature((), ()), metrics={}, lineage=Lineage(model, "", "", "", 0, ""),
                report={"generation": told},
            ),
        )  # fmt: skip
    for name, engine in (("m", "genai"), ("rows", "onnx")):
        deployments.put(spec(f"{name}:1", "chat" if name == "m" else name, engine))
    yield Tune(
        Stores(SqlDatasets(database), registry, deployments, lambda: None), 1, 2, lambda: 1 << 32
    )
    database.close()


def spec(model: str, name: str, engine: str) -> Deployment:
    targets = (DeploymentTarget(model, 100),)
    options = EngineOptions(name=engine, max_sequences=8 if engine == "genai" else None)
    return Deployment(name, MINE, 0, targets, Scale(), (), 1000, 0, engine=options)


def job(tune: Tune, **more: Any) -> Job:
    checked = tune.kind().check(MINE, {"deployment": "chat", **more})
    return Job(
        id="job-1", scope=MINE, kind="tune", spec=checked, status="running", progress=0.0,
        attempt=1, metrics={}, result=None, error=None, cancel_requested=False, created_ms=1,
        updated_ms=1,
    )  # fmt: skip


CHANGES = {"cores": 2, "prompt_lookup": {"max_ngram_size": 3, "num_assistant_tokens": 5}}


def chat(tune: Tune) -> Deployment:
    return tune.stores.deployments.get(MINE, "chat")


def test_its_process_gets_the_version_and_the_options(tune: Tune) -> None:
    """With the threads that a replica would have, and memory for two engines."""
    asked = job(tune)
    inputs = tune.kind().prepare(asked)
    assert (inputs["model"], inputs["digest"], inputs["cores"]) == ("m:1", "d" * 64, 2)
    assert inputs["engine"] == {"name": "genai", "cores": 1, "max_sequences": 8}
    assert inputs["refused"] == {}
    assert (tune.kind().estimate(asked) or 0) > 2 * 192 * 1024 * 1024


def test_nothing_is_written_unless_it_was_asked_for(tune: Tune) -> None:
    result = tune.kind().complete(job(tune), {"changes": CHANGES})
    assert result["applied"] is False
    assert chat(tune).generation == 1


def test_what_is_faster_is_written_once(tune: Tune) -> None:
    """Other options stay; completing twice, as after a crash, changes nothing more."""
    asked = job(tune, apply=True)
    for _ in range(2):
        assert tune.kind().complete(asked, {"changes": CHANGES})["applied"] is True
    assert chat(tune).generation == 2
    assert chat(tune).engine == EngineOptions(
        "genai", cores=2, max_sequences=8, prompt_lookup=PromptLookup(3, 5)
    )


def test_what_its_replicas_have_no_memory_for_is_not_written(tune: Tune) -> None:
    """Refused as where it is put; the figures are there all the same."""
    result = (
        replace(tune, budget=lambda: 1 << 20)
        .kind()
        .complete(job(tune, apply=True), {"changes": CHANGES})
    )
    assert (result["applied"], result["changes"]) == (False, CHANGES)
    assert result["apply_error"]["code"] == Code.INVALID_FIELD
    assert "all replicas together may have" in result["apply_error"]["message"]
    assert chat(tune).generation == 1


def test_a_deployment_that_was_changed_meanwhile_is_left_alone(tune: Tune) -> None:
    """What was measured was another one; the figures are there all the same."""
    asked = job(tune, apply=True)
    tune.stores.deployments.put(replace(chat(tune), timeout_ms=5))
    result = tune.kind().complete(asked, {"changes": CHANGES})
    assert result["applied"] is False
    assert result["apply_error"]["code"] == Code.PRECONDITION_FAILED
    assert chat(tune).engine.cores is None


def test_a_prefix_cache_is_not_tried_where_others_may_call(tune: Tune) -> None:
    tune.stores.deployments.put(replace(chat(tune), access=("other",)))
    assert "tenants" in tune.kind().prepare(job(tune))["refused"]["prefix_cache"]


def test_nothing_is_tried_that_does_not_go_with_adapters(tune: Tune) -> None:
    tune.stores.deployments.put(replace(chat(tune), adapters=(Adapter("polite", "p:1"),)))
    refused = tune.kind().prepare(job(tune))["refused"]
    assert set(refused) == {"prefix_cache", "prompt_lookup", "draft_model"}


def test_a_draft_that_is_named_is_pinned_and_tried(tune: Tune) -> None:
    """With memory for it in both engines, and written when it is what is faster."""
    asked = job(tune, draft_model="small", apply=True)
    draft = Draft("small:1", 3, "d" * 64, 1 << 20)
    assert asked.spec["draft_model"] == asdict(draft)
    assert tune.kind().prepare(asked)["drafts"] == ["d" * 64]
    more = (tune.kind().estimate(asked) or 0) - (tune.kind().estimate(job(tune)) or 0)
    assert more >= 2 * 2 * (1 << 20)
    tune.stores.deployments.put(replace(chat(tune), engine=replace(
        chat(tune).engine, prompt_lookup=PromptLookup(3, 5))))  # fmt: skip
    asked = job(tune, draft_model={"model": "small:1", "num_assistant_tokens": 2}, apply=True)
    changes = {"draft_model": asked.spec["draft_model"], "prompt_lookup": None}
    assert tune.kind().complete(asked, {"changes": changes})["applied"] is True
    engine = chat(tune).engine
    assert engine.draft_model == replace(draft, num_assistant_tokens=2)
    assert engine.prompt_lookup is None


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"draft_model": "m:1"}, Code.INVALID_FIELD),  # no IR
        ({"draft_model": "rows:1"}, Code.INVALID_FIELD),
        ({"draft_model": "none:1"}, Code.NOT_FOUND),
        ({"draft_model": True}, Code.INVALID_FIELD),
        ({"settings": ["draft_model"]}, Code.INVALID_FIELD),
    ],
)
def test_a_draft_that_cannot_be_is_refused(tune: Tune, more: dict[str, Any], code: Code) -> None:
    with pytest.raises(MeuseError) as caught:
        job(tune, **more)
    assert (caught.value.field, caught.value.code) == ("draft_model", code)


def test_no_draft_is_tried_beside_adapters(tune: Tune) -> None:
    tune.stores.deployments.put(replace(chat(tune), adapters=(Adapter("polite", "p:1"),)))
    with pytest.raises(MeuseError, match="switch adapters") as caught:
        job(tune, draft_model="small:1")
    assert caught.value.field == "draft_model"


def test_only_language_models_of_ours_are_tuned(tune: Tune) -> None:
    with pytest.raises(MeuseError, match="no language model") as caught:
        tune.kind().check(MINE, {"deployment": "rows"})
    assert caught.value.field == "deployment"
