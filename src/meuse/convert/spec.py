"""What an import job is asked to do, checked before anything starts. Standard library only."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.fields import choice, known
from meuse.core.ids import check_name

FORMATS = {
    "sklearn": "a scikit-learn estimator, pickled or by joblib",
    "lightgbm": "a LightGBM model as text",
    "mlflow": "a zip or tar of an MLflow model folder",
    "keras": "a .keras file",
    "huggingface": "a zip or tar of a checkpoint folder of transformers",
    "tensorflow": "a zip or tar of a SavedModel folder, or a .keras file that needs TensorFlow",
}
"""What is converted, and what it is."""
TOOLCHAINS = {"tensorflow": "tensorflow"}
"""Formats that are converted in a toolchain (`meuse.runtime.toolchains`), and in which."""

_KNOWN = ("model_name", "format", "source", "classes", "columns")
_HUB = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?(@[\w./-]{1,100})?")


@dataclass(frozen=True, slots=True)
class ImportSpec:
    """`source` has one key: `upload` (the digest of an upload), `path` (in a folder that the
    operator allows) or `hub` (a Hugging Face id, `owner/name@revision`).

    `classes` are labels by index where the file has none; `columns` name the features, or
    say which of them are texts: {"name": "number" | "text"}, in order.
    """

    model_name: str
    format: str
    source: dict[str, str]
    classes: list[str] | None = None
    columns: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> ImportSpec:
        """Raises `invalid_field`."""
        known(spec, _KNOWN)
        format = choice("format", spec.get("format"), tuple(FORMATS))
        return cls(
            check_name(spec.get("model_name"), field="model_name"),
            format,
            _source(spec.get("source"), format),
            _classes(spec.get("classes")),
            _columns(spec.get("columns") or {}),
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _source(value: object, format: str) -> dict[str, str]:
    told = 'Use {"upload": digest}, {"path": file} or {"hub": "owner/name"}.'
    if not isinstance(value, Mapping) or len(value) != 1:
        raise invalid("source", "a source is an object with one key", told)
    ((kind, what),) = value.items()
    if kind not in ("upload", "path", "hub") or not isinstance(what, str) or not what:
        raise invalid("source", f"{kind!r} is not a source", told)
    if kind == "upload" and re.fullmatch(r"[0-9a-f]{64}", what) is None:
        raise invalid("source.upload", f"{what!r} is not a SHA-256 digest")
    if kind == "hub":
        if format != "huggingface":
            raise invalid("source.hub", f"the hub has no models of format {format!r}")
        if _HUB.fullmatch(what) is None:
            raise invalid("source.hub", f"{what!r} is not owner/name or owner/name@revision")
    return {str(kind): what}


def _classes(value: object) -> list[str] | None:
    if value is None:
        return None
    if (
        not isinstance(value, list)
        or not all(isinstance(label, str | int) for label in value)
        or not 2 <= len(set(value)) == len(value) <= 1_000_000
    ):
        raise invalid("classes", "classes is a list of at least two labels, which differ")
    return value


def _columns(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise invalid("columns", "columns is an object", 'Use {"age": "number", "city": "text"}.')
    for name, kind in value.items():
        if not isinstance(name, str) or not name:
            raise invalid("columns", f"{name!r} is not the name of a column")
        choice(f"columns.{name}", kind, ("number", "text"))
    return {str(name): str(kind) for name, kind in value.items()}


def allowed_path(given: str, roots: str, field: str = "source.path") -> Path:
    """The file or folder meant, if it lies in one of the `roots` (parted by colons), links
    resolved. Raises `forbidden`, `not_found`."""
    folders = [Path(root).resolve() for root in roots.split(os.pathsep) if root]
    path = Path(given).resolve()
    if not any(path.is_relative_to(folder) for folder in folders):
        raise MeuseError(
            Code.FORBIDDEN,
            "files are imported from folders that the operator allows, and this is in none",
            field=field,
            hint="Upload the file, or have its folder added to the setting import_folders.",
        )
    if not path.exists():
        raise MeuseError(Code.NOT_FOUND, f"there is no {given}", field=field)
    return path
