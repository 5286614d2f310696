"""Profiles of dataset versions: made in a child process when first asked for, then kept."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from meuse.api.context import Control
from meuse.core.errors import MeuseError, invalid
from meuse.core.nouns import PLAIN_PROFILE, DatasetVersion, Scope
from meuse.data.profile_page import FORMAT
from meuse.data.split_spec import SplitSpec


def profile_of(
    parts: Control, scope: Scope, version: DatasetVersion, target: str | None, split: str | None
) -> dict[str, Any]:
    """The profile (JSON). Raises `invalid_field` for a column that is not there, `invalid_data`
    for what cannot be split so."""
    how = _split(split)
    _check(version, target, how)
    asked = _asked(target, how)
    kept = parts.datasets.profile(scope, version.name, version.version, asked)
    if kept is not None:
        try:
            found: dict[str, Any] = json.loads(parts.blobs.read(scope.tenant, kept))
        except MeuseError:
            found = {}
        if found.get("format") == FORMAT:
            return found
    with tempfile.TemporaryDirectory(dir=parts.uploads, prefix="table-") as folder:
        table, out = Path(folder) / "data", Path(folder) / "profile.json"
        parts.blobs.copy_to(scope.tenant, version.table_digest or version.digest, table)
        options = {
            "format": "table" if version.table_digest else version.format,
            "target": target,
            "split": how.to_dict() if how else None,
        }
        parts.profile(table, out, options)
        made = out.read_bytes()
        with out.open("rb") as file:
            digest, _ = parts.blobs.put(scope.tenant, file)
    parts.datasets.keep_profile(scope, version.name, version.version, asked, digest)
    fresh: dict[str, Any] = json.loads(made)
    return fresh


def _split(text: str | None) -> SplitSpec | None:
    """A spec as JSON, or `by` or `by:column`. Raises `invalid_field`."""
    if not text:
        return None
    if text.lstrip().startswith("{"):
        try:
            return SplitSpec.from_dict(json.loads(text))
        except (ValueError, RecursionError):
            raise invalid(
                "split", "this is not a JSON object", 'Use {"by": "time", "column": "day"}.'
            ) from None
    by, _, column = text.partition(":")
    return SplitSpec.from_dict({"by": by, **({"column": column} if column else {})})


def _check(version: DatasetVersion, target: str | None, split: SplitSpec | None) -> None:
    """What can be said without a child process."""
    names = [column.name for column in version.columns]
    if target is not None and target not in names:
        raise invalid("target", f"{version.ref} has no column {target!r}", f"It has {names[:50]}.")
    if split is not None and target is None:
        raise invalid(
            "target", "a split needs to know the target", f"Say target={names[-1]}, or another."
        )
    if split is not None:
        split.check(version.columns, str(target))


def _asked(target: str | None, split: SplitSpec | None) -> str:
    if target is None:
        return PLAIN_PROFILE
    told = json.dumps([target, split.to_dict() if split else None], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()
