"""registry.references"""

from collections.abc import Iterator

import pytest

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Artifact, Lineage, NewVersion, Scope, Signature
from meuse.core.references import Reference, parse
from meuse.registry.references import resolve
from meuse.store.database import Database
from meuse.store.registry import SqlRegistry

MINE = Scope("acme")


@pytest.fixture
def registry(tmp_path) -> Iterator[SqlRegistry]:
    database = Database(f"sqlite:///{tmp_path}/meuse.db")
    database.migrate("meuse")
    store = SqlRegistry(database)
    for number in (1, 2, 3):
        store.add_version(
            MINE,
            NewVersion(
                "digits", "classification", (Artifact("m", "onnx", "a" * 64, 1),),
                Signature((), ()), {}, Lineage(f"job-{number}", "d:1", "", "", 0, "y"),
            ),
        )  # fmt: skip
    store.set_alias(MINE, "digits", "champion", 2)
    yield store
    database.close()


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("digits", Reference("digits")),
        ("digits:3", Reference("digits", version=3)),
        ("digits@champion", Reference("digits", alias="champion")),
    ],
)
def test_three_forms(text: str, reference: Reference) -> None:
    """name, name:3 and name@alias are understood."""
    assert reference == parse(text)


@pytest.mark.parametrize(
    "text",
    ["", None, 3, "Digits", "digits:", "digits:0", "digits:-1", "digits:x", "digits:²", "a@", "a@B",
     "a:1@b", "a:99999999999", "../etc"],
)  # fmt: skip
def test_other_forms_name_their_field(text: object) -> None:
    """Anything else is refused under the field it came in."""
    with pytest.raises(MeuseError) as refusal:
        parse(text, "targets[0].model")
    assert (refusal.value.code, refusal.value.field) == (Code.INVALID_FIELD, "targets[0].model")


def test_references_resolve_to_a_version(registry: SqlRegistry) -> None:
    """A bare name is the latest version, a number that one, an alias where it points."""
    assert resolve(registry, MINE, "digits").version == 3
    assert resolve(registry, MINE, "digits:1").version == 1
    assert resolve(registry, MINE, "digits@champion").version == 2


@pytest.mark.parametrize("text", ["nothing", "digits:4", "digits@none"])
def test_what_is_not_there_is_named(registry: SqlRegistry, text: str) -> None:
    """A reference to nothing is not_found under its field; so is another tenant's."""
    for scope in (MINE, Scope("other")):
        with pytest.raises(MeuseError) as refusal:
            resolve(registry, scope, text, "spec.model")
        assert (refusal.value.code, refusal.value.field) == (Code.NOT_FOUND, "spec.model")
