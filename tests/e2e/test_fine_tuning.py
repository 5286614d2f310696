"""Fine-tuning through the official client: one and the same job as at /api/jobs."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from e2e.conftest import Platform
from e2e.helpers import get, start, succeeded, until
from helpers_llama import chat, checkpoint, jsonl

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SLOW_S = 240.0
ROWS = [chat(f"What is {n}?", f"It is the number {n}.") for n in range(12)]
FEW: Any = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 2.0}


def method(**hyperparameters: Any) -> Any:
    return {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}}


@pytest.fixture(scope="module")
def base(admin: httpx.Client, platform: Platform) -> str:
    """A tiny language model in the registry."""
    folder = platform.home / "import" / "tuned"
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint(folder, width=128)
    job = start(admin, "import", source=f"file:{folder}", model_name="e2e-llama")
    model: str = succeeded(admin, job)["model"]
    return model


@pytest.fixture(scope="module")
def client(platform: Platform) -> Iterator[openai.OpenAI]:
    """With a key that may train and upload, and nothing else."""
    key = platform.key("train", "data")
    with openai.OpenAI(
        api_key=key, base_url=f"{platform.url}/v1", max_retries=0, timeout=60
    ) as made:
        yield made


def uploaded(client: openai.OpenAI, content: bytes, purpose: Any = "fine-tune") -> str:
    return client.files.create(file=("lines.jsonl", content), purpose=purpose).id


@pytest.fixture(scope="module")
def file(client: openai.OpenAI) -> str:
    return uploaded(client, jsonl(ROWS))


def ended(client: openai.OpenAI, job_id: str) -> Any:
    def look() -> Any:
        job = client.fine_tuning.jobs.retrieve(job_id)
        return job if job.status in ("succeeded", "failed", "cancelled") else None

    return until(look, f"{job_id} ends", SLOW_S)


def stands(client: openai.OpenAI, job_id: str, *status: str) -> Any:
    def look() -> Any:
        job = client.fine_tuning.jobs.retrieve(job_id)
        return job if job.status in status else None

    return until(look, f"{job_id} is {status}", SLOW_S)


def test_a_model_is_fine_tuned_from_the_file_to_the_results(
    client: openai.OpenAI, admin: httpx.Client, base: str, file: str
) -> None:
    """Created, followed, ended: the object, its events, its checkpoint, its table; and the same
    job at /api/jobs, and its version in the registry."""
    held_out = uploaded(client, jsonl(ROWS[:2]))
    made = client.fine_tuning.jobs.create(
        model=base, training_file=file, validation_file=held_out, suffix="counts", seed=11,
        method=method(**FEW), metadata={"team": "a", "run": "1"},
    )  # fmt: skip
    assert (made.object, made.model, made.training_file) == ("fine_tuning.job", base, file)
    assert made.status in ("queued", "validating_files", "running")
    assert (made.validation_file, made.seed, made.organization_id) == (held_out, 11, "default")
    assert (made.fine_tuned_model, made.finished_at, made.trained_tokens) == (None, None, None)
    assert (made.result_files, made.error, made.metadata) == ([], None, {"team": "a", "run": "1"})
    with pytest.raises(openai.ConflictError):
        client.files.delete(file)  # it is being read

    done = ended(client, made.id)
    assert done.status == "succeeded", done.error
    assert done.fine_tuned_model == "e2e-llama-counts:1"
    assert done.trained_tokens > 0
    assert done.finished_at >= done.created_at
    assert done.hyperparameters.n_epochs == 2
    assert done.hyperparameters.batch_size == 4
    assert done.hyperparameters.learning_rate_multiplier == 2.0
    assert done.method.type == "supervised"

    native = get(admin, f"/api/jobs/{made.id}")
    assert (native["kind"], native["status"]) == ("train", "succeeded")
    assert native["result"]["model"] == done.fine_tuned_model
    assert native["spec"]["recipe"] == "llm-lora"
    version = get(admin, "/api/models/e2e-llama-counts/versions/1")
    assert version["lineage"]["parent"] == base
    assert version["report"]["generation"]["layout"] == "adapter"

    events = list(client.fine_tuning.jobs.list_events(made.id, limit=3))  # page by page
    assert len({event.id for event in events}) == len(events)
    assert [e.created_at for e in events] == sorted((e.created_at for e in events), reverse=True)
    assert events[-1].message == f"Created fine-tuning job: {made.id}"
    assert "successfully completed" in events[0].message
    said: Any = [event.data for event in events if event.type == "metrics"]
    assert any("train_loss" in data for data in said)
    assert any("valid_loss" in data for data in said)

    [saved] = client.fine_tuning.jobs.checkpoints.list(made.id)
    assert (saved.fine_tuned_model_checkpoint, saved.fine_tuning_job_id) == (
        done.fine_tuned_model, made.id,
    )  # fmt: skip
    best = native["result"]["best_update"]
    assert saved.step_number == saved.metrics.step == best
    assert saved.metrics.valid_loss == native["result"]["metrics"]["validation_loss"]
    assert done.trained_tokens == native["result"]["trained_tokens"]

    [results] = done.result_files
    assert client.files.retrieve(results).purpose == "fine-tune-results"
    text = base64.b64decode(client.files.content(results).text).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [int(row["step"]) for row in rows] == sorted({int(row["step"]) for row in rows})
    assert int(rows[-1]["step"]) == 6
    assert float(rows[-1]["train_loss"]) > 0
    [kept] = [row for row in rows if int(row["step"]) == best]
    assert float(kept["valid_loss"]) == pytest.approx(saved.metrics.valid_loss)


def test_jobs_are_paused_resumed_cancelled_and_listed(
    client: openai.OpenAI, admin: httpx.Client, base: str, file: str
) -> None:
    """By the same client; page by page, by metadata, native ones among them."""
    long = client.fine_tuning.jobs.create(
        model=base, training_file=uploaded(client, jsonl(ROWS * 200)), metadata={"team": "b"},
        method=method(n_epochs=50, batch_size=1),
    )  # fmt: skip
    stands(client, long.id, "running")
    client.fine_tuning.jobs.pause(long.id)
    assert stands(client, long.id, "paused").finished_at is None
    resumed = client.fine_tuning.jobs.resume(long.id)
    assert resumed.status in ("queued", "validating_files", "running")
    stands(client, long.id, "validating_files", "running")
    client.fine_tuning.jobs.cancel(long.id)
    gone = stands(client, long.id, "cancelled")
    assert (gone.fine_tuned_model, gone.error, gone.result_files) == (None, None, [])
    assert gone.finished_at is not None
    for ask in ("cancel", "pause", "resume"):
        with pytest.raises(openai.ConflictError):
            getattr(client.fine_tuning.jobs, ask)(long.id)
    assert list(client.fine_tuning.jobs.checkpoints.list(long.id)) == []
    messages = [event.message for event in client.fine_tuning.jobs.list_events(long.id)]
    assert "Fine-tuning job paused" in messages
    assert messages[0] == "The job was cancelled"

    native = start(admin, "train", recipe="llm-lora", model_name="e2e-llama-native", base=base,
                   data=file, epochs=1)  # fmt: skip
    admin.post(f"/api/jobs/{native}/cancel").raise_for_status()
    listed = [job.id for job in client.fine_tuning.jobs.list(limit=1)]
    assert {long.id, native} <= set(listed)
    assert listed == sorted(listed, reverse=True)
    query: Any = {"team": "b"}
    assert [job.id for job in client.fine_tuning.jobs.list(metadata=query)] == [long.id]
    none = admin.get("/v1/fine_tuning/jobs", params={"metadata": "null"}).json()["data"]
    assert native in [job["id"] for job in none]
    assert all(not job["metadata"] for job in none)
    shown = client.fine_tuning.jobs.retrieve(native)
    assert (shown.model, shown.training_file, shown.metadata) == (base, file, None)


def test_a_deployment_gets_the_adapter_under_the_suffix(
    client: openai.OpenAI, admin: httpx.Client, platform: Platform, base: str, file: str
) -> None:
    """Trained on what the served IR was made of; then it is called by its name, and no other."""
    pytest.importorskip("openvino_genai")
    texts = uploaded(client, jsonl([{"text": "It is the number " + str(n)} for n in range(40)]))
    steps = [{"method": "weights", "precision": "f16"}]
    job = start(admin, "compress", model=base, data=texts, steps=steps, goal={"max_drop": 1.0})
    served = succeeded(admin, job, SLOW_S)["model"]
    engine = {"cache_mb": 16, "max_sequences": 2}
    path = "/api/deployments/e2e-tuned"
    admin.put(path, json={"model": served, "engine": engine}).raise_for_status()
    given: Any = {"model": "e2e-tuned", "training_file": file, "suffix": "counts",
                  "method": method(n_epochs=1)}  # fmt: skip
    with pytest.raises(openai.PermissionDeniedError) as refused:
        client.fine_tuning.jobs.create(**given)  # its key may not deploy
    assert refused.value.param == "model"
    mine = client.with_options(api_key=platform.key("train", "deploy", "infer"))
    made = mine.fine_tuning.jobs.create(**given)
    done = ended(mine, made.id)
    assert (done.status, done.fine_tuned_model) == ("succeeded", "e2e-tuned:counts"), done.error
    native = get(admin, f"/api/jobs/{made.id}")
    assert native["spec"]["base"] == base
    assert get(admin, path)["adapters"] == {"counts": native["result"]["model"]}

    def answered() -> Any:
        try:
            return mine.chat.completions.create(
                model=done.fine_tuned_model,
                max_tokens=2,
                messages=[{"role": "user", "content": "1"}],
            )
        except (openai.NotFoundError, openai.InternalServerError):  # it is on its way
            return None

    answer = until(answered, "the adapter is served", SLOW_S)
    assert answer.model == "e2e-tuned:counts"
    models = {model.id: model.model_extra for model in mine.models.list()}
    assert (models["e2e-tuned:counts"] or {})["parent"] == "e2e-tuned"
    admin.delete(path).raise_for_status()


def test_what_is_wrong_is_named(
    client: openai.OpenAI, admin: httpx.Client, platform: Platform, base: str, file: str
) -> None:
    """With OpenAI's own words; nothing is kept."""
    before = [job.id for job in client.fine_tuning.jobs.list()]
    rows = jsonl(ROWS).splitlines() + jsonl(ROWS).splitlines()
    broken = uploaded(client, b"\n".join([*rows[:16], b"{broken", *rows[17:]]))
    other = uploaded(client, b"{}", purpose="batch")
    good: Any = {"model": base, "training_file": file}
    for change, status, param in (
        ({"model": "nothing"}, 404, "model"),
        ({"model": "e2e-llama:99"}, 404, "model"),
        ({"model": ""}, 400, "model"),
        ({"training_file": "file-none"}, 404, "training_file"),
        ({"training_file": other}, 400, "training_file"),
        ({"validation_file": other}, 400, "validation_file"),
        ({"training_file": broken}, 400, "training_file"),
        ({"validation_file": broken}, 400, "validation_file"),
        ({"suffix": "Two Words"}, 400, "suffix"),
        ({"suffix": "x" * 60}, 400, "suffix"),
        ({"method": {"type": "dpo"}}, 400, "method.type"),
        ({"method": {"type": "reinforcement"}}, 400, "method.type"),
        ({"method": method(n_epochs=99)}, 400, "method.supervised.hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": 2}, "method": method(n_epochs=3)}, 400,
         "hyperparameters.n_epochs"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, 400, "integrations"),
        ({"metadata": {"a": 1}}, 400, "metadata.a"),
        ({"seed": -1}, 400, "seed"),
    ):  # fmt: skip
        with pytest.raises(openai.APIStatusError) as refused:
            client.fine_tuning.jobs.create(**{**good, **change})
        assert (refused.value.status_code, refused.value.param) == (status, param), change
        if broken in change.values():
            assert "line 17" in refused.value.message.lower()
    assert [job.id for job in client.fine_tuning.jobs.list()] == before
    for path in ("", "/events", "/checkpoints"):
        answer = admin.get(f"/v1/fine_tuning/jobs/job-none{path}")
        assert (answer.status_code, answer.json()["error"]["type"]) == (
            404, "invalid_request_error",
        )  # fmt: skip


def test_others_jobs_do_not_exist(
    client: openai.OpenAI, admin: httpx.Client, stranger: httpx.Client, base: str, file: str
) -> None:
    """Nor their files and models; a job of another kind is no fine-tuning job."""
    made = client.fine_tuning.jobs.create(model=base, training_file=file)
    for method_, path in (
        ("GET", ""), ("GET", "/events"), ("GET", "/checkpoints"), ("POST", "/cancel"),
        ("POST", "/pause"), ("POST", "/resume"),
    ):  # fmt: skip
        answer = stranger.request(method_, f"/v1/fine_tuning/jobs/{made.id}{path}")
        assert answer.status_code == 404, path
    assert stranger.get("/v1/fine_tuning/jobs").json()["data"] == []
    body = {"model": base, "training_file": file}
    assert stranger.post("/v1/fine_tuning/jobs", json=body).status_code == 404
    client.fine_tuning.jobs.cancel(made.id)
    other = get(admin, f"/api/models/{base.partition(':')[0]}/versions/1")["lineage"]["job"]
    assert admin.get(f"/v1/fine_tuning/jobs/{other}").status_code == 404
    assert made.id not in [job.id for job in client.fine_tuning.jobs.list(after=made.id)]
