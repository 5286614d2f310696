"""Fine-tuning jobs, their events and checkpoints as OpenAI shows them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from meuse.core.nouns import Job, JobEvent
from meuse.core.states import JobStatus
from meuse.core.tuning import FIELD, FineTuning
from meuse.train import recipes

VALIDATING = "validating"
"""What the note of a job begins with while it reads its files."""

PARAMS = {
    "base": "model",
    "data": "training_file",
    "validation": "validation_file",
    "epochs": "hyperparameters.n_epochs",
    "batch_size": "hyperparameters.batch_size",
    "learning_rate": "hyperparameters.learning_rate_multiplier",
    "model_name": "suffix",
    "deploy": "model",
}
"""What a field of a job's spec is called here."""

EVENT_KINDS = ("status", "metrics", "log")
_LEVELS = {"warning": "warn", "error": "error"}
_STORY = {
    "queued": "Fine-tuning job queued",
    "running": "Fine-tuning job started",
    "paused": "Fine-tuning job paused",
    "succeeded": "The job has successfully completed",
    "failed": "The job failed",
    "cancelled": "The job was cancelled",
}
_FIGURES = {
    "train_loss": "train_loss",
    "train_accuracy": "train_mean_token_accuracy",
    "validation_loss": "valid_loss",
    "validation_accuracy": "valid_mean_token_accuracy",
}
"""What a figure of the recipe is called here."""
_SAID = {
    "train_loss": "training loss",
    "valid_loss": "validation loss",
}


def tuning_of(job: Job) -> FineTuning:
    """How it was asked for; of one that was made as a native job, what its spec says."""
    given = job.spec.get(FIELD)
    return FineTuning(str(job.spec["base"])) if given is None else FineTuning.from_dict(given)


def param_of(field: str | None) -> str | None:
    """The parameter that a field of the spec was made of."""
    if field is None:
        return None
    head = field.partition(".")[0].partition("[")[0]
    return PARAMS.get(head, field)


def describe(job: Job) -> dict[str, Any]:
    """The `fine_tuning.job`."""
    tuning, result = tuning_of(job), job.result or {}
    hyperparameters = _hyperparameters(job, tuning)
    running = job.status is JobStatus.RUNNING and "ends_ms" in job.live
    succeeded = job.status is JobStatus.SUCCEEDED
    return {
        "object": "fine_tuning.job",
        "id": job.id,
        "model": tuning.model,
        "created_at": job.created_ms // 1000,
        "finished_at": None if job.ended_ms is None else job.ended_ms // 1000,
        "fine_tuned_model": fine_tuned(job),
        "organization_id": job.scope.tenant,
        "result_files": [result["result_file"]] if "result_file" in result else [],
        "status": _status(job),
        "validation_file": job.spec.get("validation"),
        "training_file": job.spec["data"],
        "hyperparameters": hyperparameters,
        "trained_tokens": trained_tokens(job) if succeeded else None,
        "error": _error(job),
        "integrations": [],
        "seed": job.spec.get("seed", 0),
        "estimated_finish": job.live["ends_ms"] // 1000 if running else None,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        "metadata": tuning.metadata,
        "user_provided_suffix": tuning.suffix,
    }


def fine_tuned(job: Job) -> str | None:
    """The name of what came of it; None until it has succeeded, and of one that only checks."""
    result = job.result or {}
    if job.status is not JobStatus.SUCCEEDED:
        return None
    name: str | None = result.get("fine_tuned_model") or result.get("model")
    return name


def trained_tokens(job: Job) -> int | None:
    """As they were metered; of jobs from before that was kept, those last told."""
    said = (job.result or {}).get("trained_tokens", job.metrics.get("trained_tokens"))
    return None if said is None else int(said)


def _hyperparameters(job: Job, tuning: FineTuning) -> dict[str, Any]:
    """As they are, where the recipe has settled what was left to it."""
    given = tuning.hyperparameters
    return {
        "n_epochs": job.spec.get("epochs", given.get("n_epochs", "auto")),
        "batch_size": job.spec.get("batch_size", given.get("batch_size", "auto")),
        "learning_rate_multiplier": given.get("learning_rate_multiplier", _multiplier(job)),
    }


def _multiplier(job: Job) -> float:
    """How many times the rate that the recipe has by itself."""
    rate = job.spec.get("learning_rate")
    if rate is None:
        return 1.0
    chosen = {"optimizer": job.spec.get("optimizer")}
    usual = recipes.find(job.spec["recipe"]).options(chosen).rate
    return float(f"{rate / usual:.6g}")


def _status(job: Job) -> str:
    if job.status is JobStatus.RUNNING and str(job.live.get("note")).startswith(VALIDATING):
        return "validating_files"
    return str(job.status)


def _error(job: Job) -> dict[str, Any] | None:
    """With the code that OpenAI has for a file that cannot be learned from."""
    told = job.error
    if job.status is not JobStatus.FAILED or told is None:
        return None
    code, param = told.get("code"), param_of(told.get("field"))
    if code == "invalid_data" and param in ("training_file", "validation_file"):
        code = f"invalid_{param}"
    message, hint = told.get("message", ""), told.get("hint")
    text = f"{message[:1].upper()}{message[1:]}{f'. {hint}' if hint else ''}"
    return {"code": code, "message": text, "param": param}


# -- events ------------------------------------------------------------------------------


def event_id(job: Job, seq: int) -> str:
    return f"ftevent-{job.id.rpartition('-')[2]}-{seq}"


def seq_of(event: str) -> int | None:
    """The number in the id of an event; None when it is no such id."""
    number = event.rpartition("-")[2]
    return int(number) if number.isascii() and number.isdigit() and len(number) < 19 else None


def created(job: Job) -> dict[str, Any]:
    """The first of all events, which no store has."""
    return _event(job, 0, job.created_ms, "info", f"Created fine-tuning job: {job.id}")


def event(job: Job, said: JobEvent) -> dict[str, Any]:
    """One of the kinds in `EVENT_KINDS`."""
    data = said.data
    if said.kind == "metrics":
        figures = metrics_of(data)
        message = _step(data, figures)
        return _event(job, said.seq, said.ts_ms, "info", message, figures)
    if said.kind == "log":
        level = _LEVELS.get(str(data.get("level")), "info")
        return _event(job, said.seq, said.ts_ms, level, str(data.get("message", "")))
    status = str(data.get("status"))
    message, level = _STORY.get(status, status), "info"
    if status == "failed":
        level = "error"
        if job.status is JobStatus.FAILED and (error := _error(job)):
            message = f"{message}: {error['message']}"
    elif status == "succeeded" and (name := fine_tuned(job)):
        message = f"New fine-tuned model created: {name}. {message}"
    return _event(job, said.seq, said.ts_ms, level, message)


def _event(
    job: Job, seq: int, ms: int, level: str, message: str, data: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "object": "fine_tuning.job.event",
        "id": event_id(job, seq),
        "created_at": ms // 1000,
        "level": level,
        "message": message,
        "type": "message" if data is None else "metrics",
        "data": data or {},
    }


def metrics_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """A metrics event by OpenAI's names; figures that it has no name for keep theirs."""
    found = {_FIGURES.get(name, name): value for name, value in data["figures"].items()}
    step = {"step": data["step"]} if "step" in data else {}
    total = {"total_steps": data["steps"]} if "steps" in data else {}
    return {**step, **total, **found}


def _step(data: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    of = f"/{data['steps']}" if "steps" in data else ""
    where = f"Step {data['step']}{of}" if "step" in data else "Figures"
    said = [f"{word}={figures[name]:.2f}" for name, word in _SAID.items() if name in figures]
    said = said or [f"{name}={value:.4g}" for name, value in data["figures"].items()]
    return f"{where}: {', '.join(said)}"


# -- checkpoints and the file of results --------------------------------------------------


def checkpoint(job: Job, events: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The one that a job leaves for use: its result. `events`: its metrics events, newest first,
    of which those of the update whose weights were kept count; the last, where it does not say."""
    step = (job.result or {}).get("best_update")
    metrics: dict[str, Any] = {}
    for data in events:
        if "step" not in data or is_of_epoch(data):
            continue
        step = int(data["step"]) if step is None else step
        if data["step"] < step:
            break
        if data["step"] == step:
            metrics = {**metrics_of(data), **metrics}
    shown = {name: metrics[name] for name in _FIGURES.values() if name in metrics}
    step = step or 0
    return {
        "object": "fine_tuning.job.checkpoint",
        "id": f"ftckpt-{job.id.rpartition('-')[2]}",
        "created_at": (job.ended_ms or job.updated_ms) // 1000,
        "fine_tuned_model_checkpoint": fine_tuned(job),
        "fine_tuning_job_id": job.id,
        "metrics": {**shown, "step": step},
        "step_number": step,
    }


COLUMNS = (
    "step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy",
)  # fmt: skip
_IN_COLUMN = {"train_accuracy": "train_mean_token_accuracy"}


def is_of_epoch(data: Mapping[str, Any]) -> bool:
    """Whether a metrics event is about a whole epoch: beside those of its last update, it has
    means over all of them by the same names."""
    return "epoch" in data


def table(events: Iterator[Mapping[str, Any]]) -> str:
    """Metrics events as CSV, a line for each step, empty where nothing was said."""
    rows: dict[int, dict[str, Any]] = {}
    for data in events:
        figures = metrics_of(data)
        if "step" in figures and not is_of_epoch(data):
            rows.setdefault(int(figures["step"]), {}).update(figures)
    lines = [",".join(COLUMNS)]
    for _, figures in sorted(rows.items()):
        cells = (figures.get(_IN_COLUMN.get(name, name), "") for name in COLUMNS)
        lines.append(",".join(str(cell) for cell in cells))
    return "\n".join([*lines, ""])
