"""Work of a job in parts: each with a checkpoint of its own, a finished one never repeated.

Everything is kept in files named `checkpoint-…` in the job's folder, because those stay for a
later attempt.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meuse.core.ports import JobContext


def checkpoint_of(folder: Path, name: str) -> Path:
    """Where a part's checkpoint lies."""
    return folder / f"checkpoint-{name}.safetensors"


def outcome_of(folder: Path, name: str) -> Path:
    """Where lies what a finished part has found."""
    return folder / f"checkpoint-{name}.json"


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a job, as a job: `done` of the whole lies before it and `share` is its own."""

    job: JobContext
    name: str
    done: float
    share: float
    labels: dict[str, Any]

    @property
    def folder(self) -> Path:
        return self.job.folder

    @property
    def checkpoint(self) -> Path:
        return checkpoint_of(self.job.folder, self.name)

    def paused(self) -> bool:
        return self.job.paused()

    def progress(
        self,
        fraction: float,
        rate: float | None = None,
        unit: str = "rows",
        eta_s: float | None = None,
        note: str | None = None,
    ) -> None:
        # The time that is left to the part is not the job's: that follows from its fraction.
        told = f"{self.name}, {note}" if note else self.name
        self.job.progress(self.done + self.share * fraction, rate=rate, unit=unit, note=told)

    def metrics(self, figures: dict[str, float], **labels: Any) -> None:
        self.job.metrics(figures, **labels, **self.labels)

    def log(self, message: str, level: str = "info") -> None:
        self.job.log(f"{self.name}: {message}", level)


def keep(path: Path, digest: str, body: dict[str, Any]) -> None:
    """Write what a part has found: temporary name, fsync, rename."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        json.dump({"digest": digest, "body": body}, file, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def kept(path: Path, digest: str) -> dict[str, Any] | None:
    """What a part has found before; None when it has not, or it was another run's."""
    try:
        said = json.loads(path.read_text())
        body = said["body"] if said["digest"] == digest else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return body if isinstance(body, dict) else None
