"""Keys, tenants and plans as the control plane sees them: checks, then the store.

A key never grants what it does not have: only an administrator makes keys for another
tenant, and nobody makes a key with more scopes than their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from meuse.access import billing_body, keys
from meuse.access.plan_checks import check_plan
from meuse.core.billing import BillingDetails, Party, details_body, details_of
from meuse.core.clock import BUCKET_MS, Clock, bucket_start, from_rfc3339, to_rfc3339
from meuse.core.errors import Code, MeuseError, invalid, not_found
from meuse.core.fields import known
from meuse.core.ids import check_name
from meuse.core.nouns import (
    DEFAULT_PROJECT,
    SCOPES,
    KeyRecord,
    PlanVersion,
    Principal,
    Scope,
    Tenant,
)
from meuse.core.ports import AccessStore, PlanStore


@dataclass(frozen=True, slots=True)
class Tenancy:
    store: AccessStore
    plans: PlanStore
    pepper: bytes
    environment: str
    clock: Clock

    def authenticate(self, key: str | None) -> Principal:
        """Who holds this key. Raises `unauthenticated`, without saying what was wrong."""
        key_id = keys.key_id(key) if key else None
        record = self.store.key(key_id) if key_id else None
        if (
            record is not None
            and keys.matches(self.pepper, key or "", record.hash)
            and (record.expires_ms is None or record.expires_ms > self.clock())
        ):
            return Principal(record.id, record.scope.tenant, record.scope.project, record.scopes)
        raise MeuseError(
            Code.UNAUTHENTICATED,
            "the key is missing, wrong, expired or revoked",
            field="authorization",
            hint="Send the header Authorization: Bearer <key>.",
        )

    def make_key(self, caller: Principal, body: Mapping[str, Any]) -> tuple[KeyRecord, str]:
        """Mint a key from {name, scopes, tenant?, project?, expires?}: (record, key)."""
        known(body, {"name", "scopes", "tenant", "project", "expires"})
        name = check_name(body.get("name"))
        scopes = body.get("scopes")
        if (
            not isinstance(scopes, list)
            or not scopes
            or not SCOPES.issuperset(s if isinstance(s, str) else "" for s in scopes)
        ):
            raise invalid(
                "scopes", f"{scopes!r} is not a list of scopes", f"Known: {sorted(SCOPES)}."
            )
        tenant = caller.tenant if body.get("tenant") is None else body["tenant"]
        own = caller.project if tenant == caller.tenant else DEFAULT_PROJECT
        project = check_name(own if body.get("project") is None else body["project"], "project")
        if "admin" not in caller.scopes:
            for field, asked, mine in (
                ("tenant", tenant, caller.tenant),
                ("project", project, caller.project),
            ):
                if asked != mine:
                    raise MeuseError(
                        Code.FORBIDDEN,
                        f"only an administrator makes keys for another {field}",
                        field=field,
                    )
            if not set(scopes) <= caller.scopes:
                raise MeuseError(
                    Code.FORBIDDEN,
                    "a key cannot grant scopes that it does not have",
                    field="scopes",
                    hint=f"Yours has {sorted(caller.scopes)}.",
                )
        self.store.tenant(check_name(tenant, "tenant"))
        expires = body.get("expires")
        expires_ms = None if expires is None else from_rfc3339(str(expires), "expires")
        if expires_ms is not None and expires_ms <= self.clock():
            raise invalid("expires", "the key would have expired already")
        return self._mint(name, Scope(tenant, project), frozenset(scopes), expires_ms)

    def revoke_key(self, caller: Principal, key_id: str) -> None:
        """Revoke a key that can do no more than the caller's; the last administrator stays."""
        record = self.store.key(key_id)
        admin = "admin" in caller.scopes
        if record is None or (not admin and record.scope != caller.scope):
            raise not_found("key", key_id)
        if not admin and not record.scopes <= caller.scopes:
            raise MeuseError(
                Code.FORBIDDEN,
                "a key cannot revoke one that may do more",
                field="scopes",
                hint=f"It has {sorted(record.scopes)}.",
            )
        if "admin" in record.scopes and self._last_administrator(record.id):
            raise MeuseError(
                Code.CONFLICT,
                "this is the last administrator's key",
                field="key_id",
                hint="Make another one first.",
            )
        self.store.revoke_key(None, key_id, self.clock())

    def _last_administrator(self, key_id: str) -> bool:
        now = self.clock()
        return not any(
            "admin" in key.scopes
            and key.id != key_id
            and (key.expires_ms is None or key.expires_ms > now)
            for key in self.store.keys(None)
        )

    def bootstrap(self, keep: Callable[[str], None] = lambda key: None) -> str | None:
        """The administrator's key on the first start; None when keys exist.

        `keep` has the key before it counts: one that nobody was given would lock the home.
        """
        if self.store.keys(None):
            return None
        self.store.put_tenant("default", None)
        return self._mint("administrator", Scope("default"), SCOPES, None, keep)[1]

    def put_tenant(self, name: str, body: Mapping[str, Any]) -> Tenant:
        """Raises `conflict` for a plan in another currency, unless the tenant has had none for
        a whole quarter of an hour: usage is invoiced by such quarters, each in one currency."""
        known(body, {"plan"})
        plan = body.get("plan")
        if plan is not None:
            wanted = self.plans.plan(check_name(plan, "plan"))
            self._check_currency(check_name(name, "tenant"), wanted)
        return self.store.put_tenant(check_name(name, "tenant"), plan)

    def put_billing(self, name: str, body: Mapping[str, Any]) -> BillingDetails:
        """Keep how a tenant is invoiced (`billing_body.read`) from now on; what is issued stays
        as it is. Raises `not_found` for the tenant."""
        self.store.tenant(check_name(name, "tenant"))
        details = billing_body.read(body)
        self.store.put_billing(name, details_body(details))
        return details

    def billing(self, name: str) -> BillingDetails:
        """How a tenant is invoiced; by its name alone when nobody has said more."""
        self.store.tenant(check_name(name, "tenant"))
        kept = self.store.billing(name)
        return BillingDetails(party=Party(name=name)) if kept is None else details_of(kept)

    def _check_currency(self, tenant: str, wanted: PlanVersion) -> None:
        changes = self.store.plan_changes(tenant)
        had = next((plan for _, plan in reversed(changes) if plan is not None), None)
        if had is None:
            return
        currency = self.plans.plan(had).currency
        since, now_has = changes[-1]
        free = bucket_start(since + BUCKET_MS - 1) + BUCKET_MS
        if currency == wanted.currency or (now_has is None and self.clock() >= free):
            return
        when = "a whole quarter of an hour later" if now_has else f"from {to_rfc3339(free)} on"
        raise MeuseError(
            Code.CONFLICT,
            f"tenant {tenant!r} has paid in {currency} by plan {had!r}; {wanted.name!r} is in "
            f"{wanted.currency}, and usage of a quarter of an hour is invoiced in one currency",
            field="plan",
            hint=f'Take the plan off ({{"plan": null}}) and put the new one on {when}. Usage '
            "between is unrated: rate it with unrated_as when you invoice.",
        )

    def put_plan(self, name: str, body: Mapping[str, Any]) -> PlanVersion:
        """From a body as `plan_body.PlanBody` has it; a change is a new version."""
        return self.plans.put_plan(check_plan(name, body))

    def plan_of(self, tenant: str) -> PlanVersion | None:
        """The price list that a tenant pays by now."""
        plan = self.store.tenant(tenant).plan
        return None if plan is None else self.plans.plan(plan)

    def _mint(
        self,
        name: str,
        scope: Scope,
        scopes: frozenset[str],
        expires_ms: int | None,
        keep: Callable[[str], None] = lambda key: None,
    ) -> tuple[KeyRecord, str]:
        key_id, key = keys.mint(self.environment)
        record = KeyRecord(
            id=key_id,
            hash=keys.digest(self.pepper, key),
            name=name,
            scope=scope,
            scopes=scopes,
            created_ms=self.clock(),
            expires_ms=expires_ms,
        )
        keep(key)
        self.store.add_key(record)
        return record, key
