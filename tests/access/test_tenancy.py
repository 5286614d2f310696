"""access.tenancy, over the real store on both databases"""

from collections.abc import Iterator

import pytest

from meuse.access.tenancy import Tenancy
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import SCOPES, Principal
from meuse.store.access import SqlAccess, SqlPlans
from meuse.store.database import Database


@pytest.fixture
def tenancy(database_url: str) -> Iterator[Tenancy]:
    database = Database(database_url)
    database.migrate("meuse")
    now = 1_000_000
    yield Tenancy(SqlAccess(database), SqlPlans(database), b"pepper", "test", lambda: now)
    database.close()


def admin(tenancy: Tenancy) -> Principal:
    return tenancy.authenticate(tenancy.bootstrap())


def test_the_first_key_administrates_and_is_made_once(tenancy: Tenancy) -> None:
    """bootstrap makes one administrator with every scope, and none when keys exist."""
    caller = admin(tenancy)
    assert (caller.tenant, caller.scopes) == ("default", SCOPES)
    assert tenancy.bootstrap() is None


@pytest.mark.parametrize("key", [None, "", "secret", "meuse_test_000000000000_" + "0" * 38])
def test_what_is_no_key_is_nobody(tenancy: Tenancy, key: str | None) -> None:
    """Missing, malformed and unknown keys get the same answer."""
    with pytest.raises(MeuseError) as refusal:
        tenancy.authenticate(key)
    assert refusal.value.code == Code.UNAUTHENTICATED


def test_a_key_grants_no_more_than_its_maker_has(tenancy: Tenancy) -> None:
    """No scope escalation, no key for another tenant, unless an administrator makes it."""
    caller = admin(tenancy)
    tenancy.put_tenant("acme", {})
    body = {"name": "ops", "scopes": ["keys", "infer"], "tenant": "acme"}
    _, key = tenancy.make_key(caller, body)
    theirs = tenancy.authenticate(key)
    assert theirs.tenant == "acme"
    for wish, field in (
        ({"name": "x", "scopes": ["admin"]}, "scopes"),
        ({"name": "x", "scopes": ["infer"], "tenant": "default"}, "tenant"),
    ):
        with pytest.raises(MeuseError) as refusal:
            tenancy.make_key(theirs, wish)
        assert (Code.FORBIDDEN, field) == (refusal.value.code, refusal.value.field)


def test_expired_and_revoked_keys_are_nobody(tenancy: Tenancy) -> None:
    """A key ends at its expiry by the clock, and at once when it is revoked."""
    caller = admin(tenancy)
    record, key = tenancy.make_key(
        caller, {"name": "short", "scopes": ["infer"], "expires": "1970-01-01T00:16:41Z"}
    )
    assert record.id == tenancy.authenticate(key).key
    later = Tenancy(tenancy.store, tenancy.plans, tenancy.pepper, "test", lambda: 1_001_000)
    with pytest.raises(MeuseError):
        later.authenticate(key)
    tenancy.store.revoke_key(None, record.id, 1)
    with pytest.raises(MeuseError):
        tenancy.authenticate(key)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": "a"}, "scopes"),
        ({"name": "a", "scopes": []}, "scopes"),
        ({"name": "a", "scopes": ["fly"]}, "scopes"),
        ({"name": "a", "scopes": ["infer"], "expires": "soon"}, "expires"),
        ({"name": "a", "scopes": ["infer"], "expires": "1969-01-01"}, "expires"),
        ({"name": "a", "scopes": ["infer"], "tenant": "nobody"}, "tenant"),
        ({"name": "a", "scopes": ["infer"], "tenant_id": "x"}, "tenant_id"),
    ],
)
def test_bad_key_requests_name_their_field(tenancy: Tenancy, body: dict, field: str) -> None:
    """Each mistake is named; nothing is made."""
    caller = admin(tenancy)
    with pytest.raises(MeuseError) as refusal:
        tenancy.make_key(caller, body)
    assert field == refusal.value.field
    assert len(tenancy.store.keys(None)) == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"prices": []}, "currency"),
        ({"currency": "EUR"}, "prices"),
        ({"currency": "EUR", "prices": [1]}, "prices[0]"),
        ({"currency": "EUR", "prices": [{"meter": "lines", "amount": "1"}]}, "prices[0].meter"),
        ({"currency": "EUR", "prices": [{"meter": "rows", "amount": 1}]}, "prices[0].amount"),
        ({"currency": "EUR", "prices": [{"meter": "rows", "amount": "-1"}]}, "prices[0].amount"),
        (
            {"currency": "EUR", "prices": [{"meter": "rows", "amount": "1", "per": 0}]},
            "prices[0].per",
        ),
        ({"currency": "EUR", "prices": [{"meter": "rows", "amount": "1"}] * 2}, "prices"),
        ({"currency": "EUR", "prices": [], "discount": 1}, "discount"),
    ],
)
def test_bad_plans_name_their_field(tenancy: Tenancy, body: dict, field: str) -> None:
    """A price list with a mistake is refused whole."""
    with pytest.raises(MeuseError) as refusal:
        tenancy.put_plan("basic", body)
    assert field == refusal.value.field
    assert tenancy.plans.plans() == []


def test_a_changed_plan_is_a_new_version_and_the_old_one_stays(tenancy: Tenancy) -> None:
    """Price lists are immutable by version; the same list again is the same version."""
    body = {"currency": "EUR", "prices": [{"meter": "rows", "amount": "0.50", "per": 1000}]}
    first = tenancy.put_plan("basic", body)
    assert first == tenancy.put_plan("basic", body)
    body["prices"][0]["amount"] = "0.60"
    assert tenancy.put_plan("basic", body).version == 2
    assert tenancy.plans.plan("basic", 1).prices[0].amount == "0.50"


def test_a_key_stays_in_its_project(tenancy: Tenancy) -> None:
    """A new key belongs to its maker's project; naming another one needs an administrator."""
    caller = admin(tenancy)
    body = {"name": "ops", "scopes": ["keys", "infer"], "project": "research"}
    theirs = tenancy.authenticate(tenancy.make_key(caller, body)[1])
    record, _ = tenancy.make_key(theirs, {"name": "app", "scopes": ["infer"]})
    assert record.scope.project == "research"
    with pytest.raises(MeuseError) as refusal:
        tenancy.make_key(theirs, {"name": "app", "scopes": ["infer"], "project": "default"})
    assert (refusal.value.code, refusal.value.field) == (Code.FORBIDDEN, "project")


def test_a_key_revokes_no_more_than_it_is(tenancy: Tenancy) -> None:
    """A key with `keys` alone cannot take down a key that may do more, or of another project."""
    caller = admin(tenancy)
    weak = tenancy.authenticate(tenancy.make_key(caller, {"name": "w", "scopes": ["keys"]})[1])
    strong, _ = tenancy.make_key(caller, {"name": "s", "scopes": ["keys", "deploy"]})
    apart, _ = tenancy.make_key(caller, {"name": "a", "scopes": ["keys"], "project": "research"})
    for key_id, code in ((strong.id, Code.FORBIDDEN), (apart.id, Code.NOT_FOUND)):
        with pytest.raises(MeuseError) as refusal:
            tenancy.revoke_key(weak, key_id)
        assert refusal.value.code == code
    tenancy.revoke_key(weak, weak.key)
    assert tenancy.store.key(weak.key) is None


def test_the_last_administrator_cannot_be_revoked(tenancy: Tenancy) -> None:
    """There is always a way back in; with a second administrator the first may go."""
    caller = admin(tenancy)
    with pytest.raises(MeuseError) as refusal:
        tenancy.revoke_key(caller, caller.key)
    assert refusal.value.code == Code.CONFLICT
    tenancy.make_key(caller, {"name": "second", "scopes": ["admin"]})
    tenancy.revoke_key(caller, caller.key)
    assert tenancy.store.key(caller.key) is None
