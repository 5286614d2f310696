"""A job without a platform: records what work reports and keeps files in a folder.

Satisfies `core.ports.JobContext`; used wherever work of a job child is tested directly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


class RecordedJob:
    """Everything that was reported, in order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.fractions: list[float] = []
        self.figures: list[tuple[dict[str, float], dict[str, Any]]] = []
        self.lines: list[tuple[str, str]] = []
        self.told: list[tuple[float | None, float | None, str | None]] = []
        self.is_paused = False

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def checkpoint(self) -> Path:
        return self._folder / "checkpoint.safetensors"

    def paused(self) -> bool:
        return self.is_paused

    def progress(
        self,
        fraction: float,
        rate: float | None = None,
        unit: str = "rows",
        eta_s: float | None = None,
        note: str | None = None,
    ) -> None:
        self.fractions.append(fraction)
        self.told.append((rate, eta_s, note))

    def metrics(self, figures: dict[str, float], **labels: Any) -> None:
        self.figures.append((figures, labels))

    def log(self, message: str, level: str = "info") -> None:
        self.lines.append((level, message))

    @property
    def text(self) -> str:
        """All log lines as one text."""
        return "\n".join(message for _, message in self.lines)
