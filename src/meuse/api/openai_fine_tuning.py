"""`/v1/fine_tuning/jobs` as OpenAI has it.

Each is a job of the kind `train` with a recipe for language models, and the other way round:
what is made here is seen at `/api/jobs`, and what is made there is seen here, by the same id.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from meuse.api import tuning_objects as objects
from meuse.api.context import Body, Control, Parts, requires
from meuse.api.jobs import check_deploy, submit
from meuse.api.openai_files import After, page
from meuse.api.tuning_bases import base_of
from meuse.core.errors import MeuseError, invalid, not_found
from meuse.core.ids import check_name, new_id
from meuse.core.nouns import Job, Principal, Scope
from meuse.core.tuning import FIELD, FineTuning
from meuse.gateway.openai import checks, parameters
from meuse.train import recipes
from meuse.train.llm.spec import is_tuning

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["openai"])
Caller = Annotated[Principal, requires("train")]
Limit = Annotated[int, Query(ge=1, le=100)]

RECIPE = "llm-lora"
PURPOSE = "fine-tune"
_SCAN = 200
_RECIPES = '"recipe": "llm-'
_METADATA = '"metadata": {"'
"""In the specs of fine-tuning jobs, and of those with metadata."""
_MAX_SEED = 2**31 - 1


@router.post("")
def create(parts: Parts, caller: Caller, body: Body) -> dict[str, Any]:
    """Fine-tune a model: {model, training_file, validation_file?, suffix?, seed?, method?,
    metadata?}. Nothing is kept when something is wrong with it."""
    given = parameters.read(parameters.FINE_TUNING, body)
    hyperparameters = _hyperparameters(given)
    job_id = new_id("job")
    base, deployment = base_of(parts, caller.scope, given["model"])
    label = given.get("suffix") or f"ft-{job_id[-8:]}"
    tuning = FineTuning(
        given["model"], given.get("suffix"), given.get("metadata"), hyperparameters,
        deployment, None if deployment is None else label,
    )  # fmt: skip
    spec = {
        "recipe": RECIPE,
        "model_name": _model_name(base.model, label),
        "base": base.ref,
        "data": _file(parts, caller.scope, given["training_file"], "training_file"),
        "seed": given.get("seed", secrets.randbelow(_MAX_SEED)),
        **_settings(hyperparameters),
        FIELD: tuning.to_dict(),
    }
    if "validation_file" in given:
        spec["validation"] = _file(parts, caller.scope, given["validation_file"], "validation_file")
    try:
        return objects.describe(submit(parts, caller, "train", spec, job_id=job_id))
    except MeuseError as error:
        raise MeuseError(
            error.code, error.message, field=objects.param_of(error.field), hint=error.hint,
            retry_after_s=error.retry_after_s,
        ) from None  # fmt: skip


def _hyperparameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """From their old place or their new one. Raises `invalid_field` where both speak."""
    old, new = given.get("hyperparameters", {}), given.get("method", {})
    for name in old:
        if name in new and new[name] != old[name]:
            raise invalid(
                f"hyperparameters.{name}",
                f"method.supervised.hyperparameters.{name} says otherwise",
                "Send it once.",
            )
    return {**old, **new}


def _settings(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Of the job's spec; what is left out is left to the recipe."""
    found = {}
    for ours, theirs in (("epochs", "n_epochs"), ("batch_size", "batch_size")):
        if theirs in hyperparameters:
            found[ours] = hyperparameters[theirs]
    if "learning_rate_multiplier" in hyperparameters:
        recipe = recipes.find(RECIPE)
        found["learning_rate"] = recipe.options({}).rate * float(
            hyperparameters["learning_rate_multiplier"]
        )
    return found


def _model_name(base: str, label: str) -> str:
    try:
        return check_name(f"{base}-{label}")
    except MeuseError:
        raise invalid(
            "suffix", f"the model would be called {base}-{label}, which is too long", "Shorten it."
        ) from None


def _file(parts: Control, scope: Scope, file_id: str, param: str) -> str:
    try:
        file = parts.files.get(scope, file_id)
    except MeuseError as error:
        raise MeuseError(error.code, error.message, field=param) from None
    if file.purpose != PURPOSE:
        raise invalid(param, f"the file's purpose is {file.purpose!r}, not {PURPOSE!r}")
    return file.id


@router.get("")
def listing(
    request: Request, parts: Parts, caller: Caller, after: After = None, limit: Limit = 20
) -> dict[str, Any]:
    """The project's jobs, newest first; `after` is the last id of the page before, and
    `metadata[key]=value` leaves those that have all of it, `metadata=null` those without."""
    if after is not None:
        _check_after(parts, caller.scope, after)
    found = islice(_jobs(parts, caller.scope, after, _wanted(request)), limit + 1)
    return page([objects.describe(job) for job in found], limit)


def _check_after(parts: Control, scope: Scope, after: str) -> None:
    try:
        job = parts.jobs.get(scope, after)
    except MeuseError:
        job = None
    if job is None or not _is_tuning(job):
        raise invalid("after", f"{after!r} is not the id of a fine-tuning job")


def _wanted(request: Request) -> dict[str, str] | None:
    """The metadata that jobs shall have; None: that they shall have none."""
    wanted = {}
    for name, value in request.query_params.items():
        if name.startswith("metadata[") and name.endswith("]"):
            wanted[name[len("metadata[") : -1]] = value
        elif name == "metadata" and value == "null":
            return None
    return checks.metadata(wanted, "metadata")


def _jobs(
    parts: Control, scope: Scope, before: str | None, wanted: Mapping[str, str] | None
) -> Iterator[Job]:
    """Fine-tuning jobs with this metadata, newest first. The store is asked for what their specs
    say at least, so that no other job is read, however many there are."""
    saying, lacking = [_RECIPES], [_METADATA]
    if wanted is not None:
        saying += [json.dumps({name: value})[1:-1] for name, value in wanted.items()]
        lacking = []
    while found := parts.jobs.page(scope, _SCAN, before, "train", saying=saying, lacking=lacking):
        yield from (job for job in found if _is_tuning(job) and _has(job, wanted))
        before = found[-1].id


def _has(job: Job, wanted: Mapping[str, str] | None) -> bool:
    metadata = objects.tuning_of(job).metadata or {}
    return not metadata if wanted is None else wanted.items() <= metadata.items()


def _is_tuning(job: Job) -> bool:
    return job.kind == "train" and is_tuning(job.spec.get("recipe"))


def _one(parts: Control, caller: Principal, job_id: str) -> Job:
    job = parts.jobs.get(caller.scope, job_id)
    if not _is_tuning(job):
        raise not_found("fine-tuning job", job_id)
    return job


@router.get("/{job_id}")
def one(parts: Parts, caller: Caller, job_id: str) -> dict[str, Any]:
    return objects.describe(_one(parts, caller, job_id))


@router.post("/{job_id}/cancel")
def cancel(parts: Parts, caller: Caller, job_id: str) -> dict[str, Any]:
    """Stop a job for good. 409 when it has ended."""
    return objects.describe(parts.queue.cancel(_one(parts, caller, job_id)))


@router.post("/{job_id}/pause")
def pause(parts: Parts, caller: Caller, job_id: str) -> dict[str, Any]:
    """Ask a job to keep a checkpoint and stop for now. 409 when it has ended."""
    return objects.describe(parts.queue.pause(_one(parts, caller, job_id)))


@router.post("/{job_id}/resume")
def resume(parts: Parts, caller: Caller, job_id: str) -> dict[str, Any]:
    """Let a paused job go on from its checkpoint. 409 while it is still pausing, and when it
    has ended."""
    job = _one(parts, caller, job_id)
    check_deploy(caller, job.spec)
    return objects.describe(parts.queue.resume(job))


@router.get("/{job_id}/events")
def events(
    parts: Parts, caller: Caller, job_id: str, after: After = None, limit: Limit = 20
) -> dict[str, Any]:
    """What the job said, newest first; `after` is the last id of the page before."""
    job = _one(parts, caller, job_id)
    before = None if after is None else objects.seq_of(after)
    if after is not None and before is None:
        raise invalid("after", f"{after!r} is not the id of an event")
    if before == 0:
        return page([], limit)
    latest = parts.jobs.latest(job.id, before, limit + 1, objects.EVENT_KINDS)
    found = [objects.event(job, said) for said in latest]
    if len(found) <= limit:
        found.append(objects.created(job))
    return page(found, limit)


@router.get("/{job_id}/checkpoints")
def checkpoints(
    parts: Parts, caller: Caller, job_id: str, after: After = None, limit: Limit = 10
) -> dict[str, Any]:
    """What came of the job, once it has succeeded: those on its way are for its own use."""
    job = _one(parts, caller, job_id)
    if objects.fine_tuned(job) is None or after is not None:
        return page([], limit)
    return page([objects.checkpoint(job, _metrics(parts, job))], limit)


def _metrics(parts: Control, job: Job) -> Iterator[Mapping[str, Any]]:
    """What its metrics events say, newest first."""
    before = None
    while found := parts.jobs.latest(job.id, before, _SCAN, ("metrics",)):
        yield from (said.data for said in found)
        before = found[-1].seq
