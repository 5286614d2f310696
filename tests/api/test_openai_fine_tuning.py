"""Fine-tuning jobs in OpenAI's words: parameters, the job, its events, checkpoint and results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from starlette.requests import Request

from meuse.api import openai_fine_tuning
from meuse.api import tuning_objects as objects
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Job, JobEvent, Scope
from meuse.core.states import JobStatus
from meuse.core.tuning import FineTuning
from meuse.gateway.openai import parameters
from meuse.store.database import Database
from meuse.store.jobs import SqlJobs
from meuse.train import recipes

FINE_TUNING = FineTuning(
    "chat", "polite", {"team": "a"}, {"learning_rate_multiplier": 0.5}, "chat", "polite"
)
JOB = Job(
    id="job-01", scope=Scope("acme"), kind="train",
    spec={"recipe": "llm-lora", "base": "smollm2:1", "data": "file-1", "validation": "file-2",
          "epochs": 3, "batch_size": 4, "seed": 7, "fine_tuning": FINE_TUNING.to_dict()},
    status=JobStatus.QUEUED, progress=0.0, attempt=1, metrics={}, result=None, error=None,
    cancel_requested=False, created_ms=1_000, updated_ms=7_000,
)  # fmt: skip
DONE = replace(
    JOB, status=JobStatus.SUCCEEDED, ended_ms=9_000, metrics={"trained_tokens": 4096.0},
    result={"model": "smollm2-polite:1", "result_file": "file-3"},
)  # fmt: skip

GOOD: dict[str, Any] = {"model": "smollm2:1", "training_file": "file-1"}
LIST = {"n_epochs": 2, "batch_size": "auto", "learning_rate_multiplier": 0.1}
# Per parameter: values that are taken, and values that are refused by its name.
VALUES: dict[str, tuple[list[Any], list[Any]]] = {
    "model": (["chat", "smollm2@best"], [None, "", 7]),
    "training_file": (["file-1"], [None, "", 7, ["file-1"]]),
    "validation_file": (["file-1", None], ["", 7]),
    "suffix": (["polite", "a.b-c_1", None], ["", "Two Words", "x" * 65, 7, "a:b", "é"]),
    "seed": ([0, 2**31 - 1, None], [-1, 2**31, 1.5, "1"]),
    "hyperparameters": (
        [{}, LIST, {"n_epochs": None}, None],
        [{"n_epochs": 0}, {"n_epochs": 51}, {"n_epochs": "many"}, {"batch_size": 0}, "auto",
         {"batch_size": 1.5}, {"learning_rate_multiplier": 0}, {"learning_rate": 1}, []],
    ),
    "method": (
        [{"type": "supervised"}, {"type": "supervised", "supervised": {}}, None,
         {"type": "supervised", "supervised": {"hyperparameters": LIST}, "dpo": None}],
        [{}, "supervised", {"type": "dpo"}, {"type": "reinforcement", "reinforcement": {}},
         {"type": "supervised", "dpo": {"hyperparameters": {"beta": 0.1}}},
         {"type": "supervised", "supervised": "auto"},
         {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": -1}}}],
    ),
    "metadata": ([{}, {"a": "b"}, None], [[], {"a": 1}, {"a" * 65: ""}, {"a": "b" * 513},
                                          {str(n): "" for n in range(17)}]),
    "integrations": ([[], None], [[{"type": "wandb", "wandb": {"project": "p"}}], {}]),
}  # fmt: skip


@pytest.mark.parametrize("name", parameters.FINE_TUNING)
def test_each_parameter_is_honoured_or_refused_by_name(name: str) -> None:
    good, bad = VALUES[name]
    assert bad, "a parameter that takes everything is not checked"
    for value in good:
        parameters.read(parameters.FINE_TUNING, {**GOOD, name: value})
    for value in bad:
        with pytest.raises(MeuseError) as caught:
            parameters.read(parameters.FINE_TUNING, {**GOOD, name: value})
        assert caught.value.code is Code.INVALID_FIELD
        assert str(caught.value.field).partition(".")[0] == name, value


def test_hyperparameters_keep_what_was_given() -> None:
    method = {"type": "supervised", "supervised": {"hyperparameters": LIST}}
    read = parameters.read(parameters.FINE_TUNING, {**GOOD, "method": method, "later": 1})
    assert read["method"] == {"n_epochs": 2, "learning_rate_multiplier": 0.1}
    assert "later" not in read


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "queued"),
        ({"status": JobStatus.RUNNING, "live": {"note": "validating: 9"}}, "validating_files"),
        ({"status": JobStatus.RUNNING, "live": {"ends_ms": 60_500}}, "running"),
        ({"status": JobStatus.PAUSED}, "paused"),
        ({"status": JobStatus.CANCELLED, "ended_ms": 5_000, "error": {"code": "cancelled"}},
         "cancelled"),
    ],
)  # fmt: skip
def test_a_job_stands_as_it_does(changes: dict[str, Any], status: str) -> None:
    told = objects.describe(replace(JOB, **changes))
    FineTuningJob.construct(**told)
    assert (told["status"], told["error"], told["fine_tuned_model"]) == (status, None, None)
    assert (told["trained_tokens"], told["result_files"]) == (None, [])
    assert told["estimated_finish"] == (60 if "ends_ms" in changes.get("live", {}) else None)
    assert told["finished_at"] == (5 if "ended_ms" in changes else None)


def test_a_job_that_has_succeeded() -> None:
    """The object is one of the official client's, with nothing missing."""
    told = FineTuningJob.model_validate(objects.describe(DONE))
    assert (told.fine_tuned_model, told.trained_tokens) == ("smollm2-polite:1", 4096)
    assert (told.result_files, told.finished_at, told.created_at) == (["file-3"], 9, 1)
    assert (told.model, told.training_file, told.validation_file) == ("chat", "file-1", "file-2")
    assert (told.organization_id, told.seed, told.metadata) == ("acme", 7, {"team": "a"})
    method: Any = told.method
    assert method.supervised.hyperparameters.n_epochs == told.hyperparameters.n_epochs == 3
    assert told.hyperparameters.batch_size == 4
    assert told.hyperparameters.learning_rate_multiplier == 0.5
    attached = {**(DONE.result or {}), "fine_tuned_model": "chat:polite"}
    assert objects.describe(replace(DONE, result=attached))["fine_tuned_model"] == "chat:polite"


def test_a_native_job_is_shown_as_well() -> None:
    """Its model is its base; what OpenAI's words alone can say is null."""
    spec = {name: value for name, value in JOB.spec.items() if name != "fine_tuning"}
    told = objects.describe(replace(JOB, spec=spec))
    assert (told["model"], told["metadata"], told["user_provided_suffix"]) == (
        "smollm2:1", None, None,
    )  # fmt: skip
    assert told["hyperparameters"]["learning_rate_multiplier"] == 1.0


@pytest.mark.parametrize("recipe", ["llm-lora", "llm-full"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_native_jobs_rate_is_told_as_a_multiple_of_the_recipes(
    recipe: str, optimizer: str
) -> None:
    """The very number that, sent back, gives the same rate."""
    usual = recipes.find(recipe).options({"optimizer": optimizer}).rate
    spec = {**JOB.spec, "recipe": recipe, "optimizer": optimizer, "learning_rate": 1.5 * usual}
    del spec["fine_tuning"]
    told = objects.describe(replace(JOB, spec=spec))
    assert told["hyperparameters"]["learning_rate_multiplier"] == 1.5


@pytest.mark.parametrize(
    ("error", "code", "param"),
    [
        ({"code": "invalid_data", "field": "data", "message": "line 17: no JSON"},
         "invalid_training_file", "training_file"),
        ({"code": "invalid_data", "field": "validation.line 3", "message": "line 3: empty"},
         "invalid_validation_file", "validation_file"),
        ({"code": "budget_exceeded", "field": None, "message": "spent"}, "budget_exceeded", None),
    ],
)  # fmt: skip
def test_a_failure_names_the_file(error: dict[str, Any], code: str, param: str | None) -> None:
    told = objects.describe(replace(JOB, status=JobStatus.FAILED, error=error, ended_ms=1))
    assert (told["error"]["code"], told["error"]["param"]) == (code, param)
    assert error["message"][1:] in told["error"]["message"]


def test_events_are_told_in_openais_words() -> None:
    figures = {"train_loss": 1.25, "validation_loss": 1.5, "learning_rate": 1e-4}
    said = [
        JobEvent(1, 2_000, "status", {"status": "running"}),
        JobEvent(2, 3_000, "metrics", {"figures": figures, "step": 5, "steps": 9}),
        JobEvent(3, 4_000, "log", {"level": "warning", "message": "slow"}),
        JobEvent(4, 5_000, "status", {"status": "succeeded"}),
    ]
    told = [objects.created(DONE), *(objects.event(DONE, each) for each in said)]
    for each in told:
        FineTuningJobEvent.model_validate(each)
    assert [each["created_at"] for each in told] == [1, 2, 3, 4, 5]
    assert [each["type"] for each in told] == ["message"] * 2 + ["metrics"] + ["message"] * 2
    assert [objects.seq_of(each["id"]) for each in told] == [0, 1, 2, 3, 4]
    assert told[2]["message"] == "Step 5/9: training loss=1.25, validation loss=1.50"
    assert told[2]["data"] == {
        "step": 5, "total_steps": 9, "train_loss": 1.25, "valid_loss": 1.5, "learning_rate": 1e-4,
    }  # fmt: skip
    assert (told[3]["level"], told[3]["message"]) == ("warn", "slow")
    assert "smollm2-polite:1" in told[4]["message"]
    broken = {"code": "invalid_data", "field": "data", "message": "line 17: no JSON"}
    failed = replace(JOB, status=JobStatus.FAILED, error=broken)
    last = objects.event(failed, JobEvent(1, 1, "status", {"status": "failed"}))
    assert (last["level"], "Line 17" in last["message"]) == ("error", True)
    assert objects.seq_of("ftevent-x") is None


def test_results_are_a_table_and_the_checkpoint_has_those_of_the_weights_kept() -> None:
    said: list[dict[str, Any]] = [
        {"figures": {"train_loss": 2.0}, "step": 1},
        {"figures": {"train_loss": 1.0, "train_accuracy": 0.5}, "step": 2},
        {"figures": {"validation_loss": 1.5}, "step": 2},
        {"figures": {"train_loss": 1.5, "validation_loss": 1.5}, "epoch": 1, "step": 2},
        {"figures": {"perplexity": 3.0}},
        {"figures": {"validation_loss": 1.75}, "step": 4},
    ]
    assert objects.table(iter(said)).splitlines() == [
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy",
        "1,2.0,,,",
        "2,1.0,0.5,1.5,",
        "4,,,1.75,",
    ], "what is told of an epoch is not its last update's"
    kept = replace(DONE, result={**(DONE.result or {}), "best_update": 2, "trained_tokens": 5000})
    told = FineTuningJobCheckpoint.model_validate(objects.checkpoint(kept, reversed(said)))
    assert (told.step_number, told.metrics.step, told.metrics.valid_loss) == (2, 2, 1.5)
    assert (told.metrics.train_loss, told.metrics.train_mean_token_accuracy) == (1.0, 0.5)
    assert objects.describe(kept)["trained_tokens"] == 5000, "what was metered, not last told"
    last = FineTuningJobCheckpoint.model_validate(objects.checkpoint(DONE, reversed(said)))
    assert (last.step_number, last.metrics.valid_loss) == (4, 1.75)
    assert told.fine_tuned_model_checkpoint == "smollm2-polite:1"
    assert told.fine_tuning_job_id == DONE.id


@pytest.mark.parametrize(
    "given",
    [
        "chat", {"nothing": 1}, {"model": 7}, {"metadata": []}, {"metadata": {"a": [1]}},
        {"suffix": "Two Words"}, {"deployment": "chat"}, {"hyperparameters": 3},
    ],
)  # fmt: skip
def test_what_a_native_job_may_not_say_is_refused(given: Any) -> None:
    with pytest.raises(MeuseError) as caught:
        FineTuning.from_dict(given)
    assert str(caught.value.field).startswith("fine_tuning")


class Store(SqlJobs):
    """Which jobs were read off it."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.read: list[str] = []

    def page(self, *given: Any, **asked: Any) -> list[Job]:
        found = super().page(*given, **asked)
        self.read += [job.id for job in found]
        return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """One fine-tuning in five, and one in fifty with `team`, the oldest of them of `b`."""
    database = Database(f"sqlite:///{tmp_path}/meuse.db")
    database.migrate("meuse")
    store = Store(database)
    for n in range(100):
        team = {0: {"team": "b", "run": "1"}, 50: {"team": "a"}}.get(n)
        told = FineTuning("chat", metadata=team).to_dict()
        tuning = {**JOB.spec, "fine_tuning": told}
        spec = {"recipe": "mlp"} if n % 5 else tuning
        store.add(replace(JOB, id=f"job-{n:02}", spec=spec))
    return store


def listed(store: Store, query: str, after: str | None = None, limit: int = 20) -> dict[str, Any]:
    parts: Any = SimpleNamespace(jobs=store)
    caller: Any = SimpleNamespace(scope=JOB.scope)
    request = Request({"type": "http", "query_string": quote(query, "=&").encode()})
    store.read.clear()
    return openai_fine_tuning.listing(request, parts, caller, after, limit)


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("metadata[team]=b", ["job-00"]),
        ("metadata[team]=b&metadata[run]=1", ["job-00"]),
        ("metadata[team]=B", []),
        ("metadata[team]=c", []),
        ("metadata[tea]=m", []),
        ("metadata[team]=%", []),
    ],
)
def test_jobs_are_found_by_metadata_without_reading_others(
    store: Store, query: str, ids: list[str]
) -> None:
    found = listed(store, query)
    assert [job["id"] for job in found["data"]] == ids
    assert len(store.read) <= 1, "the store sent jobs that say nothing of the kind"


def test_jobs_are_listed_page_by_page(store: Store) -> None:
    first = listed(store, "", limit=12)
    second = listed(store, "", first["last_id"], limit=12)
    assert (first["has_more"], second["has_more"]) == (True, False)
    ids = [job["id"] for page in (first, second) for job in page["data"]]
    assert ids == [f"job-{n:02}" for n in range(95, -1, -5)]
    assert len(listed(store, "metadata=null")["data"]) == 18
    assert len(store.read) == 18
    for after in ("job-99", "job-01", "nothing", "file-1"):
        with pytest.raises(MeuseError) as caught:
            listed(store, "", after)
        assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "after")
    with pytest.raises(MeuseError, match="up to 512"):
        listed(store, f"metadata[team]={'x' * 513}")
