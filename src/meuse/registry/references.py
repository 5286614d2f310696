"""What a reference to a version means now."""

from __future__ import annotations

from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.nouns import GENERATION, ModelVersion, Scope
from meuse.core.ports import RegistryStore
from meuse.core.references import parse


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


def of_rows(store: RegistryStore, scope: Scope, text: object, field: str = "model") -> ModelVersion:
    """As `resolve`, of a version that takes rows. Raises `invalid_field` for a language model."""
    version = resolve(store, scope, text, field)
    if version.task == GENERATION:
        raise invalid(
            field,
            f"{version.ref} is a language model: it takes no rows",
            "Deploy it, and ask /v1/chat/completions.",
        )
    return version


def _missing(what: str, field: str) -> MeuseError:
    return MeuseError(
        Code.NOT_FOUND, f"there is no {what}", field=field, hint="See GET /api/models."
    )
