"""What an evaluate job of language models is asked to do. Loads no numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from meuse.core.errors import invalid
from meuse.core.fields import choice, integer, known
from meuse.core.references import is_file, parse
from meuse.evaluate.spec import MAX_MODELS, MAX_SEED

METRICS = ("perplexity", "choice", "exact_match")
MAX_TOKENS = 4096
MAX_STOPS = 16
MAX_WINDOW = 1 << 20


@dataclass(frozen=True, slots=True)
class LanguageSpec:
    """Judge `models` on the lines of the file `data`.

    `metrics` empty: all that every line allows. `window` (tokens; None: the smallest context,
    at most 2,048) and `stride` (None: half of it) are those of perplexity; `max_tokens` and
    `stop` end the answers that are written for exact match.
    """

    models: tuple[str, ...]
    data: str
    metrics: tuple[str, ...] = ()
    window: int | None = None
    stride: int | None = None
    max_tokens: int = 64
    stop: tuple[str, ...] = ()
    seed: int = 0

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> LanguageSpec:
        """`model` is short for `models` with one. Raises `invalid_field` naming the field."""
        known(spec, {f.name for f in fields(cls)} | {"model"})
        given = {name: value for name, value in spec.items() if value is not None}
        window, stride = given.get("window"), given.get("stride")
        return cls(
            models=models_of(given),
            data=_file(given.get("data")),
            metrics=_metrics(given.get("metrics", [])),
            window=None if window is None else integer("window", window, 2, MAX_WINDOW),
            stride=None if stride is None else integer("stride", stride, 1, MAX_WINDOW),
            max_tokens=integer("max_tokens", given.get("max_tokens", 64), 1, MAX_TOKENS),
            stop=_stop(given.get("stop", [])),
            seed=integer("seed", given.get("seed", 0), 0, MAX_SEED),
        )

    def to_dict(self) -> dict[str, Any]:
        lists = {name: list(getattr(self, name)) for name in ("models", "metrics", "stop")}
        return {**asdict(self), **lists}


def models_of(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """References as they are written, of `models` or `model`. Raises `invalid_field`."""
    value = spec.get("models")
    if value is None and spec.get("model") is not None:
        return (str(parse(spec["model"], "model")),)
    if spec.get("model") is not None:
        raise invalid("model", "models are named twice", "Give model, or models.")
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_MODELS:
        raise invalid(
            "models", "there is no list of versions", f'1 to {MAX_MODELS}, as ["smollm2:1", …].'
        )
    found = tuple(str(parse(text, f"models[{i}]")) for i, text in enumerate(value))
    if len(set(found)) < len(found):
        raise invalid("models", "a version is named twice")
    return found


def _file(value: object) -> str:
    if not is_file(value):
        raise invalid(
            "data",
            f"{str(value)[:80]!r} is no file",
            "Upload the lines to /v1/files with the purpose fine-tune, and name its id.",
        )
    return str(value)


def _metrics(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise invalid("metrics", "metrics is not a list", f"Of {', '.join(METRICS)}.")
    found = [choice(f"metrics[{i}]", name, METRICS) for i, name in enumerate(value)]
    return tuple(name for name in METRICS if name in found)


def _stop(value: object) -> tuple[str, ...]:
    given = [value] if isinstance(value, str) else value
    found = list(given) if isinstance(given, list | tuple) else [None]
    if len(found) > MAX_STOPS or not all(isinstance(text, str) and text for text in found):
        raise invalid("stop", "stop is no list of texts", f"At most {MAX_STOPS}, none empty.")
    return tuple(map(str, found))
