"""What a fine-tuning job was asked through the OpenAI API, as its spec keeps it. Pure.

The job itself is a job like any other, of the kind `train`; this is what OpenAI's words for it
add: the name that `model` had, a suffix, metadata, and where the adapter shall be attached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from meuse.core.errors import invalid
from meuse.core.fields import known
from meuse.core.ids import check_name

FIELD = "fine_tuning"
"""Of the spec of a job of the kind `train`."""


@dataclass(frozen=True, slots=True)
class FineTuning:
    """`model` is as it was given; `hyperparameters` are those that were given, by OpenAI's
    names. `deployment` and `adapter` say where the result is attached; None: nowhere."""

    model: str
    suffix: str | None = None
    metadata: dict[str, str] | None = None
    hyperparameters: dict[str, float] = field(default_factory=dict)
    deployment: str | None = None
    adapter: str | None = None

    @classmethod
    def from_dict(cls, given: object) -> FineTuning:
        """Raises `invalid_field`: a job may be made by others than our own routes."""
        if not isinstance(given, Mapping):
            raise invalid(FIELD, "an object is wanted", "Use POST /v1/fine_tuning/jobs.")
        known(given, [part.name for part in fields(cls)], f"{FIELD}.")
        found = cls(**{"model": "", **given})
        if not isinstance(found.model, str):
            raise invalid(f"{FIELD}.model", "a text is wanted")
        for name, kind in (("metadata", str), ("hyperparameters", int | float)):
            part = getattr(found, name)
            if name == "metadata" and part is None:
                continue
            if not isinstance(part, dict) or not all(isinstance(v, kind) for v in part.values()):
                raise invalid(f"{FIELD}.{name}", "it is no object of plain values")
        for name in ("suffix", "deployment", "adapter"):
            if (value := getattr(found, name)) is not None:
                check_name(value, f"{FIELD}.{name}")
        if (found.deployment is None) != (found.adapter is None):
            raise invalid(f"{FIELD}.adapter", "deployment and adapter are given together")
        return found

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
