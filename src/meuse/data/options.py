"""How an upload is to be read: what the caller may say where inference would be wrong.

Knows names and values of the options, not who uses them. Values may come as text (query
parameters) or as JSON.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from meuse.core.errors import invalid
from meuse.core.fields import choice, known
from meuse.data.faults import MAX_BYTES

KINDS = ("integer", "float", "string", "image")
ON_ERROR = ("refuse", "skip")
OPTIONS = ("kinds", "missing", "encoding", "delimiter", "on_error", "manifest")


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """`kinds` overrides inference by column; cells equal to one of `missing` are missing.

    `encoding` and `delimiter` are for text formats (None: UTF-8; by format). `on_error` "skip"
    drops broken images and counts them. `manifest` names the archive's table of files and
    labels when it holds several tables. `max_bytes` bounds what is read, uncompressed.
    """

    kinds: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    encoding: str | None = None
    delimiter: str | None = None
    on_error: str = "refuse"
    manifest: str | None = None
    max_bytes: int = MAX_BYTES

    @classmethod
    def from_dict(cls, given: Mapping[str, Any], max_bytes: int = MAX_BYTES) -> ReadOptions:
        """Checked options. Raises `invalid_field` with the option's name."""
        known(given, OPTIONS)
        return cls(
            kinds=_kinds(given.get("kinds")),
            missing=_missing(given.get("missing")),
            encoding=_encoding(given.get("encoding")),
            delimiter=_delimiter(given.get("delimiter")),
            on_error=choice("on_error", given.get("on_error") or "refuse", ON_ERROR),
            manifest=_text("manifest", given.get("manifest")),
            max_bytes=max_bytes,
        )

    def to_dict(self) -> dict[str, Any]:
        """Only what was said, as `from_dict` takes it."""
        said: dict[str, Any] = {
            "kinds": dict(self.kinds),
            "missing": list(self.missing),
            "encoding": self.encoding,
            "delimiter": self.delimiter,
            "on_error": None if self.on_error == "refuse" else self.on_error,
            "manifest": self.manifest,
        }
        return {name: value for name, value in said.items() if value}

    def check_columns(self, names: list[str]) -> None:
        """Refuse an override of a column that is not there."""
        for name in self.kinds:
            if name not in names:
                raise invalid(
                    f"kinds.{name}",
                    f"there is no column {name!r}",
                    f"The columns are: {', '.join(names[:50])}.",
                )


def _kinds(given: Any) -> dict[str, str]:
    """An object, its JSON text, or `age:float,zip:string`."""
    told = 'Use {"zip": "string"}, or zip:string,age:float.'
    if given is None or given == "":
        return {}
    if isinstance(given, str):
        if given.lstrip().startswith("{"):
            try:
                given = json.loads(given)
            except ValueError:
                raise invalid("kinds", "this is not a JSON object", told) from None
        else:
            pairs = [part.rpartition(":") for part in given.split(",")]
            given = {name.strip(): kind.strip() for name, _, kind in pairs}
    if not isinstance(given, Mapping):
        raise invalid("kinds", f"{given!r} is not an object of column and kind", told)
    for name, kind in given.items():
        if not isinstance(name, str) or not name:
            raise invalid("kinds", "an override names no column", told)
        choice(f"kinds.{name}", kind, KINDS)
    return {name: kind.strip().lower() for name, kind in given.items()}


def _missing(given: Any) -> tuple[str, ...]:
    """A list, its JSON text, or `NA,-`."""
    if given is None or given == "":
        return ()
    if isinstance(given, str):
        try:
            given = json.loads(given) if given.lstrip().startswith("[") else given.split(",")
        except ValueError:
            raise invalid(
                "missing", "this is not a JSON list", 'Use ["NA", "-"] or NA,-.'
            ) from None
    if not isinstance(given, list | tuple) or not all(isinstance(word, str) for word in given):
        raise invalid("missing", f"{given!r} is not a list of texts", 'Use ["NA", "-"] or NA,-.')
    return tuple(word.strip() for word in given if word.strip())


def _encoding(given: Any) -> str | None:
    text = _text("encoding", given)
    if text is None:
        return None
    told = "Use one of: utf-8, latin-1, utf-16, windows-1252, …"
    try:
        info = codecs.lookup(text)
        "".encode(info.name)  # base64 and the like are codecs, but not of text
    except (LookupError, ValueError, TypeError):
        raise invalid("encoding", f"{text!r} is not an encoding of text", told) from None
    return info.name


def _delimiter(given: Any) -> str | None:
    if given is None or given == "":
        return None
    named = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "\\t": "\t"}
    mark = named.get(given, given)
    if not isinstance(mark, str) or len(mark) != 1 or not mark.isascii() or mark in '"\r\n\0':
        raise invalid("delimiter", f"{given!r} is not one character", "Use , ; | or tab.")
    return mark


def _text(name: str, given: Any) -> str | None:
    if given is None or given == "":
        return None
    if not isinstance(given, str):
        raise invalid(name, f"{given!r} is not text")
    return given
