"""References to versions: `name`, `name:3`, `name@champion`; and to data: `name[:3]`."""

from __future__ import annotations

from dataclasses import dataclass

from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.ids import check_name
from meuse.core.nouns import ModelVersion, Scope
from meuse.core.ports import RegistryStore


@dataclass(frozen=True, slots=True)
class Reference:
    """At most one of `version` and `alias`; neither means the latest version."""

    name: str
    version: int | None = None
    alias: str | None = None


def parse(text: object, field: str = "model") -> Reference:
    """Raises `invalid_field` naming `field`."""
    if not isinstance(text, str) or not text:
        raise invalid(field, "a reference is missing", "Use name, name:3 or name@alias.")
    name, at, alias = text.partition("@")
    if at:
        return Reference(check_name(name, field), alias=check_name(alias, field))
    name, colon, number = text.partition(":")
    check_name(name, field)
    if not colon:
        return Reference(name)
    plain = number.isascii() and number.isdigit() and len(number) < 11
    if not plain or not 0 < int(number) < 2**31:
        raise invalid(field, f"{text!r} has no version number", "Use name:3.")
    return Reference(name, version=int(number))


def resolve(store: RegistryStore, scope: Scope, text: object, field: str = "model") -> ModelVersion:
    """The version that a reference means now. Raises `not_found` naming `field`."""
    reference = parse(text, field)
    number = reference.version
    if reference.alias is not None:
        number = store.aliases(scope, reference.name).get(reference.alias)
        if number is None:
            raise _missing(f"alias {text!r}", field)
    if number is None:
        versions = store.versions(scope, reference.name)
        if not versions:
            raise _missing(f"model {text!r}", field)
        return versions[-1]
    try:
        return store.get_version(scope, reference.name, number)
    except MeuseError:
        raise _missing(f"version {text!r}", field) from None


def _missing(what: str, field: str) -> MeuseError:
    return MeuseError(
        Code.NOT_FOUND, f"there is no {what}", field=field, hint="See GET /api/models."
    )
