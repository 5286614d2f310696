"""References: `name`, `name:3`, `name@champion`. What they mean is the stores' to say."""

from __future__ import annotations

import re
from dataclasses import dataclass

from meuse.core.errors import invalid
from meuse.core.ids import check_name

_FILE = re.compile(r"file-[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Reference:
    """At most one of `version` and `alias`; neither means the latest version."""

    name: str
    version: int | None = None
    alias: str | None = None

    def __str__(self) -> str:
        if self.alias is not None:
            return f"{self.name}@{self.alias}"
        return self.name if self.version is None else f"{self.name}:{self.version}"


def parse(text: object, field: str = "model") -> Reference:
    """A version of a model. Raises `invalid_field` naming `field`."""
    if not isinstance(text, str) or not text:
        raise invalid(
            field, "a reference is missing", 'Such as "digits:2", or "digits@champion" for a model.'
        )
    name, at, alias = text.partition("@")
    if at:
        return Reference(check_name(name, field), alias=check_name(alias, field))
    name, colon, number = text.partition(":")
    check_name(name, field)
    if not colon:
        return Reference(name)
    plain = number.isascii() and number.isdigit() and len(number) < 11
    if not plain or not 0 < int(number) < 2**31:
        raise invalid(field, f"{text!r} has no version number", 'Such as "digits:2".')
    return Reference(name, version=int(number))


def is_file(text: object) -> bool:
    """Whether this is an id of `/v1/files`."""
    return isinstance(text, str) and _FILE.fullmatch(text) is not None


def parse_data(text: object, field: str = "data") -> Reference:
    """A version of a dataset: `name` or `name:3`. Raises `invalid_field` naming `field`."""
    reference = parse(text, field)
    if reference.alias is not None:
        raise invalid(field, f"{text!r} names an alias; data has none", 'Such as "digits:2".')
    return reference
