"""A job on a terminal: a bar with its pace, the time left and its last figures."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from meuse.client.client import Client

JSON = dict[str, Any]
FIGURES = 3
COUNTED = "trained_tokens"
TUNING = ("train_loss", "validation_loss", "validation_perplexity")
"""Of the many figures of a job that has counted tokens, those that say how it goes."""


class Bar:
    """The state of one job as one line; usable as a context manager."""

    def __init__(self, job: JSON, console: Console) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[pace]}"),
        )
        self._progress = Progress(*columns, console=console, transient=True)
        self._kind = _kind(job)
        self._line: TaskID = self._progress.add_task("", total=1.0, pace="")
        self._figures: dict[str, float] = {}
        self._said: JSON = {}
        self.show(job)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, job: JSON) -> None:
        """The job as `GET /api/jobs/{id}` describes it."""
        self._figures = job["metrics"]
        self._said = {name: job[name] for name in ("rate", "unit", "eta_s", "note")}
        self._update(_state(job), job["progress"])

    def tell(self, kind: str, data: JSON) -> None:
        """An event of the job. Log lines are printed above the bar."""
        if kind == "status":
            self._update(data["status"], None)
        elif kind == "progress":
            self._said = data
            self._update(None, data["fraction"])
        elif kind == "metrics":
            self._figures = {**self._figures, **data["figures"]}
            self._update(None, None)
        elif kind == "log":
            self._progress.console.print(data["message"], markup=False, highlight=False)

    def _update(self, state: str | None, fraction: float | None) -> None:
        changes: JSON = {"pace": pace(self._said, self._figures)}
        if state is not None:
            changes["description"] = f"{self._kind} {state}"
        if fraction is not None:
            changes["completed"] = fraction
        self._progress.update(self._line, **changes)


def follow(client: Client, job_id: str, console: Console) -> JSON:
    """Show a job until it has ended; the job."""
    with Bar(client.job(job_id), console) as bar:
        for kind, data in client.events(job_id):
            bar.tell(kind, data)
    return client.job(job_id)


def summary(job: JSON) -> JSON:
    """One job of a list, short enough for a narrow terminal."""
    left = None if job["eta_s"] is None else duration(job["eta_s"])
    done = f"{job['progress']:.0%}"
    return {
        "id": job["id"], "kind": _kind(job), "status": _state(job), "done": done, "left": left,
    }  # fmt: skip


def _kind(job: JSON) -> str:
    """The kind; of training a language model what people call it."""
    tunes = job["kind"] == "train" and str(job.get("spec", {}).get("recipe")).startswith("llm-")
    return "fine-tune" if tunes else str(job["kind"])


def _state(job: JSON) -> str:
    place = job["queue_position"]
    return str(job["status"]) if place is None else f"{job['status']} #{place}"


def pace(said: JSON, figures: dict[str, float]) -> str:
    """`{rate, unit, eta_s, note}` and the last figures as one line."""
    parts = []
    if said.get("rate") is not None:
        parts.append(f"{said['rate']:,.0f} {said.get('unit') or 'rows'}/s")
    if said.get("eta_s") is not None:
        parts.append(f"{duration(said['eta_s'])} left")
    if said.get("note"):
        parts.append(said["note"])
    told = [name for name in TUNING if name in figures] if COUNTED in figures else list(figures)
    parts += [f"{name} {figures[name]:.4g}" for name in told[-FIGURES:]]
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """`42 s`, `3 min 10 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
